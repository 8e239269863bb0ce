"""A search: trials, budget, resume.

Keras Tuner's oracles propose settings. This loop runs them, several at once if wanted, and reports
the results. The journal, one JSON file written atomically when a trial starts or ends, is the whole
state. An oracle depends only on its seed and the sequence of requests and results, so a restart
replays the journal instead of trusting a pickled optimiser, then resumes the interrupted trials.
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
HYPERBAND_EPOCHS = 9  # of its longest trials
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
    """The settings to try, and for how long.

    space: declares the hyperparameters to search.
    algorithm: a key of ALGORITHMS.
    fewest_trials: this many are run even if time is up.
    rungs, later_rungs, factor, known: for "priorband", see `oracle.Oracle`.
    """

    space: Callable[[keras_tuner.HyperParameters], object]
    algorithm: str
    seed: int
    most_trials: int
    fewest_trials: int = 1
    rungs: tuple[int, ...] = (1, 3)
    later_rungs: tuple[int, ...] = ()
    factor: int = 3
    known: tuple[dict[str, Any], ...] = ()


def make_oracle(plan: Plan, directory: str) -> keras_tuner.Oracle:
    """Return Keras Tuner's oracle over all parameters of the space, to minimise val_score."""
    parameters = keras_tuner.HyperParameters()
    plan.space(parameters)
    # Repeated proposals are answered from the journal, so the oracle may see more than are run.
    budget: dict[str, Any] = {"max_trials": 20 * plan.most_trials}
    if plan.algorithm == "hyperband":
        budget = {"max_epochs": HYPERBAND_EPOCHS, "factor": 3}
    elif plan.algorithm == "priorband":
        budget |= {"rungs": plan.rungs, "later_rungs": plan.later_rungs}
        budget |= {"factor": plan.factor, "known": plan.known}
    elif plan.algorithm == "bayesian":
        # By default it draws three random settings per dimension, more than a short search has.
        budget["num_initial_points"] = 4
    made = ALGORITHMS[plan.algorithm](
        objective=keras_tuner.Objective("val_score", "min"),
        hyperparameters=parameters,
        # Keras Tuner takes seed 0 to mean 'none given'.
        seed=plan.seed + 1,
        max_consecutive_failed_trials=10**9,
        **budget,
    )
    made.verbose = 0
    made._set_project_dir(directory, "oracle")
    return made


