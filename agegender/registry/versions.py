"""Model versions in MLflow's registry: register, look up, fetch."""

import base64
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import PIL.Image
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, Schema

from agegender import disk
from agegender.networks import export
from agegender.registry import access, champions, tracking

full_name = champions.full_name
# The tags and metrics kept on the version itself; its run has the others. With those of its file
# (h5.) and of the gate (gate., entered_as), a version has twelve.
TAGS = ("data.digest", "licence")
METRICS = ("test_mae", "test_gender_accuracy")
MOST_CHARACTERS = 5000  # of a description in MLflow's database


def register_version(
    *,
    model_name: str,
    run_id: str,
    h5_path: Path,
    metrics: dict[str, float],
    tags: dict[str, str],
    description: str,
) -> int:
    """Register a .h5 with its pyfunc under a run; return the version, the same if called again.

    The first version of a model gets the alias champion, later ones challenger; a version that is
    already registered keeps its alias. TAGS and METRICS become tags of the version, the other tags
    go to its run.
    """
    client = mlflow.MlflowClient()
    checksum = disk.checksum(h5_path)
    versions = _all(model_name)
    version = next(
        (v for v in versions if v.run_id == run_id and v.tags.get("h5.sha256") == checksum), None
    )
    if version is None:
        trained = client.get_run(run_id)
        # By default, MLflow puts the model into the experiment 'Default', outside the store.
        model = client.create_logged_model(
            trained.info.experiment_id,
            name=model_name,
            source_run_id=run_id,
            params=trained.data.params,
        )
        mlflow.models.Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model.model_id,
            **_pyfunc(h5_path),
        )
        tracking.set_tags(run_id, {name: tags[name] for name in tags if name not in TAGS})
        with contextlib.suppress(mlflow.MlflowException):  # It exists already.
            client.create_registered_model(model_name)
        version = client.create_model_version(
            model_name,
            model.model_uri,
            run_id,
            tags={name: tags[name] for name in TAGS if name in tags}
            | {name: f"{metrics[name]:.4g}" for name in METRICS if name in metrics}
            | {"h5.sha256": checksum, "h5.path": f"artifacts/{h5_path.name}"},
            description=description[:MOST_CHARACTERS],
            model_id=model.model_id,
        )
        versions = _all(model_name)
    # After a kill between version and alias, the next call sets it; it never moves one set before.
    if "entered_as" not in version.tags:
        first = int(version.version) == min(int(v.version) for v in versions)
        alias = "champion" if first and "champion" not in aliases(model_name) else "challenger"
        client.set_registered_model_alias(model_name, alias, version.version)
        client.set_model_version_tag(model_name, version.version, "entered_as", alias)
    return int(version.version)


def _all(model_name: str) -> list:
    condition = f"name = '{model_name}'"
    return list(mlflow.MlflowClient().search_model_versions(condition, max_results=10_000))


def _pyfunc(h5_path: Path) -> dict[str, object]:
    """Return MLflow's arguments for the pyfunc of a .h5."""
    faces = export.golden_images()[:2]
    outputs = {"age_years": "double", "gender_probability_female": "double", "gender": "string"}
    return {
        "python_model": str(Path(__file__).with_name("serving.py")),
        "artifacts": {"h5": str(h5_path)},
        "pip_requirements": _requirements(),
        "signature": ModelSignature(
            Schema([ColSpec(AnyType())]),
            Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        ),
        "input_example": pd.DataFrame({"image": [_base64_png(face) for face in faces]}),
    }


def _requirements() -> list[str]:
    """Return the packages that serving.py imports; MLflow itself takes 20 s to find them."""
    import h5py
    import keras

    modules = {"h5py": h5py, "keras": keras, "mlflow": mlflow, "numpy": np, "pandas": pd}
    modules |= {"pillow": PIL, keras.backend.backend(): sys.modules[keras.backend.backend()]}
    # Ask the modules: tensorflow may be installed as tensorflow-cpu, mlflow as mlflow-skinny.
    return [f"{name}=={module.__version__}" for name, module in modules.items()]


def _base64_png(face: np.ndarray) -> str:
    stream = io.BytesIO()
    PIL.Image.fromarray(face).save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


def aliases(model_name: str) -> dict[str, int]:
    """Return the version of each alias, empty if there is no such model."""
    found = tracking.find(mlflow.MlflowClient().get_registered_model, model_name)
    return {alias: int(version) for alias, version in found.aliases.items()} if found else {}


def set_alias(model_name: str, alias: str, version: int) -> None:
    """Give an alias to a version and take it from the version that has it."""
    mlflow.MlflowClient().set_registered_model_alias(model_name, alias, str(version))


def remove_alias(model_name: str, alias: str) -> None:
    """Remove an alias."""
    mlflow.MlflowClient().delete_registered_model_alias(model_name, alias)


def set_tags(model_name: str, version: int, tags: dict[str, str]) -> None:
    """Set or replace a version's tags, one by one."""
    for name, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(model_name, str(version), name, str(value))


def extend_description(model_name: str, version: int, section: str) -> None:
    """Add a section to a version's description once, cut to the room that is left."""
    client = mlflow.MlflowClient()
    text = client.get_model_version(model_name, str(version)).description or ""
    if section not in text:
        text = (text + section)[:MOST_CHARACTERS]
        client.update_model_version(model_name, str(version), text)


def get(model_name: str, which: str | int) -> dict[str, str]:
    """Return a version's tags and, if its run exists, the run's tags and metrics (as text).

    which: an alias or a number; ValueError if there is none. The key "version" is the number.
    """
    number = aliases(model_name).get(which, 0) if isinstance(which, str) else which
    call = mlflow.MlflowClient().get_model_version
    version = tracking.find(call, model_name, str(number)) if number else None
    if version is None:
        kind = "alias" if isinstance(which, str) else "version"
        raise ValueError(
            f"No model {model_name!r} with the {kind} {which!r} in "
            f"{access.shown(mlflow.get_registry_uri())}: run `make tune` first, or set "
            f"{access.TRACKING}."
        )
    own = {"run_id": str(version.run_id or "")} | version.tags | {"version": str(version.version)}
    run = tracking.find(mlflow.MlflowClient().get_run, own["run_id"]) if own["run_id"] else None
    if run is None:
        return own
    tags = {name: tag for name, tag in run.data.tags.items() if not name.startswith("mlflow.")}
    return {name: f"{value:.4g}" for name, value in run.data.metrics.items()} | tags | own


def pull(model_name: str, which: str | int, to: Path) -> Path:
    """Fetch the .h5 of a version, given by alias or number, and return its path.

    The file arrives only if its SHA-256 matches the version's, it passes inspection and, loaded by
    Keras, it reproduces its golden predictions. No code stored with the model is run. Otherwise
    raises ValueError with the reason and leaves `to` unchanged.

    to: a file or an existing folder.
    """
    version = get(model_name, which)
    title = f"{model_name} version {version['version']}"
    path = champions.h5_path(title, version)
    to = to / Path(path).name if to.is_dir() else to
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".pull-") as folder:
        uri = f"models:/{model_name}/{version['version']}/{path}"
        try:
            fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except (OSError, mlflow.MlflowException) as error:
            raise ValueError(
                f"{title}: its file {path} cannot be fetched from the store. If it was deleted, "
                "restore it from a copy, roll back, or promote another version."
            ) from error
        champions.check_sha256(title, version, fetched)
        export.load_verified(fetched)
        os.replace(fetched, to)
    return to
