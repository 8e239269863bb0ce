"""Search both families: `make search` (the second step of `make tune`)."""

from pipelines.work import Work
from tuning import families, family_search


def search(work: Work) -> None:
    """Search A, then B, each until its share of the time is used up."""
    share = 0.0
    for letter, chosen in families.FAMILIES.items():
        share += chosen.settings(work.settings).search_share
        family_search.search_family(work.job(letter, share))
