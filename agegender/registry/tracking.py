"""Runs, metrics, figures, datasets and looks at the test, kept by MLflow.

What the rest of the project knows of MLflow. Runs are named by their id and there is no
'active run', so runs may be nested, and open in several threads, at will.
"""

import contextlib
import datetime
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.figure
import mlflow
import pandas as pd

from agegender import records
from agegender.data import pixels
from agegender.registry import access, provenance

T = TypeVar("T")
PAGES = "pages"  # the experiment of what is written for readers
EPOCHS = "epochs/"  # what the names of all series of epochs begin with
SAMPLING_SECONDS = 10  # of CPU, memory and so on
# One thread, so that epochs are written in their order. MLflow's own asynchronous logging drops a
# batch that it could not write, and says so only to a log.
_writer = futures.ThreadPoolExecutor(1, "epochs")
_unwritten: dict[str, list[futures.Future]] = {}
_last_epochs: dict[str, float] = {}  # of runs to go on with


def connect(root: Path) -> str:
    """Open the tracking store and return its URI, with which MLflow finds it elsewhere.

    MLFLOW_TRACKING_URI if it is set, else an SQLite database at `root`/mlruns/mlflow.db. An SQLite
    store is made on first use, under a lock, so that several processes may begin at once; its
    artifacts lie beside it. If its folder was moved or copied since, the paths inside are mended
    and a line on standard error says so. ValueError as in `access.address` and `access.check`; a
    server that goes away later is asked again for ten minutes by each call.
    """
    given = os.environ.get(access.TRACKING)
    uri, registry = access.uri(root), access.address(access.REGISTRY)
    if database := access.database(uri):
        access.prepare(database)
        uri = f"sqlite:///{database}"
    else:
        access.check(uri)
    if registry:
        access.check(registry, access.REGISTRY)
        os.environ[access.REGISTRY] = registry
    use(uri)
    if not given:
        # MLflow exports it too: a later connect to another root must not take it for the user's.
        os.environ.pop(access.TRACKING, None)
    return uri


def current_uri() -> str:
    """Return the URI of the store in use, for another process to `use`."""
    return mlflow.get_tracking_uri()


def use(uri: str) -> None:
    """Use a store that `connect` opened in another process."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at each run's end
    # After 0, 4, 8, 16, 32, 64, 120 s and then each 120 s; MLflow takes no more than 10.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")
    mlflow.set_tracking_uri(uri)


def _experiment_id(name: str) -> str:
    """Return an experiment's id; make it where there is none."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        database = access.database(mlflow.get_tracking_uri())
        location = str(database.parent / "artifacts" / name) if database else None
        try:
            # Without the tag the UI guesses, and shows what it has for chat models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location=location, tags=kind)
        except mlflow.MlflowException:
            found = client.get_experiment_by_name(name)  # Another process was quicker.
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ValueError(
            f"The MLflow experiment {name!r} was deleted. Restore it: mlflow experiments restore "
            f"--experiment-id {found.experiment_id}"
        )
    return found.experiment_id


@contextlib.contextmanager
def run(
    name: str,
    *,
    experiment: str,
    parent_run_id: str | None = None,
    run_id: str | None = None,
    tags: dict[str, str] | None = None,
    params: dict[str, object] | None = None,
    description: str | None = None,
) -> Iterator[str]:
    """Open a run and yield its id; it ends FINISHED, FAILED on an error, KILLED when interrupted.

    Errors and interruptions are raised again, those of `log_epoch` too. An error's traceback
    becomes the artifact traceback.txt.

    run_id: a run to go on with; where the store no longer has it, a new one is made.
    """
    client = mlflow.MlflowClient()
    tags = (tags or {}) | provenance.process() | {"mlflow.user": provenance.user()}
    tags["mlflow.source.name"] = Path(sys.argv[0]).name or "python"
    if parent_run_id:
        tags["mlflow.parentRunId"] = parent_run_id
    if description:
        tags["mlflow.note.content"] = description
    found = find(client.get_run, run_id) if run_id else None
    if run_id and found and found.info.lifecycle_stage == "active":
        for mark in {"error", "killed"} & found.data.tags.keys():
            client.delete_tag(run_id, mark)
        client.update_run(run_id, status="RUNNING")
        _last_epochs[run_id] = history(run_id)["epoch"].max()
        set_tags(run_id, tags)
    else:
        run_id = client.create_run(_experiment_id(experiment), tags=tags, run_name=name).info.run_id
    status = "KILLED"
    try:
        settings = [mlflow.entities.Param(*map(str, each)) for each in (params or {}).items()]
        client.log_batch(run_id, params=settings)
        yield run_id
        for epoch in _unwritten.get(run_id, []):
            epoch.result()
        status = "FINISHED"
    except Exception as error:
        status = "FAILED"
        set_tags(run_id, {"error": f"{type(error).__name__}: {error}"[:500]})
        log_text(run_id, traceback.format_exc(), "traceback.txt")
        raise
    finally:
        futures.wait(_unwritten.pop(run_id, []))
        _last_epochs.pop(run_id, None)
        client.set_terminated(run_id, status)


