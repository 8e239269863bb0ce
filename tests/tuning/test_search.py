"""The loop around the oracles: budget, resume, repeats, failures."""

import itertools
import math
import multiprocessing
import time

import pytest

from tuning import search


def space(hp):
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    if hp.Choice("kind", ["plain", "deep"], default="plain") == "deep":
        with hp.conditional_scope("kind", ["deep"]):
            hp.Int("depth", 2, 6)


def score(values):
    return abs(math.log10(values["learning_rate"]) + 3) + (values["kind"] == "plain")


def run_trial(number, values):
    return search.Trial(number, values, "COMPLETED", {"val_score": score(values)} | FILL, 0.01)


FILL = {"val_age_mae": 5.0, "val_gender_accuracy": 0.9}


def run(path, algorithm="random", most_trials=8, seed=0, run_trial=run_trial, **changes):
    arguments = {"path": path / "trials.json", "report": lambda line: None} | changes
    return search.search(
        run_trial,
        changes.pop("space", space),
        algorithm=algorithm,
        seed=seed,
        most_trials=most_trials,
        **{key: value for key, value in arguments.items() if key != "space"},
    )


@pytest.mark.parametrize("algorithm", search.ALGORITHMS)
def test_the_defaults_come_first_and_nothing_runs_twice(tmp_path, algorithm):
    trials = run(tmp_path, algorithm, most_trials=14)
    assert len(trials) == 14
    assert (trials[0].values["learning_rate"], trials[0].values["kind"]) == (1e-2, "plain")
    assert "depth" not in trials[0].values
    assert len({str(sorted(trial.values.items())) for trial in trials}) == 14
    assert search.best(trials)[0].val_score == min(trial.val_score for trial in trials)


@pytest.mark.parametrize("algorithm", search.ALGORITHMS)
def test_a_seed_is_a_list_of_trials_and_zero_is_a_seed(tmp_path, algorithm):
    runs = [
        [trial.values for trial in run(tmp_path / name, algorithm, seed=seed)]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("algorithm", search.ALGORITHMS)
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, algorithm):
    whole = run(tmp_path / "whole", algorithm, most_trials=12)
    ran = []

    def interrupted(number, values):
        if number == 6 and 6 not in ran:
            ran.append(number)
            raise KeyboardInterrupt
        ran.append(number)
        return run_trial(number, values)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", algorithm, most_trials=12, run_trial=interrupted)
    assert run(tmp_path / "cut", algorithm, most_trials=12, run_trial=interrupted) == whole
    assert ran == [1, 2, 3, 4, 5, 6, *range(6, 13)]


def test_a_spent_space_ends_the_search(tmp_path):
    def two(hp):
        hp.Boolean("residual", True)

    trials = run(
        tmp_path,
        space=two,
        run_trial=lambda n, v: search.Trial(n, v, "COMPLETED", {"val_score": 1.0} | FILL, 0.0),
    )
    assert [trial.values["residual"] for trial in trials] == [True, False]


def test_failures_are_kept_with_their_traceback_and_five_in_a_row_stop(tmp_path):
    def sometimes(number, values):
        if number % 2:
            raise MemoryError("too wide")
        return run_trial(number, values)

    trials = run(tmp_path / "some", "bayesian", run_trial=sometimes)
    assert [trial.status for trial in trials] == ["FAILED", "COMPLETED"] * 4
    assert "MemoryError: too wide" in trials[0].message

    def never(number, values):
        raise RuntimeError(f"broken {number}")

    with pytest.raises(search.SearchError, match="5 trials in a row failed.*\n.*") as raised:
        run(tmp_path / "never", run_trial=never)
    assert "broken 5" in str(raised.value)
    with pytest.raises(search.SearchError, match="No trial"):
        search.best(search.read_journal(tmp_path / "never" / "trials.json"))


def test_no_trial_starts_that_would_end_too_late(tmp_path):
    def slow(number, values):
        time.sleep(0.05)
        trial = run_trial(number, values)
        trial.seconds = 10.0
        return trial

    trials = run(tmp_path, run_trial=slow, stop_at=time.monotonic() + 10.5)
    assert len(trials) == 1
    longer = run(tmp_path, run_trial=run_trial, most_trials=3)
    assert longer[0] == trials[0] and len(longer) == 3


@pytest.mark.parametrize("text", ["[{", "[]]", '{"a": 1}', '[{"number": 1}]'])
def test_a_torn_or_foreign_journal_is_named(tmp_path, text):
    (tmp_path / "trials.json").write_text(text)
    with pytest.raises(search.SearchError, match="trials.json is not a search's journal"):
        run(tmp_path)


def test_a_journal_of_other_settings_is_refused(tmp_path):
    run(tmp_path, seed=0)
    with pytest.raises(search.SearchError, match="written by another search"):
        run(tmp_path, seed=1)


def _hold(folder, ready, release):
    with search.hold(folder):
        ready.set()
        release.wait(20)


def test_two_processes_cannot_run_one_search(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(search.SearchError, match=f"process {other.pid}"), search.hold(tmp_path):
        pass
    release.set()
    other.join(20)
    with search.hold(tmp_path):
        pass


def test_progress_names_best_and_time_left():
    trials = list(itertools.starmap(run_trial, [(1, {"learning_rate": 1e-3, "kind": "deep"})]))
    assert "best trial 1: 0.000" in search.progress(trials, 4, math.inf)
