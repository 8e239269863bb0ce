"""The search's own oracle: many short trials near good settings, then longer trials of the best.

Asynchronous successive halving (ASHA, Li et al., MLSys 2020), whose new settings come from a
mixture as in PriorBand (Mallik et al., NeurIPS 2023). A longer trial starts anew: to go on where
the short one ended would save a quarter of the time, but the learning rate would not have come down
when the trials are compared.
"""

import random
from collections.abc import Sequence
from typing import Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

from agegender import hyperparameters
from tuning import journal

# Shares of new settings drawn from the whole space, from around the defaults, and from around the
# best so far; before there is a best, from the first two alone.
SHARES = (0.15, 0.25, 0.6)
# Width of the neighbourhoods, as a share of a parameter's range, and how many parameters change.
DEVIATION, CHANGED = 0.2, 0.6


class Oracle(keras_tuner.Oracle):
    """Proposes a setting on the first rung, or one again on the next rung.

    rungs: epochs of a trial on each rung, ascending. Where the first has none, the defaults begin
        on the last one.
    factor: the best 1/factor of a rung's trials go to the next one.
    known: good settings of earlier searches, the best first. After the defaults they are tried
        again; until there are own results, new settings are drawn from around them.

    What it proposes depends on these and on what it was asked and told, in that order.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        factor: int,
        known: Sequence[dict[str, Any]] = (),
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.rungs, self.factor, self.known = list(rungs), factor, list(known)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return what to try next, as Keras Tuner asks for it."""
        values, rung = self._promoted() or (self._new(), 0)
        if not self.trials and not self.rungs[0]:
            # Trials without an epoch tell neither the pace of one nor whether epochs pay.
            rung = len(self.rungs) - 1
        values |= {journal.RUNG: rung, journal.EPOCHS: self.rungs[rung]}
        return {"status": "RUNNING", "values": values}

    def on_rung(self, rung: int) -> list[dict[str, Any]]:
        """Return the settings that completed a rung, the best first."""
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
        """Return a setting that has earned the next rung, and that rung; the highest one first."""
        for rung in reversed(range(1, len(self.rungs))):
            below = self.on_rung(rung - 1)
            begun = [
                hyperparameters.setting(trial.hyperparameters.values)
                for trial in self.trials.values()
                if trial.hyperparameters.values[journal.RUNG] == rung
            ]
            for setting in below[: len(below) // self.factor]:
                if setting not in begun:
                    return setting, rung
        return None

    def _new(self) -> dict[str, Any]:
        """Return a setting that may not have been tried."""
        begun = [t for t in self.trials.values() if not t.hyperparameters.values[journal.RUNG]]
        if self.trials and len(begun) < len(self.known):
            return dict(self.known[len(begun)])
        generator = random.Random(f"{self.seed} {len(self.trials)}")
        own = map(self.on_rung, reversed(range(len(self.rungs))))
        best = next(filter(None, own), self.known)
        shares = SHARES if best else SHARES[:2]
        kind = generator.choices(range(len(shares)), shares)[0]
        center = best[generator.randrange(min(3, len(best)))] if kind == 2 else None
        drawn = keras_tuner.HyperParameters()
        for parameter in self.hyperparameters.space:
            drawn.merge([parameter])
            if not drawn.is_active(parameter):
                continue
            near = (center or {}).get(parameter.name, parameter.default)
            value = _draw(parameter, None if kind == 0 else near, generator)
            drawn.values[parameter.name] = value
        return drawn.values


def _draw(parameter: kinds.HyperParameter, near: Any, generator: random.Random) -> Any:
    """Return a value from the whole range of a parameter, or from around the value `near`."""
    anywhere = parameter.prob_to_value(generator.random())
    if near is None or isinstance(parameter, kinds.Fixed):
        return anywhere
    if generator.random() >= CHANGED:
        return near
    if isinstance(parameter, kinds.Choice) and not parameter.ordered:
        return anywhere
    place = parameter.value_to_prob(near) + generator.gauss(0, DEVIATION)
    return parameter.prob_to_value(min(max(place, 0.0), 1 - 1e-9))
