"""The spaces: a change of a name, a range or a default is a visible difference here."""

import itertools
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

from agegender import config
from agegender.networks import models, step
from tuning import families, spaces

CACHE = Path("nowhere")  # The committed backbones are at hand without it.
SEARCHED_IN_SHORT_TIME = {
    "A": {
        "age_weight": 1.0,
        "gender_weight": 1.2,
        "learning_rate": 2e-3,
    },
    "B": {
        "trunk_dropout": 0.2,
        "age_dropout": 0.3,
        "gender_dropout": 0.4,
        "gender_weight": 1.5,
        "head_learning_rate": 2e-3,
        "head_weight_decay": 5e-2,
        "learning_rate": 5e-5,
        "unfrozen_share": 0.75,
    },
}


def declare(letter, tier):
    hp = keras_tuner.HyperParameters()
    return hp, families.FAMILIES[letter].space(hp, tier, CACHE)


def searched(hp):
    fixed = keras_tuner.engine.hyperparameters.Fixed
    return {p.name: p.default for p in hp.space if not isinstance(p, fixed)}


@pytest.mark.parametrize("family", "AB")
def test_what_is_searched_and_what_is_the_same_in_every_trial_make_up_the_space(family):
    names, constants = families.searched(families.FAMILIES[family], "short", CACHE)
    assert set(names) == set(SEARCHED_IN_SHORT_TIME[family])
    hp, _ = declare(family, "short")
    assert constants == {name: value for name, value in hp.values.items() if name not in names}


@pytest.mark.parametrize("family", "AB")
def test_short_searches_the_few_that_matter_most(family):
    assert searched(declare(family, "short")[0]) == SEARCHED_IN_SHORT_TIME[family]
    assert searched(declare(family, "notebook")[0]) == {}


# What pays in 50 epochs and more.
FOR_LONG_TRAININGS = {"internal_size_pixels", "activation", "trunk_dropout", "mixing"}


@pytest.mark.parametrize("family", "AB")
def test_full_searches_all_around_defaults_that_differ_in_what_takes_long(family):
    short, full = (declare(family, tier)[0] for tier in ("short", "full"))
    other = {n for n in short.values.keys() & full.values.keys() if short.get(n) != full.get(n)}
    assert other == (FOR_LONG_TRAININGS if family == "A" else set())
    assert len(searched(full)) > 20
    assert set(SEARCHED_IN_SHORT_TIME[family]) <= set(searched(full))


@pytest.mark.parametrize("tier", spaces.TIERS)
@pytest.mark.parametrize("family", "AB")
def test_values_make_the_record_that_the_space_returned(family, tier):
    hp, setting = declare(family, tier)
    of_trial = dict(hp.values) | {"tuner/epochs": 3}
    assert families.FAMILIES[family].from_values(of_trial) == setting
    assert {name: getattr(setting, name) for name in hp.values} == hp.values


@pytest.mark.parametrize("family", "AB")
def test_the_defaults_of_the_record_are_those_of_the_full_space(family):
    setting = declare(family, "full")[1]
    defaults = type(setting)(**({"backbone": setting.backbone} if family == "B" else {}))
    assert setting == defaults
    assert (
        families.FAMILIES[family].from_values(families.defaults(families.FAMILIES[family], CACHE))
        == defaults
    )


@pytest.mark.parametrize("seed", range(12))
def test_every_setting_of_the_full_space_builds(seed):
    hp, _ = declare("A", "full")
    values = {parameter.name: parameter.random_sample(seed) for parameter in hp.space}
    setting = families.FAMILIES["A"].from_values(values | {"width": 16})
    network = models.build_scratch(**setting.layers)
    assert network.output_names == ["age", "gender"]
    pictures = np.zeros((1, 128, 128, 3), "uint8")
    made = step.make(models.for_training(network), pictures, setting, seed=0, resident=False)
    made.begin(setting, steps=10)
    assert made.trained.optimizer.learning_rate <= setting.learning_rate
    assert 0 <= setting.mixing <= 0.5
    keras.utils.clear_session(free_memory=False)


def test_a_last_training_in_the_short_tier_is_larger_and_a_long_one_augments_strongly():
    scratch = families.FAMILIES["A"]
    values = declare("A", "short")[0].values | {"augmentation_strength": 0.2}
    larger = values | {"internal_size_pixels": 96, "first_size_pixels": 64}
    assert scratch.for_epochs(values, spaces.LONG_EPOCHS - 1, "short") == larger
    long = scratch.from_values(scratch.for_epochs(values, spaces.LONG_EPOCHS, "short"))
    full = declare("A", "full")[1]
    assert (long.strengths, long.mixing) == (full.strengths, full.mixing)
    for family, tier in (("A", "full"), ("B", "short"), ("A", "notebook")):
        values = declare(family, tier)[0].values
        assert families.FAMILIES[family].for_epochs(values, 1000, tier) == values


def test_an_unknown_tier_is_named():
    with pytest.raises(ValueError, match="short, full, notebook; got 'long'"):
        declare("A", "long")


@pytest.mark.parametrize("family", "AB")
def test_each_ablation_changes_what_is_trained(family):
    chosen = families.FAMILIES[family]
    defaults = families.defaults(chosen, CACHE)
    changes = config.ABLATIONS[family]
    assert len(changes) >= 3
    assert all(defaults.keys() >= change.keys() for change in changes.values())
    trained = [chosen.from_values(defaults | change) for change in ({}, *changes.values())]
    assert all(one != other for one, other in itertools.combinations(trained, 2))
