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
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import keras_tuner
import threadpoolctl

from agegender import disk, hyperparameters, progress
from tuning import journal, oracle, standing

MOST_FAILURES_IN_A_ROW = 5
ALGORITHMS = {
    "priorband": oracle.Oracle,
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}
Space = Callable[[keras_tuner.HyperParameters], object]  # declares what is searched
Tell = Callable[[float | None], None]
Proposal = tuple[dict[str, Any], Tell]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which settings are tried, and for how long.

    algorithm: a key of ALGORITHMS. most_trials, fewest_trials: at least the second number, however
        long they take.
    rungs, factor, known: of "priorband", see `oracle.Oracle`.
    """

    space: Space
    algorithm: str
    seed: int
    most_trials: int
    fewest_trials: int = 1
    rungs: tuple[int, ...] = (1, 3)
    factor: int = 3
    known: tuple[dict[str, Any], ...] = ()


def make_oracle(plan: Plan, directory: str) -> keras_tuner.Oracle:
    """Return Keras Tuner's oracle over all parameters of the space, to minimise val_score."""
    algorithm = plan.algorithm
    if algorithm not in ALGORITHMS:
        raise journal.SearchError(
            f"ALGORITHM must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}."
        )
    parameters = keras_tuner.HyperParameters()
    plan.space(parameters)
    # Repeated proposals are answered from the journal, so the oracle may see more than it runs.
    budget: dict[str, Any] = {"max_trials": 20 * plan.most_trials}
    if algorithm == "hyperband":
        budget = {"max_epochs": 9, "factor": 3}
    elif algorithm == "priorband":
        budget |= {"rungs": plan.rungs, "factor": plan.factor, "known": plan.known}
    elif algorithm == "bayesian":
        # Left to itself it draws three random settings a dimension: more than a short search has.
        budget["num_initial_points"] = 4
    made = ALGORITHMS[algorithm](
        objective=keras_tuner.Objective("val_score", "min"),
        hyperparameters=parameters,
        # Keras Tuner takes seed 0 for 'none given'.
        seed=plan.seed + 1,
        max_consecutive_failed_trials=10**9,
        **budget,
    )
    made.verbose = 0
    made._set_project_dir(directory, "oracle")
    return made


