"""Keep runs, metrics, figures, datasets and looks at the test in MLflow.

This is the project's interface to MLflow. Runs are named by their id and there is no 'active run',
so runs may be nested or open in several threads.
"""

import contextlib
import datetime
import functools
import json
import os
import platform
import sys
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
from agegender.registry import access, epochs, provenance

T = TypeVar("T")
PAGES = "pages"  # the experiment with the pages written for readers
SAMPLING_SECONDS = 10  # for CPU, memory and so on
_open: dict[str, epochs.Writer] = {}  # of the runs that are open


def connect(root: Path) -> str:
    """Open the tracking store and return its URI, by which MLflow finds it elsewhere.

    It is MLFLOW_TRACKING_URI if set, else an SQLite database at `root`/mlruns/mlflow.db. An SQLite
    store is created on first use under a lock, so that several processes may start at once; its
    artifacts lie beside it. If its folder was moved or copied, the paths inside are repaired and a
    line on standard error says so. Raises ValueError as `access.address` and `access.check` do. If
    a server goes away later, each call retries for ten minutes.
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
        # MLflow exports it too; a later connect to another root must not take it for the user's.
        os.environ.pop(access.TRACKING, None)
    return uri


def current_uri() -> str:
    """Return the URI of the store in use, for another process to `use`."""
    return mlflow.get_tracking_uri()


def use(uri: str) -> None:
    """Use a store that `connect` opened in another process."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at each run's end
    # After 0, 4, 8, 16, 32, 64, 120 s and then every 120 s; MLflow allows at most 10.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")
    mlflow.set_tracking_uri(uri)


def _experiment_id(name: str) -> str:
    """Return an experiment's id; create the experiment if there is none."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        database = access.database(mlflow.get_tracking_uri())
        location = str(database.parent / "artifacts" / name) if database else None
        try:
            # Without this tag, the UI guesses and shows its pages for chat models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location=location, tags=kind)
        except mlflow.MlflowException:
            found = client.get_experiment_by_name(name)  # Another process was faster.
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

    Errors, including those of `log_epoch` and `log_metrics`, and interruptions are re-raised. An
    error's traceback becomes the artifact traceback.txt.

    run_id: a run to resume; if the store no longer has it, a new one is created.
    """
    client = mlflow.MlflowClient()
    tags = (tags or {}) | provenance.process() | {"mlflow.user": provenance.user()}
    tags["mlflow.source.name"] = Path(sys.argv[0]).name or "python"
    if parent_run_id:
        tags["mlflow.parentRunId"] = parent_run_id
    if description:
        tags["mlflow.note.content"] = description
    found = find(client.get_run, run_id) if run_id else None
    last_epoch = -1
    if run_id and found and found.info.lifecycle_stage == "active":
        for mark in {"error", "killed"} & found.data.tags.keys():
            client.delete_tag(run_id, mark)
        client.update_run(run_id, status="RUNNING")
        last_epoch = epochs.history(run_id)["epoch"].max()
        set_tags(run_id, tags)
    else:
        run_id = client.create_run(_experiment_id(experiment), tags=tags, run_name=name).info.run_id
    _open[run_id] = epochs.Writer(run_id, last_epoch)
    status = "KILLED"
    try:
        settings = [mlflow.entities.Param(*map(str, each)) for each in (params or {}).items()]
        client.log_batch(run_id, params=settings)
        yield run_id
        for write in _open[run_id].end():
            write.result()
        status = "FINISHED"
    except Exception as error:
        status = "FAILED"
        set_tags(run_id, {"error": f"{type(error).__name__}: {error}"[:500]})
        log_text(run_id, traceback.format_exc(), "traceback.txt")
        raise
    finally:
        futures.wait(_open.pop(run_id).end())
        client.set_terminated(run_id, status)


