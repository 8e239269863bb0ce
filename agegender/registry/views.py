"""The trials of a search as MLflow's pages show them: which runs, in what columns and order."""

import json

import mlflow

from agegender.registry import tracking

_TAG, _NOTE = "mlflow.sharedViewState.", "mlflow.note.content"
_COLUMN_PIXELS = 150  # "val_gender_accuracy" fits
MOST_SEARCHES = 10


def save(run_id: str, *, metrics: list[str], params: list[str]) -> None:
    """Keep a view of the trials of a search, and link it from the search and its experiment.

    As the UI keeps what one shares; the lowest figure of the first metric comes first.

    run_id: of the search, the trials' parent. metrics, params: the columns, in their order.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    columns = [f"metrics.`{metric}`" for metric in metrics] + [f"params.`{p}`" for p in params]
    view = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}' and tags.role = 'trial'",
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,  # The UI's own is by name.
        "columnWidths": dict.fromkeys(columns, _COLUMN_PIXELS),
    }
    tracking.twice(client.set_experiment_tag, experiment_id, _TAG + run_id, json.dumps(view))
    links = [f"[{name}]({url[1:]})" for name, url in addresses(experiment_id)]
    note = "A run for each search, in it one for each trial. `val_score`: 1 is trivial, lower is "
    note += f"better. The trials of the last searches, the best first: {', '.join(links)}."
    tracking.twice(client.set_experiment_tag, experiment_id, _NOTE, note)
    link = f"[Its trials, the best first]({address(run_id)[1:]})"
    tracking.set_tags(run_id, {_NOTE: f"{run.data.tags.get(_NOTE, '')}\n\n{link}"})


def address(run_id: str) -> str:
    """Return where the UI shows the trials of a search: what follows its host."""
    client = mlflow.MlflowClient()
    run, key = client.get_run(run_id), run_id
    experiment = client.get_experiment(run.info.experiment_id)
    if _TAG + key not in experiment.tags:  # Earlier, a family had one view for all its searches.
        key = f"trials-{run.data.tags.get('family')}"
    page = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    return f"{page}&viewStateShareKey={key}"


def addresses(experiment_id: str | None = None) -> list[tuple[str, str]]:
    """Return name and `address` of the last searches, the newest first.

    experiment_id: of this one alone.
    """
    found = mlflow.search_runs(
        [experiment_id] if experiment_id else None,
        "tags.role = 'search'",
        max_results=MOST_SEARCHES,
        order_by=["attributes.start_time DESC"],
        output_format="list",
        search_all_experiments=experiment_id is None,
    )
    return [(run.info.run_name, address(run.info.run_id)) for run in found]
