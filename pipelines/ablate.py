"""Measure what each default is worth: `make ablate MODEL=A DATA=data/train_val`.

It stops after MINUTES; the same command continues it.
"""

from pipelines.work import Work
from tuning import retrain


def ablate(work: Work, *, model: str, seeds: int = 2, epochs: int | None = None) -> None:
    """Train a network's defaults and each of config.ABLATIONS, and compare them."""
    retrain.ablate(work.job(model), seeds=seeds, epochs=epochs)