def proposals(asked: keras_tuner.Oracle) -> Iterator[Proposal | None]:
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
            trial = asked.create_trial(f"search {count}")
        if trial.status != "RUNNING":
            if not asked.ongoing_trials:
                return
            yield None
            continue
        if not count:
            defaults = keras_tuner.HyperParameters.from_config(asked.get_space().get_config())
            trial.hyperparameters.values |= hyperparameters.setting(defaults.values)
        count += 1
        parameters = trial.hyperparameters
        active = {
            parameter.name: parameters.values[parameter.name]
            for parameter in parameters.space
            if parameters.is_active(parameter) and parameter.name in parameters.values
        }
        own = parameters.values.keys() - hyperparameters.setting(parameters.values).keys()
        active |= {name: parameters.values[name] for name in sorted(own)}
        key = json.dumps(active, sort_keys=True)

        def tell(score: float | None, trial: Any = trial, key: str = key) -> None:
            told[key] = score
            trial.status = "FAILED" if score is None else "COMPLETED"
            if score is not None:
                asked.update_trial(trial.trial_id, {"val_score": score})
            asked.end_trial(trial)

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
    follow: gets all results whenever there is one more.
    stop: called when the search ends, to end what runs or could run trials.
    name: what the search's progress is reported under.
    """

    run: Callable[[journal.Trial], journal.Trial]
    forget: Callable[[journal.Trial], None] = lambda trial: None
    follow: Callable[[list[journal.Trial]], None] = lambda results: None
    stop: Callable[[], None] = lambda: None
    name: str = "search"


def search(
    runner: Runner,
    plan: Plan,
    *,
    path: Path,
    workers: int = 1,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> list[journal.Trial]:
    """Run trials until the plan's are run or no time is left; return the finished, in order.

    runner: what its `run` raises is recorded as a failed trial with its traceback; five in a row
        raise SearchError. A SearchError and a full disk (OSError) end the search at once.
    path: the journal. Finished trials of an earlier, interrupted call in it are taken as they are;
        those that were running are run first, under their numbers.
    workers: so many trials run at once.
    stop_at: on time.monotonic()'s clock; a trial that would likely end later is not started, unless
        there are fewer than the plan's `fewest_trials`.
    """
    trials = journal.read(path)
    results = sorted((t for t in trials if t.told is not None), key=lambda trial: trial.told or 0)
    for trial in results:
        runner.forget(trial)  # It may have been killed before it could.
    if trials:
        running = len(trials) - len(results)
        interrupted = f", {running} interrupted" if running else ""
        report(f"  Going on from {standing.count(len(results), 'finished trial')}{interrupted}.")
    with tempfile.TemporaryDirectory() as directory:
        asks = proposals(make_oracle(plan, directory))
        tells = _replay(asks, trials, results, path)
        state = _State(path, trials, results, asks, tells, plan, stop_at, report)
        report(standing.progress_of(results, plan.most_trials, stop_at, runner.name))
        with contextlib.closing(_run_trials(runner, state, workers)) as ended:
            for _ in ended:
                runner.follow(results)
                if standing.is_news(results):
                    report(standing.result_line(results))
                report(standing.progress_of(results, plan.most_trials, stop_at, runner.name))
        report(progress.Progress(runner.name, 1, 1))
    done = sorted(results, key=lambda trial: trial.number)
    if any(trial.status == "COMPLETED" for trial in done):
        report("\n".join(standing.leaders(done)))
    return done


@dataclasses.dataclass
class _State:
    """A search under way.

    trials: by number; results: those that ended, in the order in which they did.
    asks, tells: what the oracle proposes, and how it is told the result of each trial that runs.
    """

    path: Path
    trials: list[journal.Trial]
    results: list[journal.Trial]
    asks: Iterator[Proposal | None]
    tells: dict[int, Tell]
    plan: Plan
    stop_at: float
    report: progress.Report

    def __post_init__(self) -> None:
        self.waiting = [trial for trial in self.trials if trial.told is None]

    def save(self) -> None:
        """Write the journal."""
        journal.write(self.path, self.trials)

    def next_trial(self) -> journal.Trial | None:
        """Return the trial to run next; None where there is none, or none yet."""
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.trials) >= self.plan.most_trials:
            return None
        seconds = [trial.seconds for trial in self.results if trial.status == "COMPLETED"]
        likely_seconds = statistics.median(seconds) if seconds else 0
        late = time.monotonic() + 1.1 * likely_seconds > self.stop_at
        if late and len(self.trials) >= self.plan.fewest_trials:
            self.report(f"  No time for another trial of about {likely_seconds:.0f} s.")
            return None
        if (asked := next(self.asks, None)) is None:
            return None
        trial = journal.Trial(len(self.trials) + 1, asked[0], asked_after=len(self.results))
        self.tells[trial.number] = asked[1]
        self.trials.append(trial)
        self.save()
        return trial

    def keep(self, ended: journal.Trial) -> journal.Trial:
        """Put a trial that has ended into the journal; return it with its place."""
        trial = dataclasses.replace(ended, told=len(self.results))
        self.trials[trial.number - 1] = trial
        self.results.append(trial)
        self.save()
        return trial


def _run_trials(
    runner: Runner, state: _State, workers: int
) -> Generator[journal.Trial, None, None]:
    """Run trials, `workers` at once; yield each that has ended, once the oracle was told."""
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        futures: dict[concurrent.futures.Future[journal.Trial], int] = {}
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
        finally:
            runner.stop()  # Before the threads are waited for.


def _replay(
    asks: Iterator[Proposal | None],
    trials: list[journal.Trial],
    results: list[journal.Trial],
    path: Path,
) -> dict[int, Tell]:
    """Ask and tell an oracle what it was asked and told; return how to tell it the rest."""
    tells: dict[int, Tell] = {}
    for count in range(len(results) + 1):
        for trial in trials:
            if trial.asked_after == count:
                values, tell = next(asks, None) or (None, None)
                if tell is None or values != trial.values:
                    raise journal.SearchError(
                        f"{path} was written by another search: trial {trial.number} had "
                        f"{trial.values}, this search would try {values}. Move it away."
                    )
                tells[trial.number] = tell
        if count < len(results):
            tells.pop(results[count].number)(_score(results[count]))
    _check_failures(results)
    return tells


def _score(trial: journal.Trial) -> float | None:
    return trial.val_score if trial.status == "COMPLETED" else None


def _check_failures(results: list[journal.Trial]) -> None:
    last = results[-MOST_FAILURES_IN_A_ROW:]
    if len(last) == MOST_FAILURES_IN_A_ROW and all(trial.status == "FAILED" for trial in last):
        raise journal.SearchError(
            f"{MOST_FAILURES_IN_A_ROW} trials in a row failed, the last with:\n{last[-1].message}"
        )


def _run(
    run_trial: Callable[[journal.Trial], journal.Trial], trial: journal.Trial
) -> journal.Trial:
    started = time.monotonic()
    try:
        return run_trial(trial)
    except Exception as error:
        # A full disk is no trial's fault.
        if isinstance(error, journal.SearchError) or disk.full(error, Path.cwd()):
            raise
        message = traceback.format_exc()
        seconds = time.monotonic() - started
        return dataclasses.replace(trial, status="FAILED", message=message, seconds=seconds)
