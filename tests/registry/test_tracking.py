"""Runs end, paths survive a move, versions are registered once: on a store of each test's own."""

import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import matplotlib.figure
import mlflow
import numpy as np
import pandas as pd
import pytest

from agegender.registry import tracking

REPOSITORY = Path(__file__).parents[2]
DIGEST = "0123456789abcdef0123456789abcdef"
pytestmark = [
    # MLflow's own: nothing that we could do about it.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]


@pytest.fixture(scope="module")
def made_store(tmp_path_factory):
    """An empty store; making its tables takes over a second, copying them nothing."""
    root = tmp_path_factory.mktemp("made")
    tracking.connect(root)
    return root


@pytest.fixture
def root(made_store, tmp_path):
    folder = tmp_path / "a clone, 100%"
    shutil.copytree(made_store, folder)
    tracking.connect(folder)
    return folder


@pytest.fixture
def client(root):
    return mlflow.MlflowClient()


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def register(run_id, h5_path, **changes):
    arguments = {
        "model_name": "age-gender-A",
        "run_id": run_id,
        "h5_path": h5_path,
        "metrics": {"test_mae": 6.54321},
        "tags": {"licence": "research only", "data.kind": "generated"},
        "example": np.zeros((2, 128, 128, 3), np.uint8),
        "description": "A network.",
    }
    return tracking.register_version(**arguments | changes)


def aliases(client):
    found = client.get_registered_model("age-gender-A").aliases
    return {alias: int(version) for alias, version in found.items()}


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
    + [(SystemExit, "KILLED")],
)
def test_a_run_ends_as_its_work_did(client, error, status):
    try:
        with tracking.run("work", experiment="tests", params={"depth": 3}) as run_id:
            assert client.get_run(run_id).info.status == "RUNNING"
            if error:
                raise error("what happened")
    except BaseException as raised:
        assert type(raised) is error
    run = client.get_run(run_id)
    assert run.info.status == status and run.info.end_time
    assert run.data.params == {"depth": "3"}
    if status == "FAILED":
        text = Path(client.download_artifacts(run_id, "traceback.txt")).read_text()
        assert "ValueError: what happened" in text and __file__ in text


