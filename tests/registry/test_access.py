"""A store that cannot be used is told in one line with the cure, before anything is written."""

import contextlib
import http.server
import logging
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy
from mlflow.store.db import utils

from agegender.registry import access, champions, tracking, versions
from pipelines import __main__ as command
from pipelines import pull_model

ROLLBACK = ["rollback", "--model", "A"]


@pytest.fixture
def said(tmp_path, monkeypatch, capfd, caplog):
    """A function that runs a command and returns the one line that it said on standard error."""
    monkeypatch.chdir(tmp_path)
    # As `agegender.logs` has it where it comes before MLflow.
    caplog.set_level(logging.CRITICAL, "mlflow")

    def run(*arguments):
        capfd.readouterr()
        began = time.monotonic()
        assert command.main(list(arguments) or ROLLBACK) == 2
        assert time.monotonic() - began < 10
        (line,) = capfd.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture
def database(said, root, monkeypatch):
    """The database of an empty store, in whose clone `said` runs commands from now on."""
    monkeypatch.chdir(root)
    return root / "mlruns" / "mlflow.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mlruns", "A folder cannot be a store here."),
        ("file:///tmp/mlruns", "A folder cannot be a store here."),
        ("127.0.0.1:5002", "Did you mean http://127.0.0.1:5002?"),
        ("sqlite:x", "expected http://HOST:PORT, sqlite:////ABSOLUTE/PATH.db"),
        ("sqlite:///:memory:", "expected http"),
        ("sqlite://host/x.db", "expected http"),
        ("http:/127.0.0.1", "expected http"),
        ("postgres://u:secret@h/x", "postgres://u:***@h/x: expected http"),
        ("postgres://h/x?password=secret&a=b", "postgres://h/x?password=***&a=b: expected http"),
        ("ftp://host/x", "expected http"),
    ],
)
@pytest.mark.parametrize("variable", [access.TRACKING, access.REGISTRY])
def test_an_address_that_names_no_store_is_refused(
    said, tmp_path, monkeypatch, variable, uri, expected
):
    monkeypatch.setenv(variable, uri)
    line = said()
    assert variable in line and expected in line and "secret" not in line
    assert not list(tmp_path.iterdir())


def test_addresses_are_read_whatever_their_case(monkeypatch):
    for given, read in (
        ("HTTP://Host:1/A", "http://Host:1/A"),
        (" SQLite:///x.db ", "sqlite:///x.db"),
        ("postgresql+psycopg://u@h/x", "postgresql+psycopg://u@h/x"),
        ("postgresql:///x?host=/run", "postgresql:///x?host=/run"),
        ("databricks", "databricks"),
        ("", "default"),
    ):
        monkeypatch.setenv(access.TRACKING, given)
        assert access.address(access.TRACKING, "default") == read


def execute(database, statement):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def with_revision(database, revision):
    execute(database, f"UPDATE alembic_version SET version_num = '{revision}'")


