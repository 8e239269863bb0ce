"""The SQLite store behind `tracking`: made once, mended where its folder was moved or copied."""

import contextlib
import logging
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow

from agegender import disk

# Every column in which MLflow 3 keeps an absolute path to artifacts.
LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
FOLDER_TAG = "store.folder"


def database(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other."""
    match = re.fullmatch(r"sqlite:///(.+)", uri)
    return Path(match[1]).resolve() if match else None


def prepare(database: Path) -> None:
    """Make the tables if there are none, mend the paths if the folder was moved or copied.

    One process at a time: MLflow's migrations crash where two begin at once. ValueError for a path
    that MLflow cannot name.
    """
    if set("?#") & set(str(database)):
        raise ValueError(
            f"MLflow takes no '?' or '#' in a path: {database}. Rename the folder, or set "
            "MLFLOW_TRACKING_URI."
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    with disk.hold(database.parent / ".lock"):
        if not database.exists():
            print(f"Making the tracking store {database}", file=sys.stderr, flush=True)
        with quiet():
            mlflow.MlflowClient(f"sqlite:///{database}").search_experiments(max_results=1)
        _mend_moved(database)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what MLflow tells of its progress; warnings stay."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _mend_moved(database: Path) -> None:
    """Rewrite absolute paths, in one transaction, where the note in the store names another folder.

    A folder seen under two names (a mount, a link) is not moved.
    """
    new = str(database.parent)
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        note = "SELECT value FROM experiment_tags WHERE key = ? AND experiment_id = 0"
        (old,) = connection.execute(note, (FOLDER_TAG,)).fetchone() or (None,)
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
