"""Processes of their own: what they return, how they die, what they may use."""

import multiprocessing.forkserver
import os
import re
import signal
import time
from pathlib import Path

import pytest

from agegender import progress
from agegender.networks import fit
from tuning import fork_server, journal, workers


def work(report, *, way="return", marks=None, seconds=30):
    if marks is not None:
        marks.mkdir(exist_ok=True)
        (marks / str(os.getpid())).touch()
    if way == "return":
        report("a line")
        report(progress.Progress("a part", 1, 2, seconds_left=3.5))
        return {"process": os.getpid(), "cores": sorted(os.sched_getaffinity(0))}
    if way == "grow":
        return len(bytearray(os.urandom(1)) * 2**28) and os.getpid()
    if way == "raise":
        raise fit.TrainingDivergedError("nan")
    if way == "full disk":
        raise OSError(28, "No space left on device", "here")
    if way == "not pickled":
        raise type("Local", (Exception,), {})("odd")
    if way == "die once" and len(list(marks.iterdir())) > 1:
        return "at last"
    if way in ("die", "die once"):
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(10 * seconds):
        if way == "slow":
            report(progress.Progress("slow", 0, 1))
        time.sleep(0.1)
    return "slow but sure"


@pytest.fixture
def run():
    def call(processes=None, report=lambda line: None, **arguments):
        processes = processes or workers.Processes(1, silent_seconds=20)
        return processes.run(work, arguments, report)

    return call


def test_a_call_returns_from_another_process_and_reports(run):
    lines = []
    first, second = (run(report=lines.append) for _ in range(2))
    assert len({first["process"], second["process"], os.getpid()}) == 3
    assert first["cores"] == sorted(os.sched_getaffinity(0))
    assert lines == 2 * ["a line", progress.Progress("a part", 1, 2, seconds_left=3.5)]


def test_a_process_serves_many_calls_before_it_is_replaced(run, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "MOST_SERVED", 3)
    monkeypatch.setattr(workers, "MOST_GROWTH_BYTES", 2**27)
    processes = workers.Processes(1, silent_seconds=20)
    served = [run(processes)["process"] for _ in range(4)]
    assert served[0] == served[1] == served[2] != served[3]
    with pytest.raises(fit.TrainingDivergedError):
        run(processes, way="raise")
    after_failure = run(processes)["process"]
    assert after_failure != served[3]
    grown = run(processes, way="grow")
    assert grown == after_failure != run(processes)["process"]
    processes.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(grown, 0)


def test_a_process_that_was_killed_while_it_waited_is_replaced(run):
    processes, lines = workers.Processes(1, silent_seconds=20), []
    first = run(processes)["process"]
    os.kill(first, signal.SIGKILL)
    assert run(processes, report=lines.append)["process"] != first
    assert "attempt 1 of 3" in lines[0]
    processes.stop()


@pytest.mark.skipif(not fork_server.FORKS, reason="trials are forked on Linux alone")
def test_the_server_of_forks_starts_early_and_leaves_ctrl_c_to_this_process():
    before = signal.getsignal(signal.SIGINT)
    fork_server.start()
    assert signal.getsignal(signal.SIGINT) is before is not signal.SIG_IGN
    server = multiprocessing.forkserver._forkserver._forkserver_pid
    status = Path(f"/proc/{server}/status").read_text()
    ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16)
    assert ignored & 1 << (signal.SIGINT - 1)


def test_what_it_raises_is_raised_here_with_the_traceback_of_there(run):
    with pytest.raises(fit.TrainingDivergedError, match="nan") as raised:
        run(way="raise")
    assert "in work" in raised.value.__notes__[0]
    with pytest.raises(journal.SearchError, match="No space left.*same command to continue"):
        run(way="full disk")
    with pytest.raises(RuntimeError, match="odd"):
        run(way="not pickled")


def test_a_killed_process_is_replaced_and_given_up_in_the_end(run, tmp_path):
    lines = []
    assert run(way="die once", marks=tmp_path / "once", report=lines.append) == "at last"
    assert lines == ["  A trial's process died (signal 9): attempt 1 of 3."]
    with pytest.raises(workers.TrialError, match="signal 9, 3 times"):
        run(way="die", marks=tmp_path / "always")
    assert len(list((tmp_path / "always").iterdir())) == workers.ATTEMPTS


@pytest.mark.system
def test_what_hangs_is_ended_and_what_is_slow_is_not(run):
    processes = workers.Processes(1, silent_seconds=1.5)
    started = time.monotonic()
    with pytest.raises(workers.TrialError, match="No epoch ended"):
        run(processes, way="hang")
    assert time.monotonic() - started < 15
    assert run(processes, way="slow", seconds=3) == "slow but sure"


@pytest.mark.system
def test_stopping_ends_what_runs(run, tmp_path):
    processes = workers.Processes(1, silent_seconds=60)
    stopped = []

    def stop(_):
        stopped.append(time.monotonic())
        processes.stop()

    with pytest.raises(journal.SearchError, match="Stopped"):
        run(processes, stop, way="slow", marks=tmp_path / "marks")
    assert time.monotonic() - stopped[0] < 15
    for mark in (tmp_path / "marks").iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.name), 0)


def test_gpus_are_counted_without_their_parts_and_without_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    tool = tmp_path / "nvidia-smi"
    listed = "printf 'GPU 0: NVIDIA\\n  MIG 1g.10gb Device 0\\nGPU 1: NVIDIA\\n'"
    for script, seen in ((listed, ["0", "1"]), ("echo No devices were found", [])):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert workers.visible_gpus() == seen


def test_cores_and_gpus_are_dealt_out(monkeypatch, run):
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    parts = workers.shares(4)
    assert [part["variables"]["CUDA_VISIBLE_DEVICES"] for part in parts] == ["3", "5", "3", "5"]
    assert {part["variables"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] for part in parts} == {"0.45"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    parts = workers.shares(len(cores))
    assert sorted(core for part in parts for core in part["cores"]) == cores
    assert run(workers.Processes(len(cores), 20))["cores"] == parts[0]["cores"]
    # More than there are cores: each still has one.
    assert all(part["cores"] for part in workers.shares(len(cores) + 3))
