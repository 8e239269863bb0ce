"""A search: trials, budget, resume, parent and child runs.

Keras Tuner's oracles propose; this loop asks, runs and tells. The journal, one JSON file written
atomically after each trial, is the whole state: an oracle is a function of its seed and of the
results told so far, so a restart replays the journal instead of trusting a pickled optimiser.
"""

import dataclasses
import fcntl
import json
import math
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras_tuner

MOST_FAILURES_IN_A_ROW = 5
ALGORITHMS = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}


class SearchError(RuntimeError):
    """The search cannot go on; the message says why and what to do."""


@dataclasses.dataclass
class Trial:
    """One setting and what came of it; `metrics` are those of its best epoch."""

    number: int
    values: dict[str, object]
    status: str
    metrics: dict[str, float]
    seconds: float
    run_id: str = ""
    message: str = ""

    @property
    def val_score(self) -> float:
        """The score searched on; infinite where the trial failed."""
        return self.metrics.get("val_score", math.inf)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a search's folder, or raise SearchError naming the process that does."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SearchError(
                f"{folder} is held by {lock.read().strip()}, which runs the same search (data, "
                "preset and seed). Wait for it, or start another with SEED=."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        yield


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a restart after a crash, sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def read_journal(path: Path) -> list[Trial]:
    """Return the finished trials of a search, in order; SearchError where the file is not ours."""
    if not path.exists():
        return []
    try:
        return [Trial(**entry) for entry in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise SearchError(
            f"{path} is not a search's journal ({error}). Move it away to start anew."
        ) from error


def make_oracle(algorithm: str, space: Callable, seed: int, most_trials: int, directory: str):
    """Return Keras Tuner's oracle over all parameters of the space, to minimise val_score."""
    if algorithm not in ALGORITHMS:
        raise SearchError(f"ALGORITHM must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}.")
    parameters = keras_tuner.HyperParameters()
    space(parameters)
    budget = {"max_epochs": 9, "factor": 3} if algorithm == "hyperband" else {}
    if not budget:
        # Repeated proposals are answered from the journal, so the oracle may see more than it runs.
        budget["max_trials"] = 20 * most_trials
    if algorithm == "bayesian":
        # Left to itself it draws three random settings a dimension: more than a short search has.
        budget["num_initial_points"] = 4
    oracle = ALGORITHMS[algorithm](
        objective=keras_tuner.Objective("val_score", "min"),
        hyperparameters=parameters,
        # Keras Tuner takes seed 0 for 'none given'.
        seed=seed + 1,
        max_consecutive_failed_trials=10**9,
        **budget,
    )
    oracle.verbose = 0
    oracle._set_project_dir(directory, "oracle")
    return oracle


def proposals(oracle, told: dict[str, float | None]) -> Iterator[tuple[dict, Callable]]:
    """Yield (values, tell), each setting once, the defaults first; ends when the space is spent.

    tell(score) reports a result, None for a failure. A setting proposed again, as Keras Tuner's
    Bayesian search does, is answered with the score it got and not yielded.
    """
    first = True
    while True:
        trial = oracle.create_trial("search")
        if trial.status != "RUNNING":
            return
        if first:
            defaults = keras_tuner.HyperParameters.from_config(oracle.get_space().get_config())
            trial.hyperparameters.values |= {
                name: value
                for name, value in defaults.values.items()
                if not name.startswith("tuner/")
            }
            first = False
        parameters = trial.hyperparameters
        active = {
            parameter.name: parameters.values[parameter.name]
            for parameter in parameters.space
            if parameters.is_active(parameter) and parameter.name in parameters.values
        }
        active |= {name: v for name, v in parameters.values.items() if name.startswith("tuner/")}

        key = json.dumps(active, sort_keys=True)

        def tell(score, trial=trial, key=key):
            told[key] = score
            trial.status = "FAILED" if score is None else "COMPLETED"
            if score is not None:
                oracle.update_trial(trial.trial_id, {"val_score": score})
            oracle.end_trial(trial)

        if key in told:
            tell(told[key])
        else:
            yield active, tell


def search(
    run_trial: Callable[[int, dict], Trial],
    space: Callable,
    *,
    path: Path,
    algorithm: str,
    seed: int,
    most_trials: int,
    stop_at: float = math.inf,
    report: Callable[[str], None] = print,
) -> list[Trial]:
    """Run trials until there are `most_trials` or no time is left; return all, in order.

    run_trial(number, values) trains one setting and returns its Trial; what it raises is recorded
    as a failed trial with its traceback, five in a row raise SearchError. path: the journal; trials
    of an earlier, interrupted call in it are taken as they are. stop_at is on time.monotonic()'s
    clock: a trial that would likely end later is not started.
    """
    trials = read_journal(path)
    if trials:
        report(f"{len(trials)} finished trials found in {path}: going on from there.")
    with tempfile.TemporaryDirectory() as directory:
        oracle = make_oracle(algorithm, space, seed, most_trials, directory)
        known = iter(list(trials))
        for values, tell in proposals(oracle, {}):
            trial = next(known, None)
            if trial is not None:
                if trial.values != values:
                    raise SearchError(
                        f"{path} was written by another search: trial {trial.number} had "
                        f"{trial.values}, this search would try {values}. Move it away."
                    )
            else:
                seconds = [trial.seconds for trial in trials if trial.status == "COMPLETED"]
                likely_seconds = statistics.median(seconds) if seconds else 0
                if len(trials) >= most_trials:
                    break
                if time.monotonic() + 1.1 * likely_seconds > stop_at and trials:
                    report(f"Out of time for another trial of about {likely_seconds:.0f} s.")
                    break
                trial = _run(run_trial, len(trials) + 1, values)
                trials.append(trial)
                entries = [dataclasses.asdict(trial) for trial in trials]
                write_atomically(path, json.dumps(entries, indent=1))
                report(progress(trials, most_trials, stop_at))
            tell(trial.val_score if trial.status == "COMPLETED" else None)
            last = trials[-MOST_FAILURES_IN_A_ROW:]
            if len(last) == MOST_FAILURES_IN_A_ROW and all(t.status == "FAILED" for t in last):
                raise SearchError(
                    f"{MOST_FAILURES_IN_A_ROW} trials in a row failed, the last with:\n"
                    f"{last[-1].message}"
                )
    return trials


def _run(run_trial: Callable, number: int, values: dict) -> Trial:
    started = time.monotonic()
    try:
        return run_trial(number, values)
    except Exception:
        message = traceback.format_exc()
        return Trial(number, values, "FAILED", {}, time.monotonic() - started, message=message)


def best(trials: list[Trial], count: int = 1) -> list[Trial]:
    """Return the trials with the lowest val_score; SearchError where none completed."""
    completed = [trial for trial in trials if trial.status == "COMPLETED"]
    if not completed:
        raise SearchError("No trial of this search completed: nothing to train.")
    return sorted(completed, key=lambda trial: trial.val_score)[:count]


def progress(trials: list[Trial], most_trials: int, stop_at: float) -> str:
    """Return a line: this trial, the best so far, and the time that is left."""
    trial = trials[-1]
    result = f"val_score {trial.val_score:.3f}"
    if trial.status == "FAILED":
        result = trial.message.strip().splitlines()[-1]
    line = f"  trial {trial.number:2d} of at most {most_trials}: {result} in {trial.seconds:.0f} s"
    completed = [trial for trial in trials if trial.status == "COMPLETED"]
    if completed:
        leader = best(completed)[0]
        line += (
            f"; best trial {leader.number}: {leader.val_score:.3f} "
            f"({leader.metrics['val_age_mae']:.2f} years, "
            f"{leader.metrics['val_gender_accuracy']:.3f})"
        )
    left = statistics.mean(trial.seconds for trial in trials) * (most_trials - len(trials))
    left = min(left, stop_at - time.monotonic())
    return line + f"; about {max(0, left) / 60:.1f} min of search left"