def half(database):
    os.truncate(database, database.stat().st_size // 2)


def garbage(database):
    database.write_bytes(b"no database at all" * 400)


def emptied(database):
    database.write_bytes(b"")
    (database.parent / "artifacts").mkdir()


def folder(database):
    database.unlink()
    database.mkdir()


def foreign(database):
    database.unlink()
    execute(database, "CREATE TABLE bookmarks (url TEXT)")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (half, "is damaged or not a database: restore it from a copy"),
        (lambda path: os.truncate(path, 50), "is damaged or not a database: restore it from"),
        (garbage, "is damaged or not a database: restore it from a copy"),
        (emptied, "is empty, but there are artifacts beside it: restore it from a copy"),
        (folder, "found a folder: move it away"),
        (foreign, "is not an MLflow database: set MLFLOW_TRACKING_URI"),
        (lambda path: execute(path, "DROP TABLE registered_model_tags"), "lacks MLflow tables"),
        (
            lambda path: with_revision(path, "bf29a5ff90ea"),
            f"{sys.executable} -m mlflow db upgrade",
        ),
        (lambda path: with_revision(path, "f" * 12), "was made by a newer MLflow"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_and_left_alone(said, database, harm, expected):
    harm(database)
    before = database.is_file() and database.read_bytes()
    line = said()
    assert expected in line and "mlruns/mlflow.db" in line
    assert (database.is_file() and database.read_bytes()) == before


@pytest.mark.system
def test_the_command_that_is_told_upgrades_an_older_store(said, tmp_path):
    database = tmp_path / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    utils.InitialBase.metadata.create_all(engine)
    settings = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        alembic.command.upgrade(settings, "cc1f77228345")  # of MLflow 1.24, 2022
    engine.dispose()
    before = database.read_bytes()
    line = said("report")
    assert "was made by an older MLflow" in line and database.read_bytes() == before
    subprocess.run(shlex.split(line.partition("run: ")[2]), check=True, capture_output=True)
    assert "No champion is registered" in said("report")


@pytest.mark.parametrize("harm", [half, garbage, emptied, folder])
def test_predict_tells_it_too_though_it_reads_without_mlflow(said, database, harm):
    harm(database)
    Path("photo.jpg").touch()
    assert "mlruns/mlflow.db" in said("predict", "--photo", "photo.jpg")


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def a_page():
    """The address of a server that has a page for everything, and is no MLflow."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("variable", [access.TRACKING, access.REGISTRY])
@pytest.mark.parametrize("scheme", ["http", "HTTP", "postgresql+psycopg"])
def test_a_server_or_database_that_is_down_is_told(said, database, monkeypatch, variable, scheme):
    monkeypatch.setenv(variable, f"{scheme}://user:secret@127.0.0.1:1/x")
    line = said()
    assert "No answer from" in line and "user:***@127.0.0.1:1/x" in line and variable in line


@pytest.mark.system
@pytest.mark.parametrize("variable", [access.TRACKING, access.REGISTRY])
@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_one_that_never_answers_is_told_in_ten_seconds(
    said, database, silent, monkeypatch, variable, scheme
):
    monkeypatch.setenv(variable, f"{scheme}://{silent}/x")
    assert "No answer from" in said()


def test_a_server_of_something_else_is_told(said, a_page, monkeypatch):
    monkeypatch.setenv(access.TRACKING, f"http://{a_page}")
    assert f"Expected an MLflow server at http://{a_page}, got 200 OK" in said()
    monkeypatch.setenv(access.TRACKING, f"https://{a_page}")
    assert f"No secure connection to https://{a_page}" in said()


def test_a_database_address_that_cannot_be_read_is_told(said, monkeypatch):
    monkeypatch.setenv(access.TRACKING, "postgresql://user:secret@127.0.0.1:port/x")
    line = said()
    assert "user:***@127.0.0.1:port/x: expected http" in line and "secret" not in line


def test_a_database_whose_package_is_missing_names_it(said, monkeypatch):
    monkeypatch.setenv(access.TRACKING, "mysql://user:secret@127.0.0.1:1/x")
    line = said()
    assert "mysql://user:***@127.0.0.1:1/x needs the package 'MySQLdb'" in line


@pytest.mark.parametrize(
    "name",
    ["a b%", "a%20b", "a#b", "a?b", "a&b=c;d+e@f", "file:", "a'\"\\b\nü", "$HOME ~ {a}|[b]*"],
)
def test_a_clone_in_an_odd_folder_works_or_is_refused_before_anything_is_written(
    made_store, tmp_path, register, name
):
    clone = tmp_path / "clones" / name
    clone.mkdir(parents=True)
    try:
        access.check_path(clone / "mlflow.db")
    except ValueError:
        with pytest.raises(ValueError, match="Rename the folder"):
            tracking.connect(clone)
        assert not list(clone.iterdir())
        return
    shutil.copytree(made_store / "mlruns", clone / "mlruns")
    tracking.connect(clone)
    with tracking.run("work", experiment="tests") as run_id:
        tracking.log_text(run_id, "kept", "note.txt")
    register(run_id)
    assert tracking.read_text(run_id, "note.txt") == "kept"
    assert versions.pull("age-gender-A", "champion", clone / "A.h5").stat().st_size
    assert champions.read(clone / "mlruns" / "mlflow.db", "age-gender-A").h5.is_file()
    assert len(list(clone.glob("mlruns/artifacts/tests/models/**/*.h5"))) == 1
    assert [path.name for path in clone.parent.iterdir()] == [name]


@pytest.mark.parametrize("pattern", ["artifacts", "artifacts/tests/models/**/*.h5"])
def test_artifacts_that_were_deleted_are_told(said, database, register, pattern):
    register()
    for path in database.parent.glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Path("photo.jpg").touch()
    for arguments in (
        ["pull", "--model", "age-gender-A", "--to", "A.h5"],
        ["predict", "--photo", "photo.jpg"],
    ):
        line = said(*arguments)
        assert "age-gender-A version 1" in line and "restore it from a copy" in line
    assert not Path("A.h5").exists()


def test_there_is_no_version_0(said, database, register):
    register()
    for version in ("0", "-1", "2.5"):
        line = said("pull", "--model", "A", "--version", version, "--to", "A.h5")
        assert f"--version {version}: expected a whole number of 1 or more" in line
    with pytest.raises(ValueError, match="with the version 0"):
        pull_model.pull(model="age-gender-A", version=0, to=Path("A.h5"))
    assert not Path("A.h5").exists()
