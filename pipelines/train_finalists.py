"""Train the best settings again, longer: `make train`. Takes the searches' journals."""

from pipelines import command_line
from tuning import families


def train(work: command_line.Work) -> None:
    """Train and export a candidate of each family, each until its share of the time is used up.

    B goes first: it soon has all the epochs that it wants, and A can use what that leaves.
    """
    parts = {family: getattr(work.settings, name) for family, name in families.FAMILIES.items()}
    share = sum(part.search_share for part in parts.values())
    for family in reversed(parts):
        share += parts[family].final_share
        families.train_finalists(
            family,
            work.faces,
            work.settings,
            folder=work.folder / family,
            cache=work.cache,
            stop_at=work.stop_at(share),
            report=work.display,
        )