@contextlib.contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU with MLflow's own monitor, at least once.

    The GPU is included if nvidia-ml-py is installed, as it is with CUDA.
    """
    from mlflow.system_metrics import system_metrics_monitor  # Needs psutil, as the pipelines do.

    resumed = _open[run_id].last_epoch >= 0  # MLflow then reads the run, which takes 6 ms.
    monitor = system_metrics_monitor.SystemMetricsMonitor(
        run_id, sampling_interval=SAMPLING_SECONDS, resume_logging=resumed
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        for each in monitor.monitors:
            each.clear_metrics()
        monitor.collect_metrics()  # For the time since the last sample.
        with contextlib.suppress(mlflow.MlflowException):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()


def find_child(parent_run_id: str, name: str) -> str | None:
    """Return the id of a run's newest child with this name, or None."""
    client = mlflow.MlflowClient()
    found = client.search_runs(
        [client.get_run(parent_run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`mlflow.runName` = '{name}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0].info.run_id if found else None


def end_failed(run_id: str, reason: str) -> None:
    """Mark a run as FAILED when its own process could not do so."""
    set_tags(run_id, {"error": reason[:500]})
    mlflow.MlflowClient().set_terminated(run_id, "FAILED")


def find(call: Callable[..., T], *arguments: object) -> T | None:
    """Return the result of an MLflow call, or None if MLflow says that there is no such thing."""
    try:
        return call(*arguments)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def repair_stale_runs(experiment: str) -> int:
    """Mark as KILLED the runs that dead processes of this host left RUNNING; return their number.

    A process is identified by its number and its start time, because numbers are reused.
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
    """Return the first `most` runs of an experiment that meet a condition, oldest first."""
    return mlflow.search_runs(
        [_experiment_id(experiment)],
        condition,
        max_results=most,
        order_by=[order],
        output_format="list",
    )


def best_trials(experiment: str, tags: dict[str, str], count: int) -> dict[str, dict[str, str]]:
    """Return, by run_id, the params of the best `count` finished trials with these tags.

    The lowest val_score comes first. MLflow stores params as text.
    """
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    conditions += ["tags.role = 'trial'", "attributes.status = 'FINISHED'"]
    found = search(experiment, " and ".join(conditions), "metrics.val_score ASC", count)
    return {run.info.run_id: run.data.params for run in found if "val_score" in run.data.metrics}


def log_epoch(run_id: str, row: Mapping[str, Any]) -> None:
    """Log an epoch of an open run in the background, see `epochs.Writer`."""
    _open[run_id].add(row)


def log_metrics(run_id: str, metrics: dict[str, float], step: int = 0) -> None:
    """Log numbers that hold for the whole run, or until the next step.

    If the run is open, they are logged in the background, see `epochs.Writer`.
    """
    entries = epochs.entries(metrics, step)
    if run_id in _open:
        _open[run_id].put(entries)
    else:
        epochs.log_batch(run_id, entries)


def set_tags(run_id: str, tags: dict[str, str]) -> None:
    """Set or replace tags."""
    entries = [mlflow.entities.RunTag(name, str(value)) for name, value in tags.items()]
    mlflow.MlflowClient().log_batch(run_id, tags=entries)


def log_figure(run_id: str, figure: matplotlib.figure.Figure, name: str) -> None:
    """Store a figure as the artifact `name`, a .png."""
    mlflow.MlflowClient().log_figure(run_id, figure, name)


def log_network(run_id: str, network: Any, metrics: dict[str, float]) -> None:
    """Store a network's metrics and number of parameters, its summary and its layers."""
    summary, layers = _described(network, tuple(layer.trainable for layer in network.layers))
    log_metrics(run_id, metrics | {"parameters": network.count_params()})
    log_text(run_id, summary, records.SUMMARY)
    log_text(run_id, layers, records.LAYERS)


@functools.lru_cache(maxsize=4)
def _described(network: Any, trainable: tuple[bool, ...]) -> tuple[str, str]:
    """Return a network's summary and layers, once for trials with the same trainable layers."""
    from agegender.networks import models  # Imports Keras.

    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=100)
    return "\n".join(lines), json.dumps(models.layers(network))


def log_text(run_id: str, text: str, name: str) -> None:
    """Store a text as the artifact `name`."""
    mlflow.MlflowClient().log_text(run_id, text, name)


def log_table(run_id: str, table: pd.DataFrame, name: str) -> None:
    """Store a table, without its index, as the artifact `name`, a .csv."""
    log_text(run_id, table.to_csv(index=False), name)


def log_file(run_id: str, path: Path) -> None:
    """Store a file as an artifact under its own name."""
    mlflow.MlflowClient().log_artifact(run_id, str(path))


def log_dataset(run_id: str, faces: pixels.Faces, context: str) -> None:
    """Link a run to its faces, which MLflow does not copy; context: what they were used for."""
    columns = [{"type": "string", "name": name} for name in ("name", "split")]
    columns += [{"type": "long", "name": name} for name in ("age_years", "gender", "race")]
    # mlflow.data.from_pandas would infer this from the rows, with two warnings and 20 ms per run.
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
    """Call `write` again if it fails: the store rejects one of two processes adding the same row.

    By then the row exists and can be replaced or linked to.
    """
    try:
        write(*arguments)
    except mlflow.MlflowException:
        write(*arguments)


def read_text(run_id: str, name: str) -> str | None:
    """Return the text artifact `name` at the top level of a run, or None."""
    if name not in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}:
        return None
    return mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")
