"""Train the best settings again, longer: `make train`. Takes the searches' journals."""

from pipelines.work import Work
from tuning import families, finalists


def train(work: Work) -> None:
    """Train and export a candidate of each family, each until its share of the time is used up.

    B goes first: it soon has all the epochs that it wants, and A can use what that leaves.
    """
    parts = {one.letter: one.settings(work.settings) for one in families.FAMILIES.values()}
    share = sum(part.search_share for part in parts.values())
    for letter in reversed(parts):
        share += parts[letter].final_share
        finalists.train_finalists(work.job(letter, share))
