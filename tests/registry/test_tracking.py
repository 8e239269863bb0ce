"""Runs end, paths survive a move, versions are registered once: on a store of each test's own."""

import io
import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import matplotlib.figure
import mlflow
import numpy as np
import pandas as pd
import pytest

from agegender.data import pixels
from agegender.registry import epochs, ledger, provenance, tracking, versions

REPOSITORY = Path(__file__).parents[2]
DIGEST = "0123456789abcdef0123456789abcdef"


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    experiment_id = client.get_run(parent).info.experiment_id
    inside = f"tags.`mlflow.parentRunId` = '{parent}'"
    for child in client.search_runs([experiment_id], inside):
        assert child.data.metrics == {"number": int(child.info.run_name)}
        assert child.info.status == "FINISHED"
    assert len(client.search_runs([experiment_id], inside)) == 4


def test_a_run_is_resumed_and_made_anew_where_it_is_gone(client):
    with tracking.run("first", experiment="tests", params={"seed": 0}) as first:
        tracking.log_epoch(first, {"epoch": 0, "val_score": 0.5})
    with tracking.run("first", experiment="tests", run_id=first, params={"seed": 0}) as resumed:
        assert client.get_run(first).info.status == "RUNNING"
        for epoch in range(2):
            tracking.log_epoch(first, {"epoch": epoch, "val_score": 0.4})
    points = client.get_metric_history(first, "epochs/val_score")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.4)]
    client.delete_run(first)
    for gone in (first, "0" * 32):
        with tracking.run("first", experiment="tests", run_id=gone) as new:
            assert new != gone
    assert resumed == first


def test_a_whole_history_comes_back_and_what_is_not_finite_is_named(client):
    history = pd.DataFrame({"epoch": range(300), "loss": np.linspace(2, 1, 300), "a": 0.0, "b": 1})
    history.loc[7, "loss"] = math.nan
    with tracking.run("long", experiment="tests") as run_id:
        for epoch in history.to_dict("records"):
            tracking.log_epoch(run_id, epoch)
        tracking.log_metrics(run_id, {"loss": 0.5})
    with tracking.run("odd", experiment="tests") as odd:
        tracking.log_metrics(odd, {"loss": 0.5, "score": np.float32(math.inf)})
    series = client.get_metric_history(run_id, "epochs/loss/training")
    assert {metric.step: metric.value for metric in series} == {
        epoch + 1: loss for epoch, loss in history.loss.items() if epoch != 7
    }
    data = client.get_run(run_id).data
    # The whole run's figure is what the table of runs shows, not the last epoch's.
    assert data.metrics["loss"] == 0.5 and data.tags["metrics_not_finite"] == "epochs/loss/training"
    data = client.get_run(odd).data
    assert data.metrics == {"loss": 0.5} and data.tags["metrics_not_finite"] == "score"


def test_what_earlier_versions_logged_is_read_and_gone_on_with(client):
    with tracking.run("old", experiment="tests") as run_id:
        for name, value in (("age_mae", 5.0), ("val_age_mae", 6.0), ("val_score", 0.5)):
            client.log_metric(run_id, f"epochs/{name}", value, step=1)
        tracking.log_epoch(run_id, {"epoch": 1, "age_mae": 4.0, "val_age_mae": 5.5, "val_score": 0})
    history = epochs.history(run_id)
    assert history[["epoch", "age_mae", "val_age_mae", "val_score"]].to_numpy().tolist() == [
        [0, 5.0, 6.0, 0.5],
        [1, 4.0, 5.5, 0.0],
    ]


def test_the_pages_of_a_run_begin_with_the_score_and_pair_training_with_validation(client):
    row = {"epoch": 0, "learning_rate": 1.0, "age_mae": 1.0, "val_age_mae": 1.0, "val_score": 1.0}
    with tracking.run("one", experiment="tests") as run_id:
        tracking.log_epoch(run_id, row)
    # The UI makes a section of what is before the last slash, and sorts sections and charts.
    sections = {}
    for name in sorted(client.get_run(run_id).data.metrics):
        sections.setdefault(name.rpartition("/")[0], []).append(name.rpartition("/")[2])
    assert sorted(sections.items())[:2] == [
        ("epochs", ["val_score"]),
        ("epochs/age_mae", ["training", "validation"]),
    ]


def test_the_shortest_training_has_its_processor_and_memory(client):
    with tracking.run("short", experiment="tests") as run_id, tracking.system_metrics(run_id):
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            pass
    metrics = client.get_run(run_id).data.metrics
    assert metrics["system/cpu_utilization_percentage"] > 0
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100


