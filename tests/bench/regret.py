"""Which search algorithm finds good settings soonest? Simulates searches on `fidelity`'s records.

A Gaussian process learns the validation score from a setting and the length of its training run. It
replaces the training runs, with noise as between their seeds, so that a search of an hour takes
seconds. The algorithms are the project's own, called as in a search, and Optuna's TPE.
"""

import bisect
import dataclasses
import itertools
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras_tuner
import numpy as np
import optuna
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from agegender import config
from agegender.show import figures
from tests.bench.fidelity import EPOCHS, TIER
from tuning import families, finalists, journal, search

MINUTES = (5, 15, 60)
OTHERS = 4096  # random settings; the best of them counts as the best possible
# Standard deviation of val_score among seeds of one setting, as a share of it (models/LOG.md): of
# A's defaults after 3 epochs, of B's default head.
NOISE = {"A": 0.028, "B": 0.014}


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A model that replaces the training runs of a family.

    names: of the searched parameters, which `space` declares. epochs: the recorded lengths,
    ascending. seconds: of a run of each length. noise: see NOISE.
    """

    space: keras_tuner.HyperParameters
    names: list[str]
    process: GaussianProcessRegressor
    epochs: list[int]
    seconds: list[float]
    noise: float

    def points(self, settings: list[dict], epochs: int) -> np.ndarray:
        """Return settings with one length as points in the unit cube, float (n, names + 1)."""
        declared = {parameter.name: parameter for parameter in self.space.space}
        length = math.log1p(epochs) / math.log1p(self.epochs[-1])
        return np.array(
            [[declared[n].value_to_prob(one[n]) for n in self.names] + [length] for one in settings]
        )

    def scores(self, settings: list[dict], epochs: int) -> np.ndarray:
        """Return the expected validation scores, float (n,)."""
        return self.process.predict(self.points(settings, epochs))

    def train(self, setting: dict, epochs: int, generator: np.random.Generator) -> float:
        """Return the score of a simulated training run."""
        return self.scores([setting], epochs)[0] * (1 + generator.normal(0, self.noise))

    def duration(self, epochs: int) -> float:
        """Return the seconds that a training run of `epochs` epochs takes."""
        return float(np.interp(epochs, self.epochs, self.seconds))


def learn(letter: str, rows: pd.DataFrame, cache: Path) -> Surrogate:
    """Fit the surrogate to the recorded runs."""
    family = families.FAMILIES[letter]
    names, _ = families.searched(family, TIER, cache)
    space = families.searched_space(family, TIER, cache)
    epochs = list(EPOCHS[letter])
    seconds = [float(rows.loc[rows["epochs"] == n, "seconds"].median()) for n in epochs]
    kernel = kernels.ConstantKernel() * kernels.RBF(np.ones(len(names) + 1), (0.1, 100.0))
    scores = rows["val_score"].to_numpy()
    process = GaussianProcessRegressor(
        kernel,
        alpha=(NOISE[letter] * scores / scores.std()) ** 2,
        normalize_y=True,
        n_restarts_optimizer=4,
    )
    surrogate = Surrogate(space, names, process, epochs, seconds, NOISE[letter])
    points = np.concatenate(
        [surrogate.points([row.setting_values], row.epochs) for row in rows.itertuples()]
    )
    with warnings.catch_warnings():
        # The length scale of a parameter that hardly matters ends up at its bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(points, scores)
    return surrogate


def random_settings(surrogate: Surrogate, count: int) -> list[dict]:
    """Return settings drawn uniformly from the space."""
    generator = np.random.default_rng(0)
    return [
        {p.name: p.prob_to_value(generator.random()) for p in surrogate.space.space}
        for _ in range(count)
    ]


def simulate(
    letter: str, settings: config.Settings, surrogate: Surrogate, cache: Path
) -> Iterator[tuple[float, journal.Trial]]:
    """Run a search with these settings; yield each trial and the seconds at its end."""
    family = families.FAMILIES[letter]
    effort, longest = family.settings(settings), surrogate.epochs[-1]
    generator = np.random.default_rng(settings.seed)
    plan = search.Plan(
        lambda hp: family.space(hp, TIER, cache),
        settings.algorithm,
        settings.seed,
        2000,
        rungs=effort.rungs,
        later_rungs=effort.later_rungs,
        factor=effort.factor,
    )
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, asked in enumerate(search.proposals(search.make_oracle(plan, folder)), 1):
            assert asked, "one worker never waits"
            values, tell = asked
            epochs = min(values.get(journal.EPOCHS, effort.rungs[-1]), longest)
            seconds += surrogate.duration(epochs)
            score = surrogate.train(values, epochs, generator)
            tell(score)
            yield seconds, journal.Trial(number, values, "COMPLETED", {"val_score": score})


def simulate_tpe(surrogate: Surrogate, seed: int) -> Iterator[tuple[float, journal.Trial]]:
    """Run the same with Optuna's TPE and its Hyperband pruner, which never repeats an epoch.

    Its trials get as long as the recorded ones.
    """
    generator = np.random.default_rng(seed)
    lengths = [n for n in surrogate.epochs if n]
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(lengths[0], lengths[-1], 3),
    )
    defaults = surrogate.space.values  # first, as in the other searches
    study.enqueue_trial({name: defaults[name] for name in surrogate.names})
    seconds = 0.0
    while True:
        trial = study.ask()
        values = {name: suggest(trial, surrogate.space, name) for name in surrogate.names}
        before = 0.0
        for epochs in lengths:
            score = surrogate.train(values, epochs, generator)
            seconds += surrogate.duration(epochs) - before
            before = surrogate.duration(epochs)
            trial.report(score, epochs)
            if trial.should_prune():
                break
        study.tell(trial, score)
        yield seconds, journal.Trial(trial.number + 1, values, "COMPLETED", {"val_score": score})


def suggest(trial: optuna.Trial, space: keras_tuner.HyperParameters, name: str) -> object:
    parameter = next(one for one in space.space if one.name == name)
    if isinstance(parameter, keras_tuner.engine.hyperparameters.Choice):
        return trial.suggest_categorical(name, parameter.values)
    log = parameter.sampling == "log"
    return trial.suggest_float(name, parameter.min_value, parameter.max_value, log=log)


def regrets(letter: str, rows: pd.DataFrame, seeds: int, cache: Path) -> pd.DataFrame:
    """Return the regret of each algorithm and seed after each of MINUTES, one row each.

    Regret: the expected score, after the longest recorded training, of the setting that the search
    considers best, minus that of the best of OTHERS settings.
    """
    surrogate = learn(letter, rows, cache)
    longest = surrogate.epochs[-1]
    least = surrogate.scores(random_settings(surrogate, OTHERS), longest).min()
    defaults = {one.name: one.default for one in surrogate.space.space}
    found = [
        {"algorithm": "defaults", "seed": 0, "minutes": minutes}
        | {"regret": surrogate.scores([defaults], longest)[0] - least}
        for minutes in MINUTES
    ]
    usual = config.Settings()
    searches = {
        "priorband": usual,
        "random": dataclasses.replace(usual, algorithm="random"),
        "hyperband": dataclasses.replace(usual, algorithm="hyperband"),
    }
    for seed in range(seeds):
        runs = {
            name: simulate(letter, dataclasses.replace(settings, seed=seed), surrogate, cache)
            for name, settings in searches.items()
        }
        runs["TPE (Optuna)"] = simulate_tpe(surrogate, seed)
        for name, run in runs.items():
            gains = {name: 0.0, f"{name}, {usual.least_gain:.0%} rule": usual.least_gain}
            for (minutes, done), label in itertools.product(_at(run).items(), gains):
                best = finalists.to_train_again(done, 1, gains[label])[0].setting
                regret = surrogate.scores([best], longest)[0] - least
                row = {"algorithm": label, "seed": seed, "minutes": minutes, "regret": regret}
                found.append(row)
    return pd.DataFrame(found)


def _at(run: Iterator[tuple[float, journal.Trial]]) -> dict[int, list[journal.Trial]]:
    """Return the trials that ended within each of MINUTES, or the first if none did."""
    ends: list[float] = []
    done: list[journal.Trial] = []
    for seconds, trial in run:
        ends.append(seconds)
        done.append(trial)
        if seconds > 60 * MINUTES[-1]:
            break
    counts = {minutes: bisect.bisect_right(ends, 60 * minutes) for minutes in MINUTES}
    return {minutes: done[: max(count, 1)] for minutes, count in counts.items()}


def draw(found: pd.DataFrame):
    """Draw the mean regret of each algorithm over the minutes."""
    figure, axes = figures.blank(7, 3.5)
    table = found.pivot_table(index="minutes", columns="algorithm", values="regret")
    for name in table:
        axes.plot(table.index, table[name], marker="o", label=name)
    axes.set(xscale="log", xlabel="minutes of search", ylabel="mean regret")
    axes.set_xticks(MINUTES, MINUTES)
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
