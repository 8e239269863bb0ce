"""What single choices behind the defaults are worth: `make ablate MODEL=A DATA=train_val`.

MINUTES ends it; the same command goes on.
"""

from pipelines.work import Work
from tuning import retrain


def ablate(work: Work, *, model: str, seeds: int = 2, epochs: int | None = None) -> None:
    """Train and compare a network's defaults, and these with each of config.ABLATIONS undone."""
    retrain.ablate(work.job(model), seeds=seeds, epochs=epochs)
