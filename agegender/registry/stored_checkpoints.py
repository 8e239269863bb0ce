"""Checkpoints among the artifacts of a run, so that another machine can resume it.

Each is a zip with the next number, and the previous one is deleted only after it is written: if
writing is cut off, the new file is not a valid zip, but the previous one is still there.
"""

import shutil
import tempfile
import zipfile
from pathlib import Path

import mlflow
from mlflow.store.artifact import artifact_repository_registry

FOLDER = "checkpoint"


def upload(run_id: str, folder: Path) -> None:
    """Store the .npz files of a folder as a run's checkpoint, in place of earlier ones."""
    before = _kept(run_id)
    with tempfile.TemporaryDirectory() as working:
        archive = Path(working, f"{max(before, default=0) + 1:06d}.zip")
        with zipfile.ZipFile(archive, "w") as file:
            for path in folder.rglob("*.npz"):
                file.write(path, path.relative_to(folder))
        mlflow.MlflowClient().log_artifact(run_id, str(archive), FOLDER)
    for name in before.values():
        _delete(run_id, name)


def download(run_id: str, folder: Path) -> None:
    """Extract a run's newest intact checkpoint into a folder; do nothing if there is none."""
    for _, name in sorted(_kept(run_id).items(), reverse=True):  # The newest may be cut off.
        with tempfile.TemporaryDirectory() as working:
            archive = mlflow.MlflowClient().download_artifacts(run_id, name, working)
            if zipfile.is_zipfile(archive):
                shutil.unpack_archive(archive, folder)
                return


def remove(run_id: str) -> None:
    """Remove a run's checkpoints."""
    if _kept(run_id):
        _delete(run_id, FOLDER)


def _kept(run_id: str) -> dict[int, str]:
    """Return the artifact paths of a run's checkpoints by number."""
    files = mlflow.MlflowClient().list_artifacts(run_id, FOLDER)
    return {int(Path(file.path).stem): file.path for file in files}


def _delete(run_id: str, path: str) -> None:
    # MLflow's client has no call for this.
    uri = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
    artifact_repository_registry.get_artifact_repository(uri).delete_artifacts(path)
