"""The models that answer for photos: the registry's champions, else the released ones.

A store in SQLite is read without MLflow, which takes longer to import and to open it than the
prediction itself.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from agegender import records
from agegender.networks import export
from agegender.photos import estimate
from agegender.registry import access, store


def models_for_prediction(
    root: Path, generated: bool = False, families: str | None = None
) -> dict[str, estimate.Model]:
    """Load the champions from the store of `root`, or the one named by the environment.

    Each is checked as by `versions.pull`: its SHA-256, its content and, once for each file, its
    golden predictions, which `root`/.cache/passed remembers. Where a family has no champion, its
    released model in `root`/models stands in.

    generated: the champions of drawn faces; none is released.
    families: A, B or AB; without, B, or A where there is no B.

    ValueError where there is no model at all, where a file fails its checks, where a champion was
    never evaluated, or where a server does not answer.
    """
    models = {}
    passed = root / ".cache" / "passed"
    for family in families or "BA":
        name = store.full_name(family, generated)
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
        names = " or ".join(store.full_name(family, generated) for family in families or "AB")
        raise ValueError(
            f"No champion of {names} in {access.shown(store.uri(root))}: run `{command}` first, or "
            f"set {access.TRACKING}"
            + ("." if generated else "; GENERATED=1 takes the models of drawn faces.")
        )
    return models


def _find(root: Path, name: str, folder: Path) -> store.Champion | None:
    """Return a model's champion, its files on this disk; a server's are fetched into `folder`."""
    database = access.database(store.uri(root))
    if os.environ.get(access.REGISTRY):
        return _fetch(root, name, folder)
    if database and not database.exists():
        return None
    # What cannot be read so goes through MLflow, where it is told what is wrong.
    with contextlib.suppress(sqlite3.Error):
        if database and store.in_place(database):
            champion = store.champion(database, name)
            if champion is None or champion.h5.is_file():
                return champion
    return _fetch(root, name, folder)


def _fetch(root: Path, name: str, folder: Path) -> store.Champion | None:
    from agegender.registry import tracking, versions

    tracking.connect(root)
    if "champion" not in versions.aliases(name):
        return None
    tags = versions.get(name, "champion")
    h5 = versions.pull(name, int(tags["version"]), folder)
    evidence = folder / records.EVIDENCE
    if text := tracking.read_text(tags["run_id"], records.EVIDENCE):
        evidence.write_text(text)
    return store.Champion(tags, h5, evidence)


def _load(name: str, champion: store.Champion, folder: Path, passed: Path) -> estimate.Model:
    title = f"{name} version {champion.tags['version']}"
    if not champion.evidence.is_file():
        raise ValueError(
            f"{title} has no {records.EVIDENCE} in its run, and so no intervals: it was deleted "
            "there, or the version was not registered by `make promote`. Promote or roll back "
            "another."
        )
    evidence = records.Evidence.from_json(json.loads(champion.evidence.read_text()))
    # What is checked is what is loaded, whoever writes to the store meanwhile.
    copy = shutil.copyfile(champion.h5, folder / "checked.h5")
    store.check_sha256(title, champion.tags, copy)
    network = export.load_verified(copy, passed)
    return estimate.Model(title, network, evidence.intervals, evidence.abstention["confidence"])
