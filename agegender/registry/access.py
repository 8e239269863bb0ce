"""Find and check the MLflow store, explain its problems in one line, prepare its SQLite file.

Every target opens its store through `address` and `check`; `explain` describes later failures.
MLflow is not imported at the top, so mistakes are reported before it loads.
"""

import contextlib
import os
import re
import shlex
import sqlite3
import sys
from pathlib import Path

from agegender import disk

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
SECONDS = 5  # Timeout per connection attempt; a name may have two addresses.
ADDRESSES = r"https?://[^/?#].*|sqlite:///([^/:?]|/[^/]).*|databricks.*"
ADDRESSES += r"|(postgresql|mysql|mssql)(\+\w+)?://.+"
EXPECTED = (
    "expected http://HOST:PORT, sqlite:////ABSOLUTE/PATH.db or postgresql://USER:PASSWORD@HOST/NAME"
)
# In a path, MLflow reads '?' and '#' as parts of a URI and decodes %20, which is another folder.
SPECIAL = r"[?#]|%[0-9A-Fa-f]{2}"
NO_TABLE = r"no such (table|column)|UndefinedTable"
# Errors of libraries and the messages shown instead; {store} is the address without its password.
TROUBLES = {
    r"malformed|not a database": "{store} is damaged or not a database: restore it from a copy, or "
    "move it away and start over.",
    r"readonly database|unable to open database file": "{store} cannot be opened for writing: "
    "check the permissions of the file and its folder.",
    r"FATAL: ": "{store} refused the connection: {reason}. Set {variable} to another store, or "
    "correct its user, password or database.",
    r"failed with error code 403|PERMISSION_DENIED": "{store} does not permit this to your user: "
    "ask its administrator, or set {variable} to another store.",
    r"database is locked": "{store} is locked by another process: wait for that process or end it.",
    NO_TABLE: "{store} lacks MLflow tables: restore it from a copy or move it away and start over.",
    r"[Cc]onnection refused|Max retries exceeded|[Tt]imed? ?out|[Cc]onnection (reset|aborted)|"
    r"closed the connection|could not (translate|connect)|[Nn]ame or service not known|"
    r"failed to resolve|connection (failed|is bad)": "No answer from {store}: start it, or set "
    "{variable} to another store.",
}
# All columns in which MLflow 3 stores an absolute path to artifacts.
LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
FOLDER_TAG = "store.folder"


def uri(root: Path) -> str:
    """Return the URI of the tracking store: from the environment, else the one in `root`."""
    return address(TRACKING, f"sqlite:///{root.resolve()}/mlruns/mlflow.db")


def address(variable: str, default: str = "") -> str:
    """Return the URI in an environment variable, or the default if it is not set.

    Raises ValueError, with examples, if the URI is of a kind that this project cannot open.
    """
    uri = os.environ.get(variable, "").strip()
    if not uri:
        return default
    scheme, colon, rest = uri.partition(":")
    read = scheme.lower() + colon + rest
    if re.fullmatch(ADDRESSES, read, re.DOTALL):
        return read
    hint = ""
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        hint = f" Did you mean http://{uri}?"
    elif not colon or scheme == "file":
        hint = " A folder cannot be a store here."
    raise ValueError(f"{variable}={shown(uri)}: {EXPECTED}.{hint}")


def shown(uri: str) -> str:
    """Return a URI without its password, for printing."""
    return re.sub(r"(://[^:/@]*:)[^/@]*(?=@)|(password=)[^&]*", r"\1\2***", uri)


def database(uri: str) -> Path | None:
    """Return the file of an SQLite store, or None for other stores."""
    match = re.fullmatch(r"sqlite:///(.+)", uri, re.DOTALL)
    return Path(match[1]).resolve() if match else None


def check_path(database: Path) -> None:
    """Raise ValueError if a path cannot hold an SQLite store or if MLflow misreads it."""
    if found := re.search(SPECIAL, str(database)):
        raise ValueError(
            f"MLflow cannot handle {found[0]!r} in a path: {database}. Rename the folder, or set "
            f"{TRACKING}."
        )
    if database.is_dir():
        raise ValueError(f"Expected a database at {database}, found a folder: move it away.")
    # If a kill left it empty during its creation, there are no artifacts yet.
    emptied = database.exists() and not database.stat().st_size
    if emptied and (database.parent / "artifacts").exists():
        raise ValueError(
            f"{database} is empty, but there are artifacts beside it: restore it from a copy, or "
            "move both away and start over."
        )


def check(uri: str, variable: str = TRACKING) -> None:
    """Raise ValueError with a remedy, within about SECONDS, if a store cannot be used."""
    if uri.startswith("http"):
        _check_server(uri, variable)
    elif not uri.startswith("databricks"):
        if path := database(uri):
            check_path(path)
        _check_database(uri, variable)


