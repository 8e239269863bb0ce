"""A team's store: searches through a real server, refusals in a line, an outage without loss."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from agegender.data import pixels
from agegender.registry import tracking
from pipelines import __main__ as command
from tests.registry import team_server

pytest.importorskip("flask_wtf", reason="flask-wtf is not installed: no passwords in MLflow")
pytest.importorskip("psycopg", reason="psycopg is not installed: no PostgreSQL")
if team_server.programs() is None:
    pytest.skip("no PostgreSQL (Debian: postgresql)", allow_module_level=True)
pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]
MOST_SECONDS_FOR_TRAINING_TO_WAIT = 0.5


@pytest.fixture(scope="module")
def server():
    # Not in pytest's own folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="agegender-test-") as folder:
        server = team_server.TeamServer(Path(folder))
        server.start()
        yield server
        server.stop()
        shutil.rmtree(server.socket_folder)


@pytest.fixture
def connected(server, monkeypatch):
    """A client of the server; it asks again sooner, and gives up earlier, than by default."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "8")  # 190 s
    assert tracking.connect(Path("nowhere")) == f"http://127.0.0.1:{server.port}"
    return mlflow.MlflowClient()


def test_postgresql_itself_is_a_store_and_its_refusal_is_told(server, monkeypatch, capsys, root):
    monkeypatch.chdir(root)
    where = f"postgresql://{team_server.USER}@/{{}}?host={server.socket_folder}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where.format("postgres"))
    tracking.connect(root)
    with tracking.run("direct", experiment="direct") as run_id:
        tracking.log_metrics(run_id, {"loss": 0.5})
    assert mlflow.MlflowClient().get_run(run_id).data.metrics == {"loss": 0.5}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where.format("nowhere"))
    capsys.readouterr()
    assert command.main(["rollback", "--model", "A"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'refused the connection: database "nowhere" does not exist. Set' in line


SEARCH = """
import dataclasses, sys
from pathlib import Path
from agegender import config
from agegender.data import pixels
from agegender.registry import tracking
from tuning import experiment, family_search
root, seed = Path(sys.argv[1]), int(sys.argv[2])
tracking.connect(root)
settings = dataclasses.replace(config.PRESETS["smoke"], seed=seed)
settings = dataclasses.replace(settings, scratch=dataclasses.replace(settings.scratch, trials=1))
prepared = pixels.prepare(None, root / "data", seed=0, generated_faces=100)
faces = pixels.open_faces(prepared)
family_search.search_family(experiment.Job("A", faces, settings, root / "search", root))
"""


def test_runs_that_begin_at_once_link_to_one_dataset(connected):
    manifest = pd.DataFrame({"split": ["train", "test"]})
    where = (Path("faces"), manifest, None)
    at_once = threading.Barrier(8)

    def link(run_id, digest):
        at_once.wait()
        tracking.log_dataset(run_id, pixels.Faces(*where, digest, "generated", {}), "trial")
        return connected.get_run(run_id).inputs.dataset_inputs[0].dataset.digest

    experiment_id = connected.create_experiment("datasets")
    with futures.ThreadPoolExecutor(8) as pool:
        for digest in "abcde":
            run_ids = [connected.create_run(experiment_id).info.run_id for _ in range(8)]
            assert list(pool.map(link, run_ids, [digest] * 8)) == [digest] * 8


def test_two_searches_at_once_leave_everything_in_one_store(server, connected, tmp_path):
    searches = []
    for seed in range(2):
        root = tmp_path / str(seed)
        root.mkdir()
        searches.append(
            subprocess.Popen(
                [sys.executable, "-c", SEARCH, str(root), str(seed)],
                cwd=REPOSITORY,
                env={**os.environ, **server.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [search.communicate(timeout=300)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], said
    experiment = connected.get_experiment_by_name("age-gender-generated")
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    runs = connected.search_runs([experiment.experiment_id])
    parents = {run.info.run_id: run for run in runs if run.data.tags["role"] == "search"}
    trials = [run for run in runs if run.data.tags["role"] == "trial"]
    assert {run.data.params["seed"] for run in parents.values()} == {"0", "1"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == set(parents)
    for run in runs:
        assert run.info.status == "FINISHED" and len(run.inputs.dataset_inputs) == 1
        assert run.data.metrics["val_score"] > 0 and run.data.params
    for run in trials:
        steps = connected.get_metric_history(run.info.run_id, "epochs/val_score")
        assert [point.step for point in steps] == [1, 2]
        assert "Total params" in tracking.read_text(run.info.run_id, "model_summary.txt")
    # Through the proxy: the files are the server's, not where the search ran.
    assert len(list(server.folder.glob("artifacts/**/learning_curves.png"))) == 2
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong"}, "requires a valid login"),
        ({"MLFLOW_TRACKING_USERNAME": ""}, "requires a valid login"),
    ],
)
def test_a_refusal_is_one_line_and_comes_soon(connected, monkeypatch, capsys, changes, said):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    assert command.main(["ui", "--port", "0"]) == 2 and time.monotonic() - started < 5
    assert re.fullmatch(rf"agegender: .*{said}.*\n", capsys.readouterr().err)


def train(run_id, epochs, pause_seconds=0.1):
    """Log epochs as a training does; return the longest that one of them took."""
    slowest = 0.0
    for epoch in epochs:
        started = time.monotonic()
        tracking.log_epoch(run_id, {"epoch": epoch, "loss": 1 / (epoch + 1), "val_score": epoch})
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(pause_seconds)
    return slowest


def assert_all_written(client, run_id, count):
    assert client.get_run(run_id).info.status == "FINISHED"
    for name, value in (("loss/training", lambda epoch: 1 / (epoch + 1)), ("val_score", float)):
        points = client.get_metric_history(run_id, f"epochs/{name}")
        points.sort(key=lambda point: point.timestamp)
        assert [(point.step, point.value) for point in points] == [
            (epoch + 1, value(epoch)) for epoch in range(count)
        ]


def test_an_epoch_is_there_while_the_run_goes_on_and_never_twice(connected):
    with tracking.run("live", experiment="tests") as run_id:
        train(run_id, range(3))
        deadline = time.monotonic() + 20
        while len(connected.get_metric_history(run_id, "epochs/loss/training")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with tracking.run("live", experiment="tests", run_id=run_id):
        train(run_id, range(1, 5))
    assert_all_written(connected, run_id, 5)


def test_the_database_away_for_a_while_loses_nothing(server, connected):
    with tracking.run("no database", experiment="tests") as run_id:
        slowest = train(run_id, range(5))
        os.kill(server.postmaster(), signal.SIGQUIT)
        slowest = max(slowest, train(run_id, range(5, 25)))
        server.postgres("pg_ctl", "restart", f"--log={server.log}")
        slowest = max(slowest, train(run_id, range(25, 30)))
    assert slowest < MOST_SECONDS_FOR_TRAINING_TO_WAIT
    assert_all_written(connected, run_id, 30)


@pytest.mark.slow
def test_a_power_cut_of_a_minute_loses_nothing(server, connected, record_property):
    with tracking.run("power cut", experiment="tests") as run_id:
        slowest = train(run_id, range(20))
        server.cut_power()
        slowest = max(slowest, train(run_id, range(20, 80), pause_seconds=1))
        server.start()
        slowest = max(slowest, train(run_id, range(80, 100)))
        tracking.log_text(run_id, "after", "after.txt")
    assert slowest < MOST_SECONDS_FOR_TRAINING_TO_WAIT
    assert_all_written(connected, run_id, 100)
    assert tracking.read_text(run_id, "after.txt") == "after"
    record_property(
        "figures",
        f"PostgreSQL and server killed for a minute: 100 of 100 epochs written, in order; training "
        f"waited {slowest:.2f} s at most",
    )
