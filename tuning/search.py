"""A search: trials, budget, resume, parent and child runs.

Keras Tuner's oracles propose; this loop asks, runs and tells, several trials at once if wanted. The
journal, one JSON file written atomically when a trial begins and when it ends, is the whole state:
an oracle is a function of its seed and of what it was asked and told, in that order, so a restart
replays the journal instead of trusting a pickled optimiser, and takes up what was running.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import keras_tuner
import threadpoolctl

from agegender import disk, progress

MOST_FAILURES_IN_A_ROW = 5
# With fewer settings, what was found is hardly better than the defaults: the summary says so.
LEAST_TRIALS = 4
LINE_LENGTH = 110
ALGORITHMS = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}
Space = Callable[[keras_tuner.HyperParameters], object]  # declares what is searched
Tell = Callable[[float | None], None]
Proposal = tuple[dict[str, Any], Tell]


class SearchError(ValueError):
    """The search cannot go on; the message says why and what to do."""


@dataclasses.dataclass
class Trial:
    """One setting and what came of it; `metrics` are those of its best epoch.

    status: RUNNING, COMPLETED or FAILED. asked_after: so many results were known when it was
    proposed; told: its place among the results, from 0, or None where it has none.
    """

    number: int
    values: dict[str, object]
    status: str = "RUNNING"
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    run_id: str = ""
    message: str = ""
    asked_after: int = 0
    told: int | None = None

    @property
    def val_score(self) -> float:
        """The score searched on; infinite where the trial failed."""
        return self.metrics.get("val_score", math.inf)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a search's folder, or raise SearchError naming the process that does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context(disk.hold(path, wait=False))
        except BlockingIOError:
            raise SearchError(
                f"{folder} is held by {path.read_text()}, which runs the same search (data, preset "
                "and seed). Wait for it, or start another with SEED=."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        yield


def read_journal(path: Path) -> list[Trial]:
    """Return the trials of a search, by number; SearchError where the file is not ours."""
    if not path.exists():
        return []
    try:
        return [Trial(**entry) for entry in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise SearchError(
            f"{path} is not a search's journal ({error}). Move it away to start anew."
        ) from error


def make_oracle(
    algorithm: str, space: Space, seed: int, most_trials: int, directory: str
) -> keras_tuner.Oracle:
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


def proposals(oracle: keras_tuner.Oracle) -> Iterator[Proposal | None]:
    """Yield (values, tell), each setting once, the defaults first; ends when the space is spent.

    tell(score) reports a result, None for a failure. None is yielded where the oracle waits for
    results. A setting proposed again, as Keras Tuner's Bayesian search does, is answered with the
    score it got (none yet, while it runs) and not yielded.
    """
    told: dict[str, float | None] = {}
    count = 0
    while True:
        # Of the same client the oracle would think that it asks again for what it has.
        # Its matrices are so small that threads only wait for each other.
        with threadpoolctl.threadpool_limits(1):
            trial = oracle.create_trial(f"search {count}")
        if trial.status != "RUNNING":
            if not oracle.ongoing_trials:
                return
            yield None
            continue
        if not count:
            defaults = keras_tuner.HyperParameters.from_config(oracle.get_space().get_config())
            trial.hyperparameters.values |= {
                name: value
                for name, value in defaults.values.items()
                if not name.startswith("tuner/")
            }
        count += 1
        parameters = trial.hyperparameters
        active = {
            parameter.name: parameters.values[parameter.name]
            for parameter in parameters.space
            if parameters.is_active(parameter) and parameter.name in parameters.values
        }
        active |= {name: v for name, v in parameters.values.items() if name.startswith("tuner/")}
        key = json.dumps(active, sort_keys=True)

        def tell(score: float | None, trial: Any = trial, key: str = key) -> None:
            told[key] = score
            trial.status = "FAILED" if score is None else "COMPLETED"
            if score is not None:
                oracle.update_trial(trial.trial_id, {"val_score": score})
            oracle.end_trial(trial)

        if key in told:
            tell(told[key])
        else:
            told[key] = None
            yield active, tell


@dataclasses.dataclass(frozen=True)
class Runner:
    """What runs trials.

    run: trains the values of a trial and returns it with what came of it; called in threads.
    forget: gets each trial once its result is in the journal, and again where the search goes on.
    stop: called where the search ends early, to end the trials that run.
    name: what the search's progress is reported under.
    """

    run: Callable[[Trial], Trial]
    forget: Callable[[Trial], None] = lambda trial: None
    stop: Callable[[], None] = lambda: None
    name: str = "search"


def search(
    runner: Runner,
    space: Space,
    *,
    path: Path,
    algorithm: str,
    seed: int,
    most_trials: int,
    fewest_trials: int = 1,
    workers: int = 1,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> list[Trial]:
    """Run trials until there are `most_trials` or no time is left; return the finished, in order.

    runner: what its `run` raises is recorded as a failed trial with its traceback; five in a row
        raise SearchError. A SearchError and a full disk (OSError) end the search at once.
    path: the journal. Finished trials of an earlier, interrupted call in it are taken as they are;
        those that were running are run first, under their numbers.
    workers: so many trials run at once.
    stop_at: on time.monotonic()'s clock; a trial that would likely end later is not started, unless
        there are fewer than `fewest_trials`.
    """
    trials = read_journal(path)
    results = sorted((t for t in trials if t.told is not None), key=lambda trial: trial.told or 0)
    for trial in results:
        runner.forget(trial)  # It may have been killed before it could.
    if trials:
        running = len(trials) - len(results)
        interrupted = f", {running} interrupted" if running else ""
        report(f"  Going on from {count(len(results), 'finished trial')}{interrupted}.")
    with tempfile.TemporaryDirectory() as directory:
        asks = proposals(make_oracle(algorithm, space, seed, most_trials, directory))
        tells = _replay(asks, trials, results, path)
        counts = fewest_trials, most_trials
        state = _State(path, trials, results, asks, tells, *counts, stop_at, report)
        report(standing(results, most_trials, stop_at, runner.name))
        with contextlib.closing(_run_trials(runner, state, workers)) as ended:
            for _ in ended:
                report(result_line(results))
                report(standing(results, most_trials, stop_at, runner.name))
        report(progress.Progress(runner.name, 1, 1))
    return sorted(results, key=lambda trial: trial.number)


@dataclasses.dataclass
class _State:
    """A search under way.

    trials: by number; results: those that ended, in the order in which they did.
    asks, tells: what the oracle proposes, and how it is told the result of each trial that runs.
    """

    path: Path
    trials: list[Trial]
    results: list[Trial]
    asks: Iterator[Proposal | None]
    tells: dict[int, Tell]
    fewest_trials: int
    most_trials: int
    stop_at: float
    report: progress.Report

    def __post_init__(self) -> None:
        self.waiting = [trial for trial in self.trials if trial.told is None]

    def save(self) -> None:
        """Write the journal."""
        entries = [dataclasses.asdict(trial) for trial in self.trials]
        disk.write(self.path, json.dumps(entries, indent=1))

    def next_trial(self) -> Trial | None:
        """Return the trial to run next; None where there is none, or none yet."""
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.trials) >= self.most_trials:
            return None
        seconds = [trial.seconds for trial in self.results if trial.status == "COMPLETED"]
        likely_seconds = statistics.median(seconds) if seconds else 0
        late = time.monotonic() + 1.1 * likely_seconds > self.stop_at
        if late and len(self.trials) >= self.fewest_trials:
            self.report(f"  No time for another trial of about {likely_seconds:.0f} s.")
            return None
        if (asked := next(self.asks, None)) is None:
            return None
        trial = Trial(len(self.trials) + 1, asked[0], asked_after=len(self.results))
        self.tells[trial.number] = asked[1]
        self.trials.append(trial)
        self.save()
        return trial

    def keep(self, ended: Trial) -> Trial:
        """Put a trial that has ended into the journal; return it with its place."""
        trial = dataclasses.replace(ended, told=len(self.results))
        self.trials[trial.number - 1] = trial
        self.results.append(trial)
        self.save()
        return trial


def _run_trials(runner: Runner, state: _State, workers: int) -> Generator[Trial, None, None]:
    """Run trials, `workers` at once; yield each that has ended, once the oracle was told."""
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        futures: dict[concurrent.futures.Future[Trial], int] = {}
        try:
            while True:
                while len(futures) < workers and (trial := state.next_trial()):
                    futures[threads.submit(_run, runner.run, trial)] = trial.number
                if not futures:
                    return
                ended, _ = concurrent.futures.wait(
                    futures, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in sorted(ended, key=lambda future: futures[future]):
                    del futures[future]
                    trial = state.keep(future.result())
                    runner.forget(trial)
                    state.tells.pop(trial.number)(_score(trial))
                    yield trial
                _check_failures(state.results)
        except BaseException:
            runner.stop()  # Before the threads are waited for.
            raise


def _replay(
    asks: Iterator[Proposal | None], trials: list[Trial], results: list[Trial], path: Path
) -> dict[int, Tell]:
    """Ask and tell an oracle what it was asked and told; return how to tell it the rest."""
    tells: dict[int, Tell] = {}
    for count in range(len(results) + 1):
        for trial in trials:
            if trial.asked_after == count:
                values, tells[trial.number] = next(asks, None) or (None, None)
                if values != trial.values:
                    raise SearchError(
                        f"{path} was written by another search: trial {trial.number} had "
                        f"{trial.values}, this search would try {values}. Move it away."
                    )
        if count < len(results):
            tells.pop(results[count].number)(_score(results[count]))
    _check_failures(results)
    return tells


def _score(trial: Trial) -> float | None:
    return trial.val_score if trial.status == "COMPLETED" else None


def _check_failures(results: list[Trial]) -> None:
    last = results[-MOST_FAILURES_IN_A_ROW:]
    if len(last) == MOST_FAILURES_IN_A_ROW and all(trial.status == "FAILED" for trial in last):
        raise SearchError(
            f"{MOST_FAILURES_IN_A_ROW} trials in a row failed, the last with:\n{last[-1].message}"
        )


def _run(run_trial: Callable[[Trial], Trial], trial: Trial) -> Trial:
    started = time.monotonic()
    try:
        return run_trial(trial)
    except Exception as error:
        # A full disk is no trial's fault.
        if isinstance(error, SearchError) or disk.full(error, Path.cwd()):
            raise
        message = traceback.format_exc()
        seconds = time.monotonic() - started
        return dataclasses.replace(trial, status="FAILED", message=message, seconds=seconds)


def best(trials: list[Trial], count: int = 1) -> list[Trial]:
    """Return the trials with the lowest val_score; SearchError where none completed."""
    completed = [trial for trial in trials if trial.status == "COMPLETED"]
    if not completed:
        raise SearchError("No trial of this search completed: nothing to train.")
    return sorted(completed, key=lambda trial: trial.val_score)[:count]


def result_line(results: list[Trial]) -> str:
    """Return a line with the last of the results, marked where it is the best so far."""
    trial = results[-1]
    line = f"  trial {trial.number:>2}  "
    if trial.status == "FAILED":
        return f"{line}failed: {trial.message.strip().splitlines()[-1]}"[:LINE_LENGTH]
    leads = trial is best([one for one in results if one.status == "COMPLETED"])[0]
    line += f"val_score {trial.val_score:.3f}  {trial.metrics['val_age_mae']:5.2f} years  gender "
    line += f"{trial.metrics['val_gender_accuracy']:.3f}  {trial.seconds:4.0f} s"
    return line + "  best so far" * leads


def standing(
    results: list[Trial], most_trials: int, stop_at: float, name: str
) -> progress.Progress:
    """Return how far a search is: trials, of how many at this pace, the best, the time left."""
    total, seconds_left, note = most_trials, stop_at - time.monotonic(), ""
    if results:
        pace = max(1e-9, statistics.mean(trial.seconds for trial in results))
        more = int(min(most_trials - len(results), max(1, seconds_left / pace)))
        total = len(results) + more
        seconds_left = min(seconds_left, pace * more)
        note = f"trial {min(len(results) + 1, total)} of {total}"
    if any(trial.status == "COMPLETED" for trial in results):
        leader = best(results)[0]
        note += f", best {leader.val_score:.3f} ({leader.metrics['val_age_mae']:.2f} years, "
        note += f"{leader.metrics['val_gender_accuracy']:.3f})"
    finite = seconds_left if math.isfinite(seconds_left) else None
    return progress.Progress(name, len(results), total, note, finite)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where there are several."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
