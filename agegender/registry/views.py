"""The tables of runs that MLflow's pages show: which runs, in what columns and order."""

import json

import mlflow

from agegender.registry import tracking

_TAG = "mlflow.sharedViewState."
_COLUMN_PIXELS = 150  # "val_gender_accuracy" fits


def save(run_id: str, name: str, *, condition: str, metrics: list[str], params: list[str]) -> None:
    """Keep a view of the runs of a run's experiment: which, in what columns, by the first metric.

    What the UI itself keeps when one shares a view; the lowest figure comes first. condition: as in
    MLflow's search.
    """
    client = mlflow.MlflowClient()
    columns = [f"metrics.`{metric}`" for metric in metrics] + [f"params.`{p}`" for p in params]
    view = {
        "searchFilter": condition,
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,  # The UI's own is by name.
        "columnWidths": dict.fromkeys(columns, _COLUMN_PIXELS),
    }
    experiment_id = client.get_run(run_id).info.experiment_id
    _set_experiment_tag(experiment_id, _TAG + name, json.dumps(view))
    links = [f"[{key}]({address[1:]})" for (_, key), address in addresses(experiment_id).items()]
    note = "A run for each search, in it one for each trial. `val_score`: 1 is trivial, lower is "
    note += f"better. The best first: {', '.join(links)}."
    _set_experiment_tag(experiment_id, "mlflow.note.content", note)


def _set_experiment_tag(experiment_id: str, name: str, value: str) -> None:
    tracking.twice(mlflow.MlflowClient().set_experiment_tag, experiment_id, name, value)


def addresses(experiment_id: str | None = None) -> dict[tuple[str, str], str]:
    """Return where the UI shows each kept view, by experiment and name: what follows its host.

    experiment_id: of this one alone.
    """
    return {
        (experiment.name, name): f"/#/experiments/{experiment.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={name}"
        for experiment in mlflow.MlflowClient().search_experiments()
        if experiment_id in (None, experiment.experiment_id)
        for tag in sorted(experiment.tags)
        if (name := tag.removeprefix(_TAG)) != tag
    }
