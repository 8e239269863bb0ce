"""A search: trials, budget, resume.

Keras Tuner's oracles propose; this loop asks, runs and tells, several trials at once if wanted. The
journal, one JSON file written atomically when a trial begins and when it ends, is the whole state:
an oracle is a function of its seed and of what it was asked and told, in that order, so a restart
replays the journal instead of trusting a pickled optimiser, and takes up what was running.
"""

import concurrent.futures
import dataclasses
import json
import math
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
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
Tell = Callable[[float | None], None]
Proposal = tuple[dict[str, Any], Tell]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which settings are tried, and for how long.

    space: declares the hyperparameters to search.
    algorithm: a key of ALGORITHMS.
    fewest_trials: this many are run even if the time is over.
    rungs, factor, known: of "priorband", see `oracle.Oracle`.
    """

    space: Callable[[keras_tuner.HyperParameters], object]
    algorithm: str
    seed: int
    most_trials: int
    fewest_trials: int = 1
    rungs: tuple[int, ...] = (1, 3)
    factor: int = 3
    known: tuple[dict[str, Any], ...] = ()


def make_oracle(plan: Plan, directory: str) -> keras_tuner.Oracle:
    """Return Keras Tuner's oracle over all parameters of the space, to minimise val_score."""
    parameters = keras_tuner.HyperParameters()
    plan.space(parameters)
    # Repeated proposals are answered from the journal, so the oracle may see more than it runs.
    budget: dict[str, Any] = {"max_trials": 20 * plan.most_trials}
    if plan.algorithm == "hyperband":
        budget = {"max_epochs": 9, "factor": 3}
    elif plan.algorithm == "priorband":
        budget |= {"rungs": plan.rungs, "factor": plan.factor, "known": plan.known}
    elif plan.algorithm == "bayesian":
        # Left to itself it draws three random settings a dimension: more than a short search has.
        budget["num_initial_points"] = 4
    made = ALGORITHMS[plan.algorithm](
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
        parameters, values = trial.hyperparameters, trial.hyperparameters.values
        names = [p.name for p in parameters.space if parameters.is_active(p)]
        names += sorted(values.keys() - hyperparameters.setting(values).keys())
        active = {name: values[name] for name in names if name in values}
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

    run: trains the values of a trial and returns it with its result; called in threads.
    forget: gets each trial once its result is in the journal, and again where the search goes on.
    follow: gets all results after each new one.
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
    workers: how many trials run at once.
    stop_at: on time.monotonic()'s clock; a trial that would likely end later is not started, unless
        there are fewer than the plan's `fewest_trials`.
    """
    with tempfile.TemporaryDirectory() as directory:
        asks = proposals(make_oracle(plan, directory))
        under_way = _Search(runner, plan, path, stop_at, report, asks)
        under_way.replay()
        under_way.run(workers)
    report(progress.Progress(runner.name, 1, 1))
    done = sorted(under_way.results, key=lambda trial: trial.number)
    if any(trial.status == "COMPLETED" for trial in done):
        report("\n".join(standing.leaders(done)))
    return done


class _Search:
    """A search under way.

    trials: by number; results: those that ended, in the order in which they did.
    asks, tells: what the oracle proposes, and how it is told the result of each trial that runs.
    """

    def __init__(
        self,
        runner: Runner,
        plan: Plan,
        path: Path,
        stop_at: float,
        report: progress.Report,
        asks: Iterator[Proposal | None],
    ):
        self.runner, self.plan, self.path, self.asks = runner, plan, path, asks
        self.stop_at, self.report = stop_at, report
        self.tells: dict[int, Tell] = {}
        self.trials = journal.read(path)
        ended = [trial for trial in self.trials if trial.told is not None]
        self.results = sorted(ended, key=lambda trial: trial.told or 0)
        self.waiting = [trial for trial in self.trials if trial.told is None]
        for trial in self.results:
            runner.forget(trial)  # It may have been killed before it could.
        if self.trials:
            finished = standing.count(len(ended), "finished trial")
            interrupted = f", {len(self.waiting)} interrupted" if self.waiting else ""
            report(f"  Going on from {finished}{interrupted}.")

    def replay(self) -> None:
        """Ask and tell the oracle what it was asked and told."""
        for count in range(len(self.results) + 1):
            for trial in self.trials:
                if trial.asked_after == count:
                    values, tell = next(self.asks, None) or (None, None)
                    if tell is None or values != trial.values:
                        raise journal.SearchError(
                            f"{self.path} was written by another search: trial {trial.number} had "
                            f"{trial.values}, this search would try {values}. Move it away."
                        )
                    self.tells[trial.number] = tell
            if count < len(self.results):
                self.tell(self.results[count])
        self.check_failures()

    def run(self, workers: int) -> None:
        """Run trials, `workers` at once."""
        self.show()
        with concurrent.futures.ThreadPoolExecutor(workers) as threads:
            futures: dict[concurrent.futures.Future[journal.Trial], int] = {}
            try:
                while True:
                    while len(futures) < workers and (trial := self.next_trial()):
                        futures[threads.submit(self.attempt, trial)] = trial.number
                    if not futures:
                        return
                    ended, _ = concurrent.futures.wait(
                        futures, return_when=concurrent.futures.FIRST_COMPLETED
                    )
                    for future in sorted(ended, key=futures.__getitem__):
                        del futures[future]
                        self.keep(future.result())
                    self.check_failures()
            finally:
                self.runner.stop()  # Before the threads are waited for.

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
        journal.write(self.path, self.trials)
        return trial

    def attempt(self, trial: journal.Trial) -> journal.Trial:
        """Run a trial; return it with its result or, where it raises, as failed."""
        started = time.monotonic()
        try:
            return self.runner.run(trial)
        except Exception as error:
            # A full disk is no trial's fault.
            if isinstance(error, journal.SearchError) or disk.full(error, Path.cwd()):
                raise
            message = traceback.format_exc()
            seconds = time.monotonic() - started
            return dataclasses.replace(trial, status="FAILED", message=message, seconds=seconds)

    def keep(self, ended: journal.Trial) -> None:
        """Put a trial that has ended into the journal; then tell the oracle and the user."""
        trial = dataclasses.replace(ended, told=len(self.results))
        self.trials[trial.number - 1] = trial
        self.results.append(trial)
        journal.write(self.path, self.trials)
        self.runner.forget(trial)
        self.tell(trial)
        self.runner.follow(self.results)
        if line := standing.result_line(self.results):
            self.report(line)
        self.show()

    def tell(self, trial: journal.Trial) -> None:
        """Tell the oracle a result."""
        self.tells.pop(trial.number)(trial.val_score if trial.status == "COMPLETED" else None)

    def show(self) -> None:
        """Say how far the search is."""
        self.report(
            standing.progress_of(
                self.results, self.plan.most_trials, self.stop_at, self.runner.name
            )
        )

    def check_failures(self) -> None:
        """Raise SearchError where the last trials all failed."""
        last = self.results[-MOST_FAILURES_IN_A_ROW:]
        if [trial.status for trial in last] == ["FAILED"] * MOST_FAILURES_IN_A_ROW:
            raise journal.SearchError(
                f"{MOST_FAILURES_IN_A_ROW} trials in a row failed, the last with:\n"
                f"{last[-1].message}"
            )
