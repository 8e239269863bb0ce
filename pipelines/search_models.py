"""Search both families: `make search` (the first two steps of `make tune` after the faces)."""

from tuning import fork_server

if __name__ == "__main__":
    fork_server.start()  # before what takes seconds to import

from pipelines import command_line  # noqa: E402
from tuning import families  # noqa: E402


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
        )


if __name__ == "__main__":
    command_line.run(__doc__, search)
