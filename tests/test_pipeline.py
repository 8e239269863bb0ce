"""The pipeline as its user has it: interrupted, begun again, called twice."""

import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest

from agegender.registry import ledger, tracking

pytestmark = pytest.mark.system
FLAGS = ["--preset", "smoke", "--seed", "0"]


def run(folder, *flags, stage="tune"):
    command = [sys.executable, "-m", "pipelines", stage, *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=540)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder in which `make tune` got Ctrl-C in its second trial and was begun again."""
    folder = tmp_path_factory.mktemp("clone")
    with open(folder / "interrupted.txt", "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "tune", *FLAGS],
            cwd=folder,
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
    return folder, status, run(folder, *FLAGS)


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(place):
    folder, status, _ = place
    assert status == 130
    said = (folder / "interrupted.txt").read_text()
    assert "run the same command to continue" in said and "Traceback" not in said


def test_goes_on_after_ctrl_c_and_ends_with_two_models(place):
    folder, _, done = place
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming after 1 finished trial, 1 interrupted." in done.stdout
    for family in "AB":
        assert (folder / "exports" / f"age_gender_{family}.h5").stat().st_size < 20e6
        assert f"age-gender-{family}-generated version 1" in done.stdout
    assert "test MAE" in done.stdout and "n = " in done.stdout
    assert "the numbers say nothing about people" in done.stdout
    assert "Warning" not in done.stderr


def test_the_interrupted_trial_went_on_in_its_own_run(place):
    folder, *_ = place
    tracking.connect(folder)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("age-gender-generated")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    roles = [(run.data.tags["role"], run.data.tags["family"]) for run in runs]
    assert sorted(roles) == sorted(
        (role, family) for family in "AB" for role in ("search", "trial", "trial", "finalist")
    )
    assert len(ledger.looks()) == 2


def test_a_second_call_shows_the_result_and_trains_nothing(place):
    folder, _, first = place
    started = time.monotonic()
    again = run(folder, *FLAGS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [line for line in again.stdout.splitlines() if "test MAE" in line] == [
        line for line in first.stdout.splitlines() if "test MAE" in line
    ]
    assert "version 1" in again.stdout and "version 2" not in again.stdout
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_version_reproduces_itself(place):
    folder, *_ = place
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
