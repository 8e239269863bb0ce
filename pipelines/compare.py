"""Compare the best settings of a finished search over several seeds: `make compare`.

Takes the variables of the search. MINUTES ends it; the same command goes on.
"""

from pipelines.work import Work
from tuning import families, retrain


def compare(
    work: Work,
    *,
    family: str = "both",
    settings: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
) -> None:
    """Train and compare the best `settings` of a family, or of both, over `seeds` seeds."""
    asked = list(families.FAMILIES) if family == "both" else [family]
    for number, name in enumerate(asked, start=1):
        folder = work.folder / name
        retrain.compare(
            retrain.best_settings(
                name, work.faces, work.settings, folder, count=settings, seeds=seeds, epochs=epochs
            ),
            "leaderboard",
            work.faces,
            folder=folder,
            cache=work.cache,
            stop_at=work.stop_at(number / len(asked)),
            report=work.display,
        )
