"""The true pipeline, small: faces, searches, candidates, test, registry, exports, and again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from agegender.show import intervals

pytestmark = pytest.mark.system
REPOSITORY = Path(__file__).parents[1]
FLAGS = ["--preset", "smoke", "--seed", "0"]


def run(folder, *flags, stage="tune", **changes):
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "MLFLOW_TRACKING_URI": "",
        **changes,
    }
    return subprocess.run(
        [sys.executable, "-m", "pipelines", stage, *flags],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder in which `make tune` got Ctrl-C in its second trial and was begun again."""
    folder = tmp_path_factory.mktemp("clone")
    weights = REPOSITORY / ".cache" / "weights"
    if weights.exists():
        (folder / ".cache").mkdir()
        (folder / ".cache" / "weights").symlink_to(weights)
    with open(folder / "interrupted.txt", "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "tune", *FLAGS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": ""},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        give_up = time.monotonic() + 400
        while not list(folder.glob(".cache/searches/*/A/checkpoints/002/fold-0/*.npz")):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        status = process.wait(60)
    (folder / "status.txt").write_text(str(status))
    return folder, run(folder, *FLAGS)


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(place):
    folder, _ = place
    assert (folder / "status.txt").read_text() == "130"
    said = (folder / "interrupted.txt").read_text()
    assert "the same command goes on" in said and "Traceback" not in said


def test_goes_on_after_ctrl_c_and_ends_with_two_models(place):
    folder, done = place
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Going on from 1 finished trial, 1 interrupted." in done.stdout
    for family in "AB":
        assert (folder / "exports" / f"age_gender_{family}.h5").stat().st_size < 20e6
        assert f"age-gender-{family}-generated version 1" in done.stdout
    assert "test MAE" in done.stdout and "n = " in done.stdout
    assert "the numbers say nothing about people" in done.stdout
    assert "Warning" not in done.stderr


SCRIPT = """
import mlflow
from agegender.registry import tracking
from pathlib import Path
tracking.connect(Path.cwd())
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("age-gender-generated").experiment_id
runs = client.search_runs([experiment], max_results=1000)
for run in runs:
    tags = run.data.tags
    print(run.info.status, tags["role"], tags["family"], tags.get("mlflow.parentRunId", ""),
          len(run.data.params), len(run.inputs.dataset_inputs), sep=",")
for name in ("age-gender-A-generated", "age-gender-B-generated"):
    print(name, client.get_model_version_by_alias(name, "champion").version, sep=",")
print("looks", len(tracking.test_looks()), sep=",")
"""


def test_every_run_is_tracked_and_ended(place):
    folder, _ = place
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": ""}
    lines = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rows = [row for row in csv.reader(lines) if len(row) == 6]
    roles = sorted((row[0], row[1], row[2]) for row in rows)
    # The trial that was interrupted went on in its own run.
    assert roles.count(("FINISHED", "search", "A")) == 1 and len(roles) == 8
    for family in "AB":
        assert roles.count(("FINISHED", "trial", family)) == 2
        assert roles.count(("FINISHED", "finalist", family)) == 1
        assert f"age-gender-{family}-generated,1" in lines
    assert {status for status, _, _ in roles} == {"FINISHED"}
    assert all(row[3] for row in rows if row[1] != "search")
    assert all(int(row[4]) >= 3 and int(row[5]) == 1 for row in rows if row[0] == "FINISHED")
    # What all trials share is with the search, so that they are compared by what differs.
    assert {int(row[4]) for row in rows if row[:2] == ["FINISHED", "trial"]} == {5}
    assert "looks,2" in lines


def test_a_second_call_shows_the_result_and_trains_nothing(place):
    folder, first = place
    started = time.monotonic()
    again = run(folder, *FLAGS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [line for line in again.stdout.splitlines() if "test MAE" in line] == [
        line for line in first.stdout.splitlines() if "test MAE" in line
    ]
    assert "version 1" in again.stdout and "version 2" not in again.stdout
    assert time.monotonic() - started < 60


def test_leaves_evidence_card_and_predictions_with_each_model(place):
    folder, _ = place
    for family in "AB":
        (candidate,) = folder.glob(f".cache/searches/*/{family}/candidate")
        record = json.loads((candidate / "candidate.json").read_text())
        run = next(folder.glob(f"mlruns/artifacts/*/{record['run_id']}/artifacts"))
        predictions = pd.read_csv(run / "predictions.csv")
        assert len(predictions) == record["test"]["n"]
        error = (predictions.age_predicted - predictions.age_years).abs().mean()
        assert error == pytest.approx(record["test"]["mae"]["value"])
        assert 0 < record["evidence"]["intervals"]["test"]["value"] <= 1
        card = (run / "model_card.md").read_text()
        mae = intervals.digits(intervals.Interval.of(record["test"]["mae"]))
        assert f"{mae} |" in card
        assert "say nothing about people" in card and "No decision about a person" in card
        assert len(list((run / "test").glob("*.png"))) == 9


def test_pulls_the_champion_and_has_nothing_to_roll_back_to(place):
    folder, _ = place
    flags = ["--model", "B", "--generated"]
    pulled = run(folder, *flags, "--to", "B.h5", stage="pull")
    assert pulled.returncode == 0, pulled.stderr
    champion = folder / "exports" / "age_gender_B.h5"
    assert (folder / "B.h5").read_bytes() == champion.read_bytes()
    refused = run(folder, *flags, stage="rollback")
    assert refused.returncode == 2
    assert "no previous champion" in refused.stderr and "Traceback" not in refused.stderr


def test_the_report_holds_what_the_store_holds(place):
    folder, _ = place
    done = run(folder, stage="report")
    assert done.returncode == 0, done.stderr
    text = (folder / "reports" / "report-generated.html").read_text()
    for family in "AB":
        (candidate,) = folder.glob(f".cache/searches/*/{family}/candidate")
        record = json.loads((candidate / "candidate.json").read_text())
        for name in ("mae", "gender_accuracy"):
            shown = intervals.digits(intervals.Interval.of(record["test"][name]))
            assert f"<td>{shown}</td>" in text
        assert f"<td>{family}</td>" in text  # its look at the test
    assert "What is missing" not in text and "say nothing about people" in text
    assert (folder / "reports" / "report-generated.pdf").stat().st_size < 2**20
    # It is kept beside the runs that it is about.
    assert len(list(folder.glob("mlruns/artifacts/pages/*/artifacts/report-generated.*"))) == 2


@pytest.mark.slow
def test_a_version_reproduces_itself(place):
    folder, _ = place
    flags = ["--model", "A", "--version", "1", "--generated"]
    done = run(folder, *flags, stage="reproduce")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reproduced, to the digit" in done.stdout


@pytest.mark.parametrize("stage", ["tune", "prepare"])
def test_a_wrong_folder_is_one_clear_line(tmp_path, stage):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "missing"):
        done = run(tmp_path, "--data", source, stage=stage)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and source in done.stderr
