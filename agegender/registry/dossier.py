"""Read back what a registered version left in the store: runs, curves, tables, pictures."""

import json
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

from agegender.registry import tracking, versions


def read(model_name: str, which: str | int = "champion") -> dict:
    """Return all there is of a version, named by alias or number.

    Keys: name, tags (the version's, with its number as "version"), params, metrics, run_tags and
    files (bytes by path, of the run that trained it), history (a row an epoch, from 0; empty where
    none was logged), dataset (number of faces, in all and a split) and search: tags, params,
    metrics and files of the parent run, empty where there is none. ValueError where there is no
    such version.
    """
    tags = versions.get(model_name, which)
    run = _run(tags["run_id"]) if "run_id" in tags else None
    parent = run and _run(run.data.tags.get("mlflow.parentRunId", ""))
    found = {"name": model_name, "tags": tags, "history": pd.DataFrame(), "dataset": {}}
    if run and run.inputs.dataset_inputs:
        found["dataset"] = json.loads(run.inputs.dataset_inputs[0].dataset.profile or "{}")
    if run:
        found["history"] = tracking.history(run.info.run_id)
    of_run = _content(run)
    return found | of_run | {"run_tags": of_run["tags"], "tags": tags, "search": _content(parent)}


def _run(run_id: str) -> mlflow.entities.Run | None:
    """Return a run, None where the store has it no longer: a version outlives its run."""
    try:
        return mlflow.MlflowClient().get_run(run_id) if run_id else None
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _content(run: mlflow.entities.Run | None) -> dict:
    if run is None:
        return {"tags": {}, "params": {}, "metrics": {}, "files": {}}
    data = run.data
    files = _files(run.info.run_id)
    return {"tags": data.tags, "params": data.params, "metrics": data.metrics, "files": files}


def _files(run_id: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        if not mlflow.MlflowClient().list_artifacts(run_id):
            return {}
        root = Path(mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=folder))
        paths = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
