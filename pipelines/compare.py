"""Compare the best settings of a finished search over several seeds: `make compare`.

Give it the variables of the search. It stops after MINUTES; the same command continues it.
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
    """Train and compare the best `settings` settings of one or both families over `seeds` seeds."""
    asked = list(families.FAMILIES) if family == "both" else [family]
    for number, letter in enumerate(asked, start=1):
        job = work.job(letter, number / len(asked))
        retrain.compare_best(job, count=settings, seeds=seeds, epochs=epochs)
