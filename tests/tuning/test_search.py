"""The loop around the oracles: budget, resume, repeats, failures."""

import dataclasses
import errno
import json
import math
import os
import random
import threading
import time

import pytest

from agegender import disk
from tuning import journal, search, standing

SEVEN = 7  # trials


def space(hp):
    hp.Float("head_learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    if hp.Choice("kind", ["plain", "deep"], default="plain") == "deep":
        with hp.conditional_scope("kind", ["deep"]):
            hp.Int("depth", 2, 6)


def score(values):
    return abs(math.log10(values["head_learning_rate"]) + 3) + (values["kind"] == "plain")


def run_trial(trial):
    metrics = {"val_score": score(trial.values)} | FILL
    return dataclasses.replace(trial, status="COMPLETED", metrics=metrics, seconds=0.01)


FILL = {"val_age_mae": 5.0, "val_gender_accuracy": 0.9}


def run(path, algorithm="random", most_trials=8, seed=0, run_trial=run_trial, **changes):
    planned = {"space": space, "fewest_trials": 1, "rungs": (1, 3)}
    planned |= {name: changes.pop(name) for name in planned.keys() & changes.keys()}
    plan = search.Plan(algorithm=algorithm, most_trials=most_trials, seed=seed, **planned)
    runner = search.Runner(run_trial, name="Search of B")
    arguments = {"path": path / "trials.json", "report": lambda line: None} | changes
    return search.search(runner, plan, **arguments)


@pytest.fixture(scope="module", params=search.ALGORITHMS)
def whole(request, tmp_path_factory):
    """An algorithm and its trials; from the fifth on the Bayesian one fits a model for each."""
    return request.param, run(tmp_path_factory.mktemp("whole"), request.param, SEVEN)


def test_the_defaults_come_first_and_nothing_runs_twice(whole):
    _, trials = whole
    assert len(trials) == SEVEN
    assert (trials[0].values["head_learning_rate"], trials[0].values["kind"]) == (1e-2, "plain")
    assert "depth" not in trials[0].values
    assert len({str(sorted(trial.values.items())) for trial in trials}) == SEVEN
    assert journal.best(trials)[0].val_score == min(trial.val_score for trial in trials)


def test_another_seed_is_another_list_of_trials_and_zero_is_a_seed(tmp_path, whole):
    algorithm, trials = whole
    other = run(tmp_path, algorithm, most_trials=3, seed=1)
    assert [trial.values for trial in other] != [trial.values for trial in trials[:3]]


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, whole):
    algorithm, trials = whole
    ran = []

    def interrupted(trial):
        ran.append(trial.number)
        if ran.count(6) == 1 and trial.number == 6:
            raise KeyboardInterrupt
        return run_trial(trial)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, algorithm, SEVEN, run_trial=interrupted)
    assert run(tmp_path, algorithm, SEVEN, run_trial=interrupted) == trials
    assert ran == [1, 2, 3, 4, 5, 6, 6, 7]


@pytest.mark.parametrize("algorithm", search.ALGORITHMS)
def test_several_at_once_killed_anywhere_lose_nothing_and_run_nothing_twice(tmp_path, algorithm):
    """The kill: the journal as it was at some moment, and a new start."""
    path, saved, ran, together = tmp_path / "trials.json", [], [], []
    lock, generator = threading.Lock(), random.Random(0)

    def uneven(trial):
        with lock:
            together.append(trial.number)
            saved.append((path.read_text(), len(ran)))
            pause = generator.uniform(0, 0.02)
        time.sleep(pause)
        with lock:
            ran.append(trial.number)
            together.remove(trial.number)
            assert len(together) < 3
        return run_trial(trial)

    whole = run(tmp_path, algorithm, SEVEN, run_trial=uneven, workers=3)
    assert [trial.number for trial in whole] == list(range(1, SEVEN + 1)) == sorted(ran)
    assert len({json.dumps(trial.values, sort_keys=True) for trial in whole}) == SEVEN
    for text, _ in saved[::3]:
        path.write_text(text)
        before = journal.read(path)
        finished = [trial for trial in before if trial.told is not None]
        ran.clear()
        again = run(tmp_path, algorithm, SEVEN, run_trial=uneven, workers=3)
        # What was proposed stays proposed; what was finished does not run again.
        assert [trial.values for trial in again[: len(before)]] == [t.values for t in before]
        assert [trial for trial in again if trial in finished] == finished
        assert sorted(ran) == sorted({*range(1, SEVEN + 1)} - {trial.number for trial in finished})