def _check_server(uri: str, variable: str) -> None:
    """Check with one request that a server answers and accepts the user."""
    import mlflow
    from mlflow.utils import credentials, rest_utils

    store, instead = shown(uri), f"set {variable} to another store"
    asked = "experiments" if variable == TRACKING else "registered-models"
    try:
        answer = rest_utils.http_request(
            credentials.get_default_host_creds(uri),
            f"/api/2.0/mlflow/{asked}/search",
            "GET",
            params={"max_results": 1},
            max_retries=0,
            raise_on_status=False,
            timeout=SECONDS,
        )
    except (mlflow.MlflowException, OSError) as error:
        reason = f"No answer from the server {store}: start it, or {instead}."
        if "SSL" in str(error):
            reason = f"No secure connection to {store}: it speaks only http, or its certificate "
            reason += "is not trusted (set MLFLOW_TRACKING_SERVER_CERT_PATH)."
        raise ValueError(reason) from error
    if answer.status_code in (401, 403):
        raise ValueError(
            f"The server {store} requires a valid login: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )
    if not answer.ok or not answer.headers.get("Content-Type", "").startswith("application/json"):
        got = f"{answer.status_code} {answer.reason}"
        raise ValueError(f"Expected an MLflow server at {store}, got {got}: {instead}.")


def _check_database(uri: str, variable: str) -> None:
    """Check a database's revision: MLflow would retry for minutes and add to older tables."""
    import mlflow
    import sqlalchemy
    from alembic import migration, script
    from mlflow.store.db import utils

    store, instead = shown(uri), f"set {variable} to another store"
    wait = {"connect_timeout": SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=wait)
        with contextlib.closing(engine.connect()) as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
            revision = migration.MigrationContext.configure(connection).get_current_revision()
        engine.dispose()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{variable}={store} needs the package {error.name!r}: install it, or {instead}."
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        first_line = str(getattr(error, "orig", None) or error).partition("\n")[0]
        told = explain(error, uri, variable)
        raise ValueError(told or f"{variable}={store}: {EXPECTED}; {first_line}") from error
    steps = script.ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    reason = ""
    if not revision:
        if tables and "experiments" not in tables:
            reason = f"{store} is not an MLflow database: {instead}."
    elif revision == steps.get_current_head():
        if not utils.Base.metadata.tables.keys() <= tables:
            reason = TROUBLES[NO_TABLE].format(store=f"The store {store}")
    elif revision in {step.revision for step in steps.walk_revisions()}:
        command = shlex.join([sys.executable, "-m", "mlflow", "db", "upgrade", store])
        reason = f"{store} was made by an older MLflow. To keep using it, copy it, then run: "
        reason += command
    else:
        reason = f"{store} was made by a newer MLflow than the installed one: install that one, or "
        reason += f"{instead}."
    if reason:
        raise ValueError(reason)


def explain(error: BaseException | None, uri: str = "", variable: str = TRACKING) -> str | None:
    """Return a one-line remedy if a problem with a store caused an error, else None.

    uri: of the store, by default the one in use; variable: the one that names it.
    """
    store = f"the store {shown(uri or os.environ.get(TRACKING) or 'mlruns/mlflow.db')}"
    while error is not None:
        library = type(error).__module__.partition(".")[0]
        if library in ("alembic", "mlflow", "psycopg", "requests", "sqlalchemy", "sqlite3"):
            for words, told in TROUBLES.items():
                if found := re.search(words, str(error)):
                    reason = str(error)[found.end() :].strip().partition("\n")[0]
                    line = told.format(store=store, variable=variable, reason=reason)
                    return line[0].upper() + line[1:]
        error = error.__cause__ or error.__context__
    return None


def in_place(database: Path) -> bool:
    """Return whether the paths in an SQLite store match its location; `prepare` repairs them."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as reader:
        return _noted_folder(reader) == str(database.parent)


def _noted_folder(connection: sqlite3.Connection) -> str | None:
    note = "SELECT value FROM experiment_tags WHERE key = ? AND experiment_id = 0"
    return (connection.execute(note, (FOLDER_TAG,)).fetchone() or (None,))[0]


def prepare(database: Path) -> None:
    """Create an SQLite store if there is none; repair its paths if its folder was moved.

    Only one process at a time does this, because MLflow's migrations crash if two start at once.
    Raises ValueError as `check` does.
    """
    check_path(database)
    database.parent.mkdir(parents=True, exist_ok=True)
    with disk.hold(database.parent / ".lock"):
        if database.exists():
            check(f"sqlite:///{database}")
        else:
            print(f"Creating the tracking store {database}", file=sys.stderr, flush=True)
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{database}").search_experiments(max_results=1)
        _mend_moved(database)


def _mend_moved(database: Path) -> None:
    """Rewrite absolute paths, in one transaction, if the store's own note names another folder.

    A folder with two names (a mount, a link) does not count as moved.
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
            print(f"The tracking store was in {old}: its paths are repaired.", file=sys.stderr)
        connection.execute(
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, 0)",
            (FOLDER_TAG, new),
        )