@contextlib.contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Let MLflow's own monitor log CPU, memory, disk, network and GPU, at least once.

    The GPU where nvidia-ml-py is installed, as with CUDA.
    """
    from mlflow.system_metrics import system_metrics_monitor  # Needs psutil, the pipelines have it.

    monitor = system_metrics_monitor.SystemMetricsMonitor(
        run_id, sampling_interval=SAMPLING_SECONDS, resume_logging=True
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        for each in monitor.monitors:
            each.clear_metrics()
        monitor.collect_metrics()  # Of the time since the last sample.
        with contextlib.suppress(mlflow.MlflowException):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()


def find_child(parent_run_id: str, name: str) -> str | None:
    """Return the id of a run's child of that name, the newest; None where there is none."""
    client = mlflow.MlflowClient()
    found = client.search_runs(
        [client.get_run(parent_run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`mlflow.runName` = '{name}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0].info.run_id if found else None


def end_failed(run_id: str, reason: str) -> None:
    """End a run whose process could not do it."""
    set_tags(run_id, {"error": reason[:500]})
    mlflow.MlflowClient().set_terminated(run_id, "FAILED")


def find(call: Callable[..., T], *arguments: object) -> T | None:
    """Return what a call of MLflow returns, None where it says that there is no such thing."""
    try:
        return call(*arguments)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def repair_stale_runs(experiment: str) -> int:
    """Mark KILLED the runs that dead processes of this host left RUNNING; return how many.

    A process is known by its number and the time it began: numbers are used again.
    """
    count = 0
    for stale in search(experiment, "attributes.status = 'RUNNING'"):
        tags = stale.data.tags
        pid = tags.get("process.id", "")
        if tags.get("process.host") != platform.node() or not pid.isdigit():
            continue
        if provenance.process_start(int(pid)) != tags.get("process.start"):
            found = datetime.datetime.now().isoformat(" ", "seconds")
            set_tags(stale.info.run_id, {"killed": f"process {pid} was gone, found {found}"})
            mlflow.MlflowClient().set_terminated(stale.info.run_id, "KILLED")
            count += 1
    return count


def search(
    experiment: str,
    condition: str = "",
    order: str = "attributes.start_time ASC",
    most: int = 100_000,
) -> list[mlflow.entities.Run]:
    """Return the first `most` runs of an experiment that meet a condition, the oldest first."""
    return mlflow.search_runs(
        [_experiment_id(experiment)],
        condition,
        max_results=most,
        order_by=[order],
        output_format="list",
    )


def best_trials(experiment: str, tags: dict[str, str], count: int) -> dict[str, dict[str, str]]:
    """Return, by run_id, the params of the finished trials with these tags and the best val_score.

    MLflow keeps params as text. The lowest val_score comes first.
    """
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    conditions += ["tags.role = 'trial'", "attributes.status = 'FINISHED'"]
    found = search(experiment, " and ".join(conditions), "metrics.val_score ASC", count)
    return {run.info.run_id: run.data.params for run in found if "val_score" in run.data.metrics}


def log_epoch(run_id: str, row: Mapping[str, Any]) -> None:
    """Log an epoch, at once but without waiting: training goes on meanwhile.

    Step 1 is the end of epoch 0: what `log_metrics` says of the whole run keeps the plain name, and
    step 0. Epochs are written in the order of the calls; the end of `run` waits for all of them.
    Those that a run to go on with has in the store already are not written again.
    """
    if row["epoch"] <= _last_epochs.get(run_id, -1):
        return
    now = time.time_ns() // 1_000_000
    metrics = [
        mlflow.entities.Metric(_series(name), float(value), now, int(row["epoch"]) + 1)
        # A comparison of runs opens on what came first.
        for name, value in sorted(row.items(), key=lambda column: column[0] != "val_score")
        if name not in ("epoch", "phase")
    ]
    _unwritten.setdefault(run_id, []).append(_writer.submit(_log_batch, run_id, metrics))


def history(run_id: str) -> pd.DataFrame:
    """Return what `log_epoch` wrote, a row an epoch; empty where nothing was."""
    client = mlflow.MlflowClient()
    columns: dict[str, dict[int, float]] = {}
    for series in client.get_run(run_id).data.metrics:
        if series.startswith(EPOCHS):
            points = client.get_metric_history(run_id, series)
            of_column = columns.setdefault(_column(series), {})
            of_column.update({point.step - 1: point.value for point in points})
    return pd.DataFrame(columns).sort_index().rename_axis("epoch").reset_index()


def _series(column: str) -> str:
    """Return what a column of a history is called in a run.

    The UI's sections are what stands before the last slash: the first has val_score alone, the
    others training and validation of one metric side by side.
    """
    if column == "val_score":
        return f"{EPOCHS}{column}"
    name = column.removeprefix("val_")
    return f"{EPOCHS}{name}/{'training' if name == column else 'validation'}"


def _column(series: str) -> str:
    """Return the column that a series is; earlier versions of this project put nothing behind."""
    name, _, split = series.removeprefix(EPOCHS).partition("/")
    return f"val_{name}" if split == "validation" else name


def log_metrics(run_id: str, metrics: dict[str, float], step: int = 0) -> None:
    """Log numbers that hold for the whole run, or until the next step."""
    now = time.time_ns() // 1_000_000
    entries = [mlflow.entities.Metric(name, float(v), now, step) for name, v in metrics.items()]
    _log_batch(run_id, entries)


def _log_batch(run_id: str, metrics: list[mlflow.entities.Metric]) -> None:
    # MLflow would show infinity as 1.8e308 and NaN as a value of its own: name them instead.
    finite = [metric for metric in metrics if math.isfinite(metric.value)]
    mlflow.MlflowClient().log_batch(run_id, finite)
    if odd := sorted({metric.key for metric in metrics if not math.isfinite(metric.value)}):
        set_tags(run_id, {"metrics_not_finite": ", ".join(odd)})


def set_tags(run_id: str, tags: dict[str, str]) -> None:
    """Set or replace tags."""
    entries = [mlflow.entities.RunTag(name, str(value)) for name, value in tags.items()]
    mlflow.MlflowClient().log_batch(run_id, tags=entries)


def log_figure(run_id: str, figure: matplotlib.figure.Figure, name: str) -> None:
    """Keep a figure as the artifact `name`, a .png."""
    mlflow.MlflowClient().log_figure(run_id, figure, name)


def log_network(run_id: str, network: Any) -> None:
    """Keep what a network is made of: its number of parameters, its summary and its layers."""
    from agegender.networks import models  # Imports Keras.

    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=100)
    log_metrics(run_id, {"parameters": network.count_params()})
    log_text(run_id, "\n".join(lines), records.SUMMARY)
    log_text(run_id, json.dumps(models.layers(network)), records.LAYERS)


def log_text(run_id: str, text: str, name: str) -> None:
    """Keep a text as the artifact `name`."""
    mlflow.MlflowClient().log_text(run_id, text, name)


def log_table(run_id: str, table: pd.DataFrame, name: str) -> None:
    """Keep a table, without its index, as the artifact `name`, a .csv."""
    log_text(run_id, table.to_csv(index=False), name)


def log_file(run_id: str, path: Path) -> None:
    """Keep a file as an artifact of its own name."""
    mlflow.MlflowClient().log_artifact(run_id, str(path))


def log_dataset(run_id: str, faces: pixels.Faces, context: str) -> None:
    """Link a run to its faces, which MLflow does not copy; context: what they were used for."""
    columns = [{"type": "string", "name": name} for name in ("name", "split")]
    columns += [{"type": "long", "name": name} for name in ("age_years", "gender", "race")]
    # mlflow.data.from_pandas would infer this from the rows, with two warnings and 20 ms a run.
    dataset = mlflow.entities.Dataset(
        name=faces.kind,
        digest=faces.digest,
        source_type="local",
        source=json.dumps({"uri": str(faces.folder / "manifest.csv")}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(
            {"num_rows": len(faces.manifest)} | faces.manifest["split"].value_counts().to_dict()
        ),
    )
    tag = mlflow.entities.InputTag("mlflow.data.context", context)
    inputs = [mlflow.entities.DatasetInput(dataset, [tag])]
    twice(mlflow.MlflowClient().log_inputs, run_id, inputs)


def twice(write: Callable, *arguments) -> None:
    """Call again what failed: where two processes make the same row at once, the store refuses one.

    Now it is there, to be replaced or linked to.
    """
    try:
        write(*arguments)
    except mlflow.MlflowException:
        write(*arguments)


def read_text(run_id: str, name: str) -> str | None:
    """Return the artifact `name`, a text at the top of a run; None where the run has none."""
    if name not in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}:
        return None
    return mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")