def test_a_full_disk_ends_the_search_with_its_state(tmp_path):
    def full(trial):
        if trial.number == 3:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise RuntimeError("what the store made of it") from error
        return run_trial(trial)

    with pytest.raises(RuntimeError) as raised:
        run(tmp_path, run_trial=full)
    assert "No space left" in disk.full(raised.value, tmp_path)
    statuses = [trial.status for trial in journal.read(tmp_path / "trials.json")]
    assert statuses == ["COMPLETED", "COMPLETED", "RUNNING"]
    assert run(tmp_path) == run(tmp_path / "whole")


def test_a_spent_space_ends_the_search(tmp_path):
    def two(hp):
        hp.Boolean("residual", True)

    def alike(trial):
        return dataclasses.replace(trial, status="COMPLETED", metrics={"val_score": 1.0} | FILL)

    trials = run(tmp_path, space=two, run_trial=alike)
    assert [trial.values["residual"] for trial in trials] == [True, False]


def test_failures_are_kept_with_their_traceback_and_five_in_a_row_stop(tmp_path):
    def sometimes(trial):
        if trial.number % 2:
            raise MemoryError("too wide")
        return run_trial(trial)

    trials = run(tmp_path / "some", "bayesian", run_trial=sometimes)
    assert [trial.status for trial in trials] == ["FAILED", "COMPLETED"] * 4
    assert "MemoryError: too wide" in trials[0].message

    def never(trial):
        raise RuntimeError(f"broken {trial.number}")

    with pytest.raises(journal.SearchError, match="5 trials in a row failed.*\n.*") as raised:
        run(tmp_path / "never", run_trial=never)
    assert "broken 5" in str(raised.value)
    with pytest.raises(journal.SearchError, match="No trial"):
        journal.best(journal.read(tmp_path / "never" / "trials.json"))


def test_no_trial_starts_that_would_end_too_late(tmp_path):
    def slow(trial):
        time.sleep(0.05)
        return dataclasses.replace(run_trial(trial), seconds=10.0)

    trials = run(tmp_path, run_trial=slow, stop_at=time.monotonic() + 10.5)
    assert len(trials) == 1
    longer = run(tmp_path, run_trial=run_trial, most_trials=3)
    assert longer[0] == trials[0] and len(longer) == 3


def test_a_trial_is_as_long_as_others_on_its_rung(tmp_path):
    def timed(trial):
        return dataclasses.replace(run_trial(trial), seconds=1e-3 if trial.rung == 0 else 60.0)

    # After the defaults, which start on the last rung, there is time for heads alone.
    plan = {"rungs": (0, 2), "run_trial": timed, "most_trials": 20}
    trials = run(tmp_path, "priorband", stop_at=time.monotonic() + 50, **plan)
    assert [trial.rung for trial in trials] == [1, 0, 0, 0]
    # With more time it goes on with what it had no time for.
    whole = run(tmp_path, "priorband", **plan)
    undisturbed = run(tmp_path / "whole", "priorband", **plan)
    assert [t.values for t in whole] == [t.values for t in undisturbed] and len(whole) == 20


def test_the_first_longer_trial_is_expected_to_take_longer(tmp_path):
    def timed(trial):
        return dataclasses.replace(run_trial(trial), seconds=20.0 * trial.values[journal.EPOCHS])

    # The fourth would be the first with three epochs, and take about 60 s.
    for left, rungs in ((50, [0, 0, 0]), (70, [0, 0, 0, 1])):
        stop_at = time.monotonic() + left
        trials = run(tmp_path / str(left), "priorband", stop_at=stop_at, run_trial=timed)
        assert [trial.rung for trial in trials][:4] == rungs


