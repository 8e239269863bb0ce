"""Read back what a registered version left in the store: runs, curves, tables, pictures."""

import json
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

from agegender.networks import backbones
from agegender.registry import tracking, versions
from agegender.show.report import StoredRun, StoredVersion


def read(model_name: str, which: str | int = "champion") -> StoredVersion:
    """Return all there is of a version, named by alias or number; what there is not is empty.

    ValueError where there is no such version.
    """
    tags = versions.get(model_name, which)
    run = _run(tags.get("run_id", ""))
    parent = _run(run.data.tags.get("mlflow.parentRunId", "")) if run else None
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    known = backbones.BACKBONES.get(tags.get("backbone", ""))
    return StoredVersion(
        name=model_name,
        tags=tags,
        run=_stored(run),
        search=_stored(parent),
        history=tracking.history(run.info.run_id) if run else pd.DataFrame(),
        sizes=json.loads(inputs[0].dataset.profile or "{}") if inputs else {},
        pretraining=known.pretraining if known else "",
    )


def _run(run_id: str) -> mlflow.entities.Run | None:
    """Return a run, None where the store has it no longer: a version outlives its run."""
    return tracking.find(mlflow.MlflowClient().get_run, run_id) if run_id else None


def _stored(run: mlflow.entities.Run | None) -> StoredRun:
    if run is None:
        return StoredRun()
    files, of_run = {}, {"run_id": run.info.run_id}
    with tempfile.TemporaryDirectory() as folder:
        if mlflow.artifacts.list_artifacts(**of_run):
            root = Path(mlflow.artifacts.download_artifacts(**of_run, dst_path=folder))
            paths = [path for path in root.rglob("*") if path.is_file()]
            files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return StoredRun(run.data.tags, run.data.params, run.data.metrics, files)
