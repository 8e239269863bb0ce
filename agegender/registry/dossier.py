"""Read what the store has on a registered version: runs, curves, tables, pictures."""

import json
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

from agegender.networks import backbones
from agegender.registry import epochs, tracking, versions
from agegender.show.report import StoredRun, StoredVersion


def read(family: str, generated: bool = False) -> StoredVersion:
    """Return everything the store has on the champion "A" or "B"; missing parts are empty.

    generated: for generated faces. Raises ValueError if there is no champion.
    """
    name = versions.full_name(family, generated)
    tags = versions.get(name, "champion")
    run = _run(tags["run_id"])
    inputs = run.inputs.dataset_inputs if run else []
    # Of a taught A, the tag names its teacher's.
    known = backbones.BACKBONES.get(tags.get("backbone", "")) if family == "B" else None
    return StoredVersion(
        family=family,
        name=name,
        tags=tags,
        run=_stored(run),
        search=_stored(_run(run.data.tags.get("mlflow.parentRunId", "")) if run else None),
        history=epochs.history(run.info.run_id) if run else pd.DataFrame(),
        sizes=json.loads(inputs[0].dataset.profile or "{}") if inputs else {},
        pretraining=known.pretraining if known else "",
    )


def _run(run_id: str) -> mlflow.entities.Run | None:
    """Return a run, or None if the store no longer has it: a version outlives its run."""
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