def test_of_the_first_trial_only_the_epochs_count(tmp_path):
    def timed(trial):
        done = run_trial(trial)
        seconds = 60.0 if trial.number == 1 else 20.0 * trial.rung
        metrics = done.metrics | {"epoch_seconds": 10.0}
        return dataclasses.replace(done, seconds=seconds, metrics=metrics)

    plan = {"rungs": (0, 2), "run_trial": timed, "most_trials": 20}
    for left, rungs in ((18, [1, 0, 0, 0]), (50, [1, 0, 0, 0, 1])):
        stop_at = time.monotonic() + left
        trials = run(tmp_path / str(left), "priorband", stop_at=stop_at, **plan)
        assert [trial.rung for trial in trials][:5] == rungs


def test_a_search_tries_its_fewest_settings_however_late_it_is(tmp_path):
    trials = run(tmp_path, fewest_trials=4, stop_at=time.monotonic() - 1)
    assert len(trials) == 4
    assert len(run(tmp_path / "none", stop_at=time.monotonic() - 1)) == 1


@pytest.mark.parametrize("text", ["[{", "[]]", '{"a": 1}', '[{"number": 1}]'])
def test_a_torn_or_foreign_journal_is_named(tmp_path, text):
    (tmp_path / "trials.json").write_text(text)
    with pytest.raises(journal.SearchError, match="trials.json is not a search's journal"):
        run(tmp_path)


def test_a_journal_of_other_settings_is_refused(tmp_path):
    run(tmp_path, seed=0)
    with pytest.raises(journal.SearchError, match="written by another search"):
        run(tmp_path, seed=1)


def test_a_search_that_is_held_names_who_holds_it(tmp_path):
    with (
        journal.hold(tmp_path),
        pytest.raises(journal.SearchError, match=f"process {os.getpid()}"),
        journal.hold(tmp_path),
    ):
        pass
    with journal.hold(tmp_path):
        pass


def finished(number, val_score=0.5, seconds=20.0):
    metrics = FILL | {"val_score": val_score}
    return journal.Trial(number, {}, "COMPLETED", metrics, seconds)


def test_a_finished_trial_is_a_line_and_the_best_is_marked():
    first, second = finished(1), finished(2, 0.6)
    failed = journal.Trial(3, {}, "FAILED", message="Traceback\n" + "ValueError: x" * 20)
    assert standing.result_line([first]).endswith("0.900    20 s  best so far")
    line = standing.result_line([first, second])
    assert "trial  2" in line and "val_score 0.600" in line and "best so far" not in line
    line = standing.result_line([first, second, failed])
    assert "trial  3  failed: ValueError" in line and len(line) <= standing.LINE_LENGTH


def test_progress_counts_the_trials_that_there_is_time_for():
    seen = standing.progress_of([], 12, math.inf, "Search of A")
    assert (seen.part, seen.done, seen.total, seen.seconds_left) == ("Search of A", 0, 12, None)
    results = [finished(1), finished(2, 0.4)]
    seen = standing.progress_of(results, 12, time.monotonic() + 65, "Search of A")
    assert (seen.done, seen.total) == (2, 5)
    assert seen.note == "trial 3 of 5, best 5.00 years, 0.900"
    assert seen.seconds_left == pytest.approx(60)
    seen = standing.progress_of(results, 12, time.monotonic() + 65, "Search of A", workers=2)
    assert seen.total == 8, "two at once"
    seen = standing.progress_of(results, 3, time.monotonic() + 65, "Search of A")
    assert seen.total == 3 and seen.seconds_left == pytest.approx(20)
    seen = standing.progress_of(results, 12, time.monotonic() + 25, "Search of A")
    assert seen.total == 3 and seen.seconds_left <= 25


def test_a_search_reports_how_far_it_is(tmp_path):
    said = []
    run(tmp_path, most_trials=3, report=said.append)
    lines = [line for line in said if isinstance(line, str)]
    parts = [part for part in said if not isinstance(part, str)]
    assert ["trial  1" in lines[0], "trial  3" in lines[2], len(lines)] == [True, True, 4]
    assert lines[3].startswith("  Best of 3 settings in 3 trials:") and lines[3].count("\n") == 3
    assert [part.done for part in parts] == [0, 1, 2, 3, 1]
    assert {part.part for part in parts} == {"Search of B"} and parts[-1].total == 1
