"""What single choices behind the defaults are worth: `make ablate MODEL=A DATA=train_val`.

MINUTES ends it; the same command goes on.
"""

from pipelines.work import Work
from tuning import retrain


def ablate(work: Work, *, model: str, seeds: int = 2, epochs: int | None = None) -> None:
    """Train and compare a network's defaults, and these with each of config.ABLATIONS undone."""
    folder = work.folder / f"ablation-{model}"
    folder.mkdir(exist_ok=True)
    retrain.compare(
        retrain.changed_defaults(
            model, work.faces, work.settings, work.cache, seeds=seeds, epochs=epochs
        ),
        "ablation",
        work.faces,
        folder=folder,
        cache=work.cache,
        stop_at=work.stop_at(1.0),
        report=work.display,
    )