def proposals(asked: keras_tuner.Oracle) -> Iterator[Proposal | None]:
    """Yield (values, tell) once per setting, defaults first, until the space is exhausted.

    tell(score) reports a result, or None for a failure. None is yielded while the oracle waits for
    results. Keras Tuner's Bayesian search may propose a setting again. It is then not yielded but
    answered with its score, or None while it is running.
    """
    told: dict[str, float | None] = {}
    count = 0
    libraries = threadpoolctl.ThreadpoolController()  # Finding them takes 13 ms.
    while True:
        # For a name that it knows, the oracle would return the trial it gave out before.
        # Its matrices are so small that threads would only wait for each other.
        with libraries.limit(limits=1):
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
    """Callbacks that run trials.

    run: trains a trial's values and returns the trial with its result; called in threads.
    forget: gets each trial once its result is in the journal, and again when the search resumes.
    follow: gets all results after each new one.
    stop: called when the search ends, to end whatever runs or could run trials.
    name: the label of the search's progress.
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
    """Run trials until the plan is complete or time is up; return the finished ones in order.

    runner: an exception from its `run` is recorded as a failed trial with its traceback; five in a
        row raise SearchError. A SearchError or a full disk (OSError) ends the search at once.
    path: the journal. Trials that an earlier, interrupted call finished are taken as they are.
        Those that were running are run first, under their numbers.
    workers: number of trials that run at once.
    stop_at: on time.monotonic()'s clock. A trial that would likely end later is not started, unless
        there are fewer than the plan's `fewest_trials`.
    """
    with tempfile.TemporaryDirectory() as directory:
        asks = proposals(make_oracle(plan, directory))
        under_way = _Search(runner, plan, path, stop_at, report, asks, workers)
        under_way.replay()
        under_way.run()
    report(progress.Progress(runner.name, 1, 1))
    done = sorted(under_way.results, key=lambda trial: trial.number)
    if any(trial.status == "COMPLETED" for trial in done):
        report("\n".join(standing.leaders(done)))
    return done


class _Search:
    """A running search.

    trials: by number. results: the trials that ended, in the order of ending.
    asks: the oracle's proposals. tells: functions that tell it the result of each running trial.
    asked: a proposal that has not been started, as there seemed to be no time for it.
    """

    def __init__(
        self,
        runner: Runner,
        plan: Plan,
        path: Path,
        stop_at: float,
        report: progress.Report,
        asks: Iterator[Proposal | None],
        workers: int,
    ):
        self.runner, self.plan, self.path, self.asks = runner, plan, path, asks
        self.stop_at, self.report, self.workers = stop_at, report, workers
        self.tells: dict[int, Tell] = {}
        self.asked: tuple[journal.Trial, Tell] | None = None
        self.trials = journal.read(path)
        ended = [trial for trial in self.trials if trial.told is not None]
        self.results = sorted(ended, key=lambda trial: trial.told or 0)
        self.waiting = [trial for trial in self.trials if trial.told is None]
        for trial in self.results:
            runner.forget(trial)  # An earlier call may have been killed before doing so.
        if self.trials:
            finished = standing.count(len(ended), "finished trial")
            interrupted = f", {len(self.waiting)} interrupted" if self.waiting else ""
            report(f"  Resuming after {finished}{interrupted}.")

    def replay(self) -> None:
        """Repeat the earlier requests and results to the oracle."""
        for count in range(len(self.results) + 1):
            for trial in self.trials:
                if trial.asked_after == count:
                    values, tell = next(self.asks, None) or (None, None)
                    if tell is None or values != trial.values:
                        raise journal.SearchError(
                            f"{self.path} was written by another search: trial {trial.number} had "
                            f"{trial.values}, this one would try {values}. Move the file away."
                        )
                    self.tells[trial.number] = tell
            if count < len(self.results):
                self.tell(self.results[count])
        self.check_failures()

    def run(self) -> None:
        """Run trials, `workers` at once."""
        self.show()
        with concurrent.futures.ThreadPoolExecutor(self.workers) as threads:
            futures: dict[concurrent.futures.Future[journal.Trial], int] = {}
            try:
                while True:
                    while len(futures) < self.workers and (trial := self.next_trial()):
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
                self.runner.stop()  # before waiting for the threads

    def next_trial(self) -> journal.Trial | None:
        """Return the trial to run next; None if there is none, or none yet."""
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.trials) >= self.plan.most_trials:
            return None
        if self.asked is None:
            if (asked := next(self.asks, None)) is None:
                return None
            number = len(self.trials) + 1
            trial = journal.Trial(number, asked[0], asked_after=len(self.results))
            self.asked = trial, asked[1]
        trial, tell = self.asked
        likely_seconds = self.likely_seconds(trial)
        late = time.monotonic() + 1.1 * likely_seconds > self.stop_at
        if late and len(self.trials) >= self.plan.fewest_trials:
            length = f" of about {likely_seconds:.0f} s" if likely_seconds >= 1 else ""
            self.report(f"  No time for another trial{length}.")
            return None
        self.asked, self.tells[trial.number] = None, tell
        self.trials.append(trial)
        journal.write(self.path, self.trials)
        return trial

    def likely_seconds(self, trial: journal.Trial) -> float:
        """Return the median time of the trials on a trial's rung, or else of those on lower ones.

        These count in proportion to their epochs. Of trial 1, which also traced everything, only
        its epochs count. 0 if no trial on this rung or a lower one has completed.
        """
        rung, epochs = trial.rung or 0, trial.values.get(journal.EPOCHS, 0)
        done = [t for t in self.results if t.status == "COMPLETED" and (t.rung or 0) <= rung]
        lower = [t for t in done if (t.rung or 0) < rung]
        head_seconds = statistics.median(t.seconds for t in lower) if lower else 0.0
        on_rung = [t for t in done if (t.rung or 0) == rung]
        if not on_rung:
            paces = [
                t.seconds / t.values[journal.EPOCHS] for t in lower if t.values[journal.EPOCHS]
            ]
            return epochs * statistics.median(paces) if paces else head_seconds
        seconds = statistics.median(trial.seconds for trial in on_rung)
        if len(on_rung) == on_rung[0].number == 1 and "epoch_seconds" in on_rung[0].metrics:
            epochs = on_rung[0].values.get(journal.EPOCHS, math.inf)
            seconds = min(seconds, head_seconds + epochs * on_rung[0].metrics["epoch_seconds"])
        return seconds

    def attempt(self, trial: journal.Trial) -> journal.Trial:
        """Run a trial; return it with its result or, if it raises, as failed."""
        started = time.monotonic()
        try:
            return self.runner.run(trial)
        except Exception as error:
            # A full disk is not the trial's fault.
            if isinstance(error, journal.SearchError) or disk.full(error, Path.cwd()):
                raise
            message = traceback.format_exc()
            seconds = time.monotonic() - started
            return dataclasses.replace(trial, status="FAILED", message=message, seconds=seconds)

    def keep(self, ended: journal.Trial) -> None:
        """Record an ended trial in the journal; then tell the oracle and the user."""
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
        """Report the progress of the search."""
        self.report(
            standing.progress_of(
                self.results, self.plan.most_trials, self.stop_at, self.runner.name, self.workers
            )
        )

    def check_failures(self) -> None:
        """Raise SearchError if the last trials all failed."""
        last = self.results[-MOST_FAILURES_IN_A_ROW:]
        if [trial.status for trial in last] == ["FAILED"] * MOST_FAILURES_IN_A_ROW:
            raise journal.SearchError(
                f"{MOST_FAILURES_IN_A_ROW} trials in a row failed, the last with:\n"
                f"{last[-1].message}\nFix the cause, then move {self.path} away to start over."
            )
