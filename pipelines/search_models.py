"""Search both families: `make search` (the first two steps of `make tune` after the faces)."""

from pipelines import command_line
from tuning import families


def search(work: command_line.Work) -> None:
    """Search A, then B, each until its share of the time is used up."""
    share = 0.0
    for family, name in families.FAMILIES.items():
        share += getattr(work.settings, name).search_share
        families.search_family(
            family,
            work.faces,
            work.settings,
            folder=work.folder / family,
            cache=work.cache,
            stop_at=work.stop_at(share),
            report=work.display,
        )
