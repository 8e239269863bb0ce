"""Load the models that predict on photos: the registry's champions, else the released models.

SQLite stores are read without MLflow, because importing MLflow takes longer than a prediction.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sqlite3
import tempfile
from pathlib import Path

from agegender import disk, records
from agegender.networks import export
from agegender.photos import estimate
from agegender.registry import access


@dataclasses.dataclass(frozen=True)
class Champion:
    """A model's champion: its version's tags, including its number as "version", and its files.

    evidence: from the run that trained it; the file may be missing.
    """

    tags: dict[str, str]
    h5: Path
    evidence: Path


def full_name(model: str, generated: bool = False) -> str:
    """Return the registered name of model "A" or "B"; return longer names unchanged.

    generated: for generated faces, whose models have separate names.
    """
    return model if len(model) > 1 else f"age-gender-{model}" + "-generated" * generated


def models_for_prediction(
    root: Path, generated: bool = False, families: str | None = None
) -> dict[str, estimate.Model]:
    """Load the champions from the store of `root` or the one named by the environment.

    Each is checked as in `versions.pull`; `root`/.cache/passed remembers which ones reproduced
    their golden predictions. If a family has no champion, its release in `root`/models is used.

    generated: load the champions for generated faces, which have no releases.
    families: "A", "B" or "AB"; by default B, or A if there is no B.

    Raises ValueError if there is no model, if a file fails its checks, if a champion was never
    evaluated, or if a server does not answer.
    """
    models = {}
    passed = root / ".cache" / "passed"
    for family in families or "BA":
        name = full_name(family, generated)
        release = None if generated else estimate.released(root / "models", family, full=True)
        with tempfile.TemporaryDirectory() as folder:
            if champion := _find(root, name, Path(folder)):
                models[family] = _load(name, champion, Path(folder), passed)
            elif release:
                models[family] = estimate.load_release(release, passed)
        if models and not families:
            break
    if not models:
        command = "make tune" if generated else "make tune DATA=..."
        names = " or ".join(full_name(family, generated) for family in families or "AB")
        drawn = "" if generated else "; GENERATED=1 uses the models for generated faces"
        raise ValueError(
            f"No champion of {names} in {access.shown(access.uri(root))}: run `{command}` first, "
            f"or set {access.TRACKING}{drawn}."
        )
    return models


def _find(root: Path, name: str, folder: Path) -> Champion | None:
    """Return a model's champion or None; files on a server are fetched into `folder`."""
    database = access.database(access.uri(root))
    if database and not os.environ.get(access.REGISTRY):
        if not database.exists():
            return None
        # If this fails, MLflow tries below and reports what is wrong.
        with contextlib.suppress(sqlite3.Error):
            if access.in_place(database):
                champion = read(database, name)
                if champion is None or champion.h5.is_file():
                    return champion
    return _fetch(root, name, folder)


def read(database: Path, model_name: str) -> Champion | None:
    """Return a model's champion from an SQLite store, or None.

    Raises sqlite3.Error if the store lacks the tables of MLflow 3.
    """
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as reader:
        found = reader.execute(
            "SELECT v.version, v.storage_location, r.artifact_uri FROM registered_model_aliases a "
            "JOIN model_versions v ON v.name = a.name AND v.version = a.version "
            "LEFT JOIN runs r ON r.run_uuid = v.run_id WHERE a.name = ? AND a.alias = 'champion'",
            (model_name,),
        ).fetchone()
        if found is None:
            return None
        version, artifacts, run_artifacts = found
        kept = reader.execute(
            "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?",
            (model_name, version),
        )
        tags = dict(kept) | {"version": str(version)}
        h5 = Path(artifacts, h5_path(model_name, tags))
        return Champion(tags, h5, Path(run_artifacts or artifacts, records.EVIDENCE))


def _fetch(root: Path, name: str, folder: Path) -> Champion | None:
    from agegender.registry import tracking, versions

    tracking.connect(root)
    if "champion" not in versions.aliases(name):
        return None
    tags = versions.get(name, "champion")
    h5 = versions.pull(name, int(tags["version"]), folder)
    evidence = folder / records.EVIDENCE
    if text := tracking.read_text(tags["run_id"], records.EVIDENCE):
        evidence.write_text(text)
    return Champion(tags, h5, evidence)


def _load(name: str, champion: Champion, folder: Path, passed: Path) -> estimate.Model:
    title = f"{name} version {champion.tags['version']}"
    if not champion.evidence.is_file():
        raise ValueError(
            f"{title} has no {records.EVIDENCE} in its run, so it has no intervals: the file was "
            "deleted, or the version was not registered by `make promote`. Promote another version "
            "or roll back."
        )
    evidence = records.Evidence.from_json(json.loads(champion.evidence.read_text()))
    # Check and load a copy: another process may write to the store meanwhile.
    copy = shutil.copyfile(champion.h5, folder / "checked.h5")
    check_sha256(title, champion.tags, copy)
    network = export.load_verified(copy, passed)
    return estimate.Model(title, network, evidence.intervals, evidence.abstention["confidence"])


def h5_path(title: str, tags: dict[str, str]) -> str:
    """Return the artifact path of a version's .h5; raise ValueError if its tags name none."""
    path = tags.get("h5.path", "")
    if not re.fullmatch(r"artifacts/\w[\w.-]*\.h5", path) or "h5.sha256" not in tags:
        raise ValueError(f"{title} was not registered by this project: its tags name no .h5 file.")
    return path


def check_sha256(title: str, tags: dict[str, str], path: Path) -> None:
    """Raise ValueError if a version's .h5 is not the registered file."""
    checksum = disk.checksum(path)
    if checksum != tags["h5.sha256"]:
        raise ValueError(
            f"{title}: the .h5 has the SHA-256 {checksum}, but {tags['h5.sha256']} was registered. "
            "Do not use it; register the model again."
        )
