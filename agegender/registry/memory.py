"""What the store knows of earlier searches on the same faces."""

import dataclasses
from typing import Any

import mlflow


@dataclasses.dataclass(frozen=True)
class Remembered:
    """A finished trial of an earlier search.

    params: what its run shows of its setting; MLflow keeps them as text.
    """

    run_id: str
    params: dict[str, str]
    val_score: float


def best_trials(experiment: str, tags: dict[str, str], count: int) -> list[Remembered]:
    """Return the finished trials with these tags that have the lowest val_score, the best first."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    runs = client.search_runs(
        [found.experiment_id],
        " and ".join([*conditions, "tags.role = 'trial'", "attributes.status = 'FINISHED'"]),
        order_by=["metrics.val_score ASC"],
        max_results=count,
    )
    return [_remembered(run) for run in runs if "val_score" in run.data.metrics]


def _remembered(run: Any) -> Remembered:
    return Remembered(run.info.run_id, run.data.params, run.data.metrics["val_score"])