def test_runs_nest_and_are_independent_of_threads(client):
    def work(parent, number):
        with tracking.run(f"{number}", experiment="tests", parent_run_id=parent) as run_id:
            tracking.log_metrics(run_id, {"number": number})

    with tracking.run("parent", experiment="tests") as parent:
        threads = [threading.Thread(target=work, args=(parent, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    table = tracking.children("tests", parent)
    assert sorted(table.number) == [0, 1, 2, 3]
    assert set(table.name) == {"0", "1", "2", "3"} and set(table.status) == {"FINISHED"}


def test_a_run_is_resumed_and_made_anew_where_it_is_gone(client):
    with tracking.run("first", experiment="tests", params={"seed": 0}) as first:
        pass
    with tracking.run("first", experiment="tests", run_id=first, params={"seed": 0}) as resumed:
        assert client.get_run(first).info.status == "RUNNING"
    client.delete_run(first)
    for gone in (first, "0" * 32):
        with tracking.run("first", experiment="tests", run_id=gone) as new:
            assert new != gone
    assert resumed == first


def test_a_whole_history_comes_back_and_what_is_not_finite_is_named(client):
    history = pd.DataFrame({"epoch": range(300), "loss": np.linspace(2, 1, 300), "a": 0.0, "b": 1})
    history.loc[7, "loss"] = math.nan
    with tracking.run("long", experiment="tests") as run_id:
        tracking.log_epochs(run_id, history)
        tracking.log_metrics(run_id, {"loss": 0.5, "score": np.float32(math.inf)})
    series = client.get_metric_history(run_id, "epochs/loss")
    assert {metric.step: metric.value for metric in series} == {
        epoch + 1: loss for epoch, loss in history.loss.items() if epoch != 7
    }
    data = client.get_run(run_id).data
    # The whole run's figure is what the table of runs shows, not the last epoch's.
    assert data.metrics["loss"] == 0.5 and "score" not in data.metrics
    assert data.tags["metrics_not_finite"] == "score"


def test_artifacts_and_dataset(client):
    manifest = pd.DataFrame(
        {"name": list("abc"), "age_years": [1, 2, 3], "gender": 1, "race": 0, "split": "train"}
    )
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    with tracking.run("full", experiment="tests") as run_id:
        tracking.log_dataset(
            run_id, manifest, name="faces", digest=DIGEST, source=__file__, context="trial"
        )
        tracking.log_figure(run_id, figure, "curve.png")
        tracking.log_table(run_id, manifest, "manifest.csv")
    assert {file.path for file in client.list_artifacts(run_id)} == {"curve.png", "manifest.csv"}
    back = pd.read_csv(client.download_artifacts(run_id, "manifest.csv"))
    pd.testing.assert_frame_equal(back, manifest, check_dtype=False)
    (link,) = client.get_run(run_id).inputs.dataset_inputs
    assert (link.dataset.name, link.dataset.digest) == ("faces", DIGEST)
    assert json.loads(link.dataset.profile) == {"num_rows": 3, "train": 3}
    assert mlflow.data.get_source(link.dataset).load() == __file__


def test_tags_tell_the_origin():
    tags = tracking.common_tags(DIGEST, "generated")
    assert tags["data.kind"] == "generated" and tags["data.digest"] == DIGEST
    assert tags["device"] in {"cpu", "gpu", "tpu"} and all(tags.values())


TWO_AT_ONCE = """
import sys, time
from pathlib import Path
from agegender.registry import tracking
tracking.connect(Path(sys.argv[1]))
with tracking.run("at once", experiment="tests") as run_id:
    print(run_id, flush=True)
    time.sleep(60)
"""


def test_two_processes_make_one_store_and_their_death_is_seen(tmp_path):
    processes = [start(TWO_AT_ONCE, tmp_path) for _ in range(2)]
    try:
        run_ids = [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    errors = [process.communicate()[1] for process in processes]
    assert all(run_ids), errors
    tracking.connect(tmp_path)
    client = mlflow.MlflowClient()
    with tracking.run("mine", experiment="tests") as mine:
        assert tracking.repair_stale_runs("tests") == 2
        assert client.get_run(mine).info.status == "RUNNING"
    for run_id in run_ids:
        run = client.get_run(run_id)
        assert run.info.status == "KILLED" and "was gone" in run.data.tags["killed"]
    assert tracking.repair_stale_runs("tests") == 0


IN_THE_COPY = """
import sys
from pathlib import Path
import mlflow
from agegender.registry import tracking
root, run_id = Path(sys.argv[1]), sys.argv[2]
tracking.connect(root)
print(Path(mlflow.MlflowClient().download_artifacts(run_id, "note.txt")).read_text())
print(tracking.pull("age-gender-A", "champion", root / "pulled.h5"))
with tracking.run("after", experiment="tests") as after:
    tracking.log_text(after, "new", "note.txt")
"""


def test_a_moved_store_is_mended(root, tmp_path, network_h5, capfd):
    with tracking.run("before", experiment="tests") as run_id:
        tracking.log_text(run_id, "kept", "note.txt")
    register(run_id, network_h5)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    shutil.rmtree(root)
    process = start(IN_THE_COPY, moved, run_id)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.split() == ["kept", str(moved / "pulled.h5")]
    assert (moved / "pulled.h5").read_bytes() == network_h5.read_bytes()
    assert errors.count("paths are mended") == 1 and str(root) in errors
    assert not root.exists()
    # No column of the database still holds the old folder.
    database = sqlite3.connect(moved / "mlruns" / "mlflow.db")
    dump = "\n".join(database.iterdump())
    database.close()
    assert str(root) not in dump and str(moved) in dump
    assert len(list(moved.glob("mlruns/artifacts/tests/models/**/*.h5"))) == 1
    tracking.connect(moved)
    assert "mended" not in capfd.readouterr().err


def test_the_copy_of_a_living_store_leaves_the_original_alone(root, tmp_path, client):
    with tracking.run("before", experiment="tests") as run_id:
        tracking.log_text(run_id, "original", "note.txt")
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(root, copy)
    link.symlink_to(root)
    uris = [tracking.connect(folder) for folder in (copy, root, link)]
    assert uris[1] == uris[2] != uris[0]
    for folder in (copy, root):
        tracking.connect(folder)
        place = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
        assert place.startswith(f"{folder}/mlruns/artifacts/tests/")


def test_the_users_store_comes_first_and_a_bad_path_is_told(made_store, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Rename the folder"):
        tracking.connect(tmp_path / "what?")
    shutil.copytree(made_store / "mlruns", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine/mlflow.db")
    assert tracking.connect(tmp_path) == f"sqlite:///{tmp_path}/mine/mlflow.db"
    assert not (tmp_path / "mlruns").exists()


def test_a_deleted_experiment_is_told(client):
    with tracking.run("first", experiment="tests"):
        pass
    client.delete_experiment(client.get_experiment_by_name("tests").experiment_id)
    with (
        pytest.raises(ValueError, match="experiments restore"),
        tracking.run("second", experiment="tests"),
    ):
        pass


def test_versions_are_registered_once_and_only_the_first_is_champion(client, network_h5, tmp_path):
    with tracking.run("train", experiment="tests") as first:
        tracking.log_metrics(first, {"test_mae": 6.5})
    with tracking.run("train", experiment="tests") as second:
        pass
    assert not tracking.has_alias("age-gender-A", "champion")
    assert [register(run_id, network_h5) for run_id in (first, second, first)] == [1, 2, 1]
    assert aliases(client) == {"champion": 1, "challenger": 2}
    # A promotion is not undone by a pipeline that is started again.
    client.set_registered_model_alias("age-gender-A", "champion", "2")
    assert register(first, network_h5) == 1
    assert aliases(client)["champion"] == 2
    version = client.get_model_version("age-gender-A", "1")
    assert version.run_id == first and version.description == "A network."
    assert version.tags["test_mae"] == "6.543" and version.tags["licence"] == "research only"
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == {"test_mae": 6.5}


def test_an_alias_lost_to_a_kill_is_set_by_the_next_call(client, network_h5):
    with tracking.run("train", experiment="tests") as run_id:
        pass
    register(run_id, network_h5)
    client.delete_registered_model_alias("age-gender-A", "champion")
    client.delete_model_version_tag("age-gender-A", "1", "entered_as")
    assert register(run_id, network_h5) == 1
    assert tracking.has_alias("age-gender-A", "champion")


def test_pull_refuses_a_changed_file_and_keeps_the_old(root, network_h5, tmp_path):
    with tracking.run("train", experiment="tests") as run_id:
        pass
    register(run_id, network_h5)
    to = tmp_path / "exports" / "A.h5"
    tracking.pull("age-gender-A", "champion", to)
    (stored,) = root.glob("mlruns/artifacts/**/artifacts/*.h5")
    stored.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        tracking.pull("age-gender-A", "champion", to)
    assert to.read_bytes() == network_h5.read_bytes()
    assert [path.name for path in to.parent.iterdir()] == ["A.h5"]
    with pytest.raises(ValueError, match="No model 'age-gender-A' with the alias 'best'"):
        tracking.pull("age-gender-A", "best", to)


def test_the_ledger_keeps_every_look(root):
    assert tracking.test_looks().empty
    for family in "AB":
        tracking.record_test_look(family * 32, "final evaluation", {"family": family})
    looks = tracking.test_looks()
    assert list(looks.family) == ["A", "B"] and list(looks.run_id) == ["A" * 32, "B" * 32]
    assert set(looks.purpose) == {"final evaluation"} and looks.user.all()
    assert looks.when.is_monotonic_increasing
