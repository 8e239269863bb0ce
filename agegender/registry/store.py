"""The SQLite store behind `tracking`: made once, mended where its folder was moved or copied.

`champion` reads it without MLflow, whose import and start take longer than a prediction.
"""

import contextlib
import dataclasses
import re
import sqlite3
import sys
from pathlib import Path

from agegender import disk, records
from agegender.registry import access

# Every column in which MLflow 3 keeps an absolute path to artifacts.
LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
FOLDER_TAG = "store.folder"


@dataclasses.dataclass(frozen=True)
class Champion:
    """A model's champion: its version's tags, "version" among them, and where its files are.

    evidence: of the run that trained it; where the run or the file is gone, there is no such file.
    """

    tags: dict[str, str]
    h5: Path
    evidence: Path


def uri(root: Path) -> str:
    """Return the URI of the tracking store, as `access.address` does, or that of `root`."""
    return access.address(access.TRACKING, f"sqlite:///{root.resolve()}/mlruns/mlflow.db")


def full_name(model: str, generated: bool = False) -> str:
    """Return the registered name of "A" or "B"; a name that is longer is one already.

    generated: of generated faces, whose models live apart.
    """
    return model if len(model) > 1 else f"age-gender-{model}" + "-generated" * generated


def h5_path(title: str, tags: dict[str, str]) -> str:
    """Return where a version's .h5 is among its artifacts; ValueError where it names none."""
    path = tags.get("h5.path", "")
    if not re.fullmatch(r"artifacts/\w[\w.-]*\.h5", path) or "h5.sha256" not in tags:
        raise ValueError(f"{title} was not registered by this project: it names no .h5 to fetch.")
    return path


def check_sha256(title: str, tags: dict[str, str], path: Path) -> None:
    """Raise ValueError where a version's .h5 is not the file that was registered."""
    checksum = disk.checksum(path)
    if checksum != tags["h5.sha256"]:
        raise ValueError(
            f"{title}: the .h5 has the SHA-256 {checksum}, but {tags['h5.sha256']} was registered. "
            "Do not use it; register it anew."
        )


def champion(database: Path, model_name: str) -> Champion | None:
    """Return a model's champion, None where the store has none.

    sqlite3.Error where it has not the tables of MLflow 3.
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


def in_place(database: Path) -> bool:
    """Tell whether the paths in an SQLite store lead to where it is; `prepare` mends them."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as reader:
        return _noted_folder(reader) == str(database.parent)


def _noted_folder(connection: sqlite3.Connection) -> str | None:
    note = "SELECT value FROM experiment_tags WHERE key = ? AND experiment_id = 0"
    return (connection.execute(note, (FOLDER_TAG,)).fetchone() or (None,))[0]


def prepare(database: Path) -> None:
    """Make the tables if there are none, mend the paths if the folder was moved or copied.

    One process at a time: MLflow's migrations crash where two begin at once. ValueError as in
    `access.check`.
    """
    access.check_path(database)
    database.parent.mkdir(parents=True, exist_ok=True)
    with disk.hold(database.parent / ".lock"):
        if database.exists():
            access.check(f"sqlite:///{database}")
        else:
            print(f"Making the tracking store {database}", file=sys.stderr, flush=True)
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{database}").search_experiments(max_results=1)
        _mend_moved(database)


def _mend_moved(database: Path) -> None:
    """Rewrite absolute paths, in one transaction, where the note in the store names another folder.

    A folder seen under two names (a mount, a link) is not moved.
    """
    new = str(database.parent)
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        old = _noted_folder(connection)
        if old is not None:
            there = Path(old, database.name)
            if old == new or there.exists() and there.samefile(database):
                return
            for table, column in LOCATION_COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
            print(f"The tracking store was in {old}: its paths are mended.", file=sys.stderr)
        connection.execute(
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, 0)",
            (FOLDER_TAG, new),
        )
