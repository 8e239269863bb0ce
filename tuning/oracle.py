"""The search's own oracle: many short trials near good settings, then longer trials of the best.

The method is asynchronous successive halving (ASHA, Li et al., MLSys 2020). New settings come from
a mixture as in PriorBand (Mallik et al., NeurIPS 2023). A longer trial starts over. Resuming the
short one would save a quarter of the time, but trials would be compared before their learning rate
has come down.

A rung without epochs trains B's head alone, which says nothing about how to fine-tune. So the
hyperparameters of fine-tuning stay at their defaults there, and are drawn when a head moves on.
"""

import random
from collections.abc import Sequence
from typing import Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

from agegender import hyperparameters
from tuning import journal

# Shares of new settings drawn from the whole space, from around the defaults, and from around the
# best so far. Before there is a best, only the first two are used.
SHARES = (0.15, 0.25, 0.6)
# Later rungs begin after this many settings on the first. In a short search, all trials are short.
SHORT_TRIALS = 24
# Width of a neighbourhood, as a share of a parameter's range, and share of parameters that change.
DEVIATION, CHANGED = 0.2, 0.6


class Oracle(keras_tuner.Oracle):
    """Proposes a new setting on the first rung, or an earlier one again on its next rung.

    rungs: epochs of a trial on each rung, ascending. If the first has none, the defaults start on
        the last one.
    later_rungs: more of them. None moves there before SHORT_TRIALS settings have completed the
        first rung.
    factor: the best 1/factor of a rung's trials move to the next one. The defaults always do, and
        before the others, which are compared with them in the end. A head that becomes the best
        later has to wait its turn: fine-tuning takes as long as training 20 heads.
    known: good settings of earlier searches, the best first. They are tried again after the
        defaults. Until this search has results, new settings are drawn from around them.

    Proposals depend only on the arguments and on the sequence of requests and results.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        factor: int,
        known: Sequence[dict[str, Any]] = (),
        later_rungs: Sequence[int] = (),
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.rungs, self.factor, self.known = [*rungs, *later_rungs], factor, list(known)
        self.first_later_rung = len(rungs)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return what to try next, in Keras Tuner's format."""
        values, rung = self._promoted() or (self._new(), 0)
        if not self.trials and not self.rungs[0]:
            # Trials without epochs show neither how long one takes nor whether epochs pay off.
            rung = len(self.rungs) - 1
        values |= {journal.RUNG: rung, journal.EPOCHS: self.rungs[rung]}
        return {"status": "RUNNING", "values": values}

    def on_rung(self, rung: int) -> list[dict[str, Any]]:
        """Return the settings that completed a rung, best first."""
        done = [
            trial
            for trial in (self.trials[trial_id] for trial_id in self.end_order)
            if trial.status == "COMPLETED" and trial.hyperparameters.values[journal.RUNG] == rung
        ]
        return [
            hyperparameters.setting(trial.hyperparameters.values)
            for trial in sorted(done, key=lambda trial: trial.score)
        ]

    def _promoted(self) -> tuple[dict[str, Any], int] | None:
        """Return a setting that earned its next rung, and that rung, highest first; or None."""
        for rung in reversed(range(1, len(self.rungs))):
            if rung >= self.first_later_rung and self._tried_briefly() < SHORT_TRIALS:
                continue
            below = self.on_rung(rung - 1)
            begun = [
                self._judged(trial.hyperparameters.values, rung - 1)
                for trial in self.trials.values()
                if trial.hyperparameters.values[journal.RUNG] == rung
            ]
            earned = below[: len(below) // self.factor]
            if not self.rungs[rung - 1] and len(begun) > len(earned):  # The defaults are extra.
                continue
            if earned:
                first = next(iter(self.trials.values()))
                defaults = hyperparameters.setting(first.hyperparameters.values)
                earned = [setting for setting in below if setting == defaults] + earned
            for setting in earned:
                judged = self._judged(setting, rung - 1)
                if judged not in begun:
                    # The first one shows what a better head is worth with the same fine-tuning. Of
                    # later ones, only what was judged stays.
                    if len(begun) > 1:
                        setting = self._drawn(self.on_rung(rung), judged)
                    return setting, rung
        return None

    def _tried_briefly(self) -> int:
        """Return how many settings, which may be repeated, completed the first rung."""
        return len({str(setting) for setting in self.on_rung(0)})

    def _judged(self, values: dict[str, Any], rung: int) -> dict[str, Any]:
        """Return the part of a setting that counts on a rung."""
        setting = hyperparameters.setting(values)
        if self.rungs[rung]:
            return setting
        return {n: v for n, v in setting.items() if n not in hyperparameters.FINE_TUNING}

    def _new(self) -> dict[str, Any]:
        """Return a new setting; it may happen to repeat an earlier one."""
        begun = [t for t in self.trials.values() if not t.hyperparameters.values[journal.RUNG]]
        if self.trials and len(begun) < len(self.known):
            return dict(self.known[len(begun)])
        if self.rungs[0]:
            own = map(self.on_rung, reversed(range(len(self.rungs))))
            return self._drawn(next(filter(None, own), self.known), {})
        fixed = {
            parameter.name: parameter.default
            for parameter in self.hyperparameters.space
            if parameter.name in hyperparameters.FINE_TUNING
        }
        return self._drawn(self.on_rung(0) or self.known, fixed)

    def _drawn(self, best: Sequence[dict[str, Any]], kept: dict[str, Any]) -> dict[str, Any]:
        """Return a setting with the values `kept`; the others are drawn.

        best: the best settings so far, the best first.
        """
        generator = random.Random(f"{self.seed} {len(self.trials)}")
        shares = SHARES if best else SHARES[:2]
        kind = generator.choices(range(len(shares)), shares)[0]
        center = best[generator.randrange(min(3, len(best)))] if kind == 2 else {}
        drawn = keras_tuner.HyperParameters()
        for parameter in self.hyperparameters.space:
            drawn.merge([parameter])
            if not drawn.is_active(parameter):
                continue
            name = parameter.name
            near = None if kind == 0 else center.get(name, parameter.default)
            drawn.values[name] = kept[name] if name in kept else _draw(parameter, near, generator)
        return drawn.values


def _draw(parameter: kinds.HyperParameter, near: Any, generator: random.Random) -> Any:
    """Return a value from a parameter's whole range or, given `near`, from around it."""
    anywhere = parameter.prob_to_value(generator.random())
    if near is None or isinstance(parameter, kinds.Fixed):
        return anywhere
    if generator.random() >= CHANGED:
        return near
    if isinstance(parameter, kinds.Choice) and not parameter.ordered:
        return anywhere
    place = parameter.value_to_prob(near) + generator.gauss(0, DEVIATION)
    return parameter.prob_to_value(min(max(place, 0.0), 1 - 1e-9))