@pytest.mark.parametrize(
    "log",
    [
        lambda run_id: tracking.log_epoch(run_id, {"epoch": 1, "x" * 300: 1.0}),
        lambda run_id: tracking.log_metrics(run_id, {"x" * 300: 1.0}),
    ],
)
def test_metrics_that_cannot_be_written_fail_the_run(client, log):
    with (
        pytest.raises(mlflow.MlflowException, match="maximum length"),
        tracking.run("lost", experiment="tests") as run_id,
    ):
        tracking.log_epoch(run_id, {"epoch": 0, "loss": 1.0})
        deadline = time.monotonic() + 20
        while not client.get_metric_history(run_id, "epochs/loss/training"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        log(run_id)
        tracking.log_epoch(run_id, {"epoch": 2, "loss": 0.5})
    assert client.get_run(run_id).info.status == "FAILED"
    # What `log` wrote and the third epoch are written together.
    assert [p.step for p in client.get_metric_history(run_id, "epochs/loss/training")] == [1]


def test_short_epochs_are_written_together_and_what_failed_keeps_them(client):
    with (
        pytest.raises(ZeroDivisionError),
        tracking.run("failed", experiment="tests") as run_id,
    ):
        writer = epochs.Writer(run_id)
        for epoch in range(300):
            writer.add({"epoch": epoch, "loss": 1.0})
        futures.wait(writer.end())
        assert len(writer.writes) < 5
        for epoch in range(4):
            tracking.log_epoch(run_id, {"epoch": epoch, "val_score": 0.5})
        raise ZeroDivisionError
    for name, count in (("loss/training", 300), ("val_score", 4)):
        assert len(client.get_metric_history(run_id, f"epochs/{name}")) == count


def test_artifacts_and_dataset(client, tmp_path):
    manifest = pd.DataFrame(
        {"name": list("abc"), "age_years": [1, 2, 3], "gender": 1, "race": 0, "split": "train"}
    )
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    with tracking.run("full", experiment="tests") as run_id:
        manifest.to_csv(tmp_path / "manifest.csv", index=False)
        faces = pixels.Faces(tmp_path, manifest, None, DIGEST, "utkface", {})
        tracking.log_dataset(run_id, faces, "trial")
        tracking.log_figure(run_id, figure, "curve.png")
        tracking.log_table(run_id, manifest, "manifest.csv")
    assert {file.path for file in client.list_artifacts(run_id)} == {"curve.png", "manifest.csv"}
    back = pd.read_csv(io.StringIO(tracking.read_text(run_id, "manifest.csv")))
    assert tracking.read_text(run_id, "else.csv") is None
    pd.testing.assert_frame_equal(back, manifest, check_dtype=False)
    (link,) = client.get_run(run_id).inputs.dataset_inputs
    assert (link.dataset.name, link.dataset.digest) == ("utkface", DIGEST)
    assert json.loads(link.dataset.profile) == {"num_rows": 3, "train": 3}
    assert mlflow.data.get_source(link.dataset).load() == str(tmp_path / "manifest.csv")


def test_tags_tell_the_origin():
    tags = provenance.tags(DIGEST, "generated")
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


@pytest.mark.system
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


A_WRITER = """
import sys, time
from pathlib import Path
from agegender.registry import tracking
tracking.connect(Path(sys.argv[1]))
print("ready", flush=True)
stop_at = time.monotonic() + float(sys.stdin.readline())
runs, slowest_seconds = 0, 0.0
while not runs or time.monotonic() < stop_at:
    started = time.monotonic()
    with tracking.run(f"writer {sys.argv[2]}", experiment="tests", params={"depth": 3}) as run_id:
        for epoch in range(10):
            tracking.log_epoch(run_id, {"epoch": epoch} | dict.fromkeys("abcdefgh", epoch))
    runs += 1
    slowest_seconds = max(slowest_seconds, time.monotonic() - started)
print(runs, slowest_seconds)
"""


@pytest.mark.system
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_four_processes_write_into_one_sqlite_store_at_once(client, root, seconds, record_property):
    writers = [start(A_WRITER, root, number) for number in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
    said = [writer.communicate(f"{seconds}\n") for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, said
    assert not any(errors for _, errors in said), said
    counts, slowest_seconds = zip(*(map(float, line.split()) for line, _ in said), strict=True)
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    assert len(runs) == sum(counts)
    for run in runs:
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "epochs/h/training")
        assert sorted((point.step, point.value) for point in points) == [
            (epoch + 1, epoch) for epoch in range(10)
        ]
    record_property(
        "figures",
        f"SQLite, 4 processes, {seconds} s: {10 * sum(counts) / seconds:.0f} epochs a second, "
        f"slowest run of 10 epochs {max(slowest_seconds):.1f} s, none locked",
    )


def test_a_moved_store_is_mended(root, tmp_path, network_h5, register, capfd):
    with tracking.run("before", experiment="tests") as run_id:
        tracking.log_text(run_id, "kept", "note.txt")
    register(run_id)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    shutil.rmtree(root)
    tracking.connect(moved)
    errors = capfd.readouterr().err
    assert errors.count("paths are repaired") == 1 and str(root) in errors
    assert tracking.read_text(run_id, "note.txt") == "kept"
    pulled = versions.pull("age-gender-A", "champion", tmp_path / "pulled.h5")
    assert pulled.read_bytes() == network_h5.read_bytes()
    with tracking.run("after", experiment="tests") as after:
        tracking.log_text(after, "new", "note.txt")
    assert not root.exists()
    # No column of the database still holds the old folder.
    database = sqlite3.connect(moved / "mlruns" / "mlflow.db")
    dump = "\n".join(database.iterdump())
    database.close()
    assert str(root) not in dump and str(moved) in dump
    assert len(list(moved.glob("mlruns/artifacts/tests/models/**/*.h5"))) == 1
    tracking.connect(moved)
    assert "repaired" not in capfd.readouterr().err


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


def test_the_ledger_keeps_every_look(root):
    assert ledger.looks().empty
    for family in "AB":
        ledger.note(family * 32, "final evaluation", {"family": family})
    looks = ledger.looks()
    assert list(looks.family) == ["A", "B"] and list(looks.run_id) == ["A" * 32, "B" * 32]
    assert looks.user.all() and looks.when.is_monotonic_increasing
