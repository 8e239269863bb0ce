"""Train the best settings again, for longer: `make train`. Reads the searches' journals."""

from pipelines.work import Work
from tuning import families, finalists


def train(work: Work) -> None:
    """Train and export one candidate per family, each until its share of the time is used up.

    B goes first: it finishes its epochs early, and A can use the time that is left.
    """
    parts = {one.letter: one.settings(work.settings) for one in families.FAMILIES.values()}
    share = sum(part.search_share for part in parts.values())
    for letter in reversed(parts):
        share += parts[letter].final_share
        finalists.train_finalists(work.job(letter, share))
