"""A search killed at random moments, by SIGKILL, ends as the one that was left alone."""

import os
import random
import signal
import time
from pathlib import Path

import pytest


def killed_and_left_alone(new_place, family, trials, workers, kills, seed):
    """Compare a search that is killed so often with one that is not; return a line of figures."""
    alone = new_place("alone", family, trials, workers)
    status, output = alone.run()
    assert status == 0, output
    killed = new_place("killed", family, trials, workers)
    generator, finished = random.Random(seed), []
    for hit in range(kills):
        # Some while it starts, the others a moment after something was kept.
        events = generator.choice([0, 1, 1, 2, 3]) if hit else 3
        until = killed.after(events, generator.uniform(0, 2 if events else 12))
        status, output = killed.run(until=until)
        assert status == -signal.SIGKILL, output
        before, finished = finished, [trial for trial in killed.journal() if trial["metrics"]]
        assert finished[: len(before)] == before  # Nothing that was finished ran again.
    status, output = killed.run()
    assert status == 0, output
    journal = killed.journal()
    if workers == 1:
        assert alone.results() == killed.results()
    assert [trial["number"] for trial in journal] == list(range(1, trials + 1))
    runs = killed.runs()
    assert sorted(runs) == sorted(trial["run_id"] for trial in journal)  # One run a trial.
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for run in runs.values():
        assert run["steps"] == list(range(1, len(run["steps"]) + 1))
    if workers == 1:
        expected = {run["name"]: run["losses"] for run in alone.runs().values()}
        assert {run["name"]: run["losses"] for run in runs.values()} == expected
    assert not list((killed.folder / "search" / "checkpoints").iterdir())
    return f"{family}, {workers} workers: {kills} kills, {trials} trials, differences: none"


def test_a_few_kills_change_nothing(new_place):
    killed_and_left_alone(new_place, "A", trials=2, workers=1, kills=3, seed=2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are read from /proc")
def test_a_dead_trial_is_taken_over_and_a_hopeless_one_is_recorded(new_place):
    """Of the first trial the process is killed after an epoch, of the second each one at once."""
    place = new_place("place", "A", trials=3, faces=100, epochs=2)
    process = place.start()
    killed = {1: set(), 2: set(), 3: set()}
    while process.poll() is None:
        for trial in place.journal():
            victims, checkpoint = killed[trial["number"]], f"checkpoints/{trial['number']:03d}"
            trained = list(place.folder.glob(f"search/{checkpoint}/*/*.npz"))
            if trial["told"] is None and (trial["number"] == 2 or trained and not victims):
                # Trials are forked from a child of the search.
                for child in place.processes(process.pid)[1]:
                    if trial["number"] < 3 and child not in victims:
                        victims.add(child)
                        os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    assert process.returncode == 0
    assert [len(victims) for victims in killed.values()] == [1, 3, 0]
    first, second, third = place.journal()
    assert [t["status"] for t in (first, second, third)] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "signal 9, 3 times" in second["message"]
    runs = {run["name"]: run for run in place.runs().values()}
    assert {name: run["status"] for name, run in runs.items()} == {
        "A 001 · smoke · seed 0": "FINISHED",
        "A 003 · smoke · seed 0": "FINISHED",
    } | {name: "FAILED" for name in runs if name == "A 002 · smoke · seed 0"}
    assert runs["A 001 · smoke · seed 0"]["steps"] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "workers", "kills"), [("A", 1, 20), ("B", 1, 20), ("A", 2, 10)])
def test_many_kills_change_nothing(new_place, record_property, family, workers, kills):
    line = killed_and_left_alone(new_place, family, trials=8, workers=workers, kills=kills, seed=1)
    record_property("figures", line)
