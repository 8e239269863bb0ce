"""A checkpoint among the artifacts of its run, so that another machine can go on with it.

Each is one zip with the next number, and the one before goes only then: what was cut off while it
was written is no zip, and the one before is still there.
"""

import tempfile
import zipfile
from pathlib import Path

import mlflow
from mlflow.store.artifact import artifact_repository_registry

FOLDER = "checkpoint"


def upload(run_id: str, folder: Path) -> None:
    """Keep the .npz files of a folder with a run, instead of those that it has."""
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
    """Put into a folder what a run has of them; nothing where it has none."""
    for _, name in sorted(_kept(run_id).items(), reverse=True):  # The newest may be torn.
        with tempfile.TemporaryDirectory() as working:
            archive = mlflow.MlflowClient().download_artifacts(run_id, name, working)
            if zipfile.is_zipfile(archive):
                zipfile.ZipFile(archive).extractall(folder)
                return


def remove(run_id: str) -> None:
    """Remove what a run has of them."""
    if _kept(run_id):
        _delete(run_id, FOLDER)


def _kept(run_id: str) -> dict[int, str]:
    """Return the artifacts' paths by their numbers."""
    files = mlflow.MlflowClient().list_artifacts(run_id, FOLDER)
    return {int(Path(file.path).stem): file.path for file in files}


def _delete(run_id: str, path: str) -> None:
    # MLflow's client has no call for it.
    uri = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
    artifact_repository_registry.get_artifact_repository(uri).delete_artifacts(path)
