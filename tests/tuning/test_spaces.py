"""The spaces: a change of a name, a range or a default is a visible difference here."""

import itertools

import keras
import keras_tuner
import pytest

from agegender import config
from agegender.networks import batches, models, training
from tuning import spaces

AT_HAND = ["faceres_deep", "faceres_mobilenet"]
SEARCHED_IN_SHORT_TIME = {
    "A": {
        "width": 32,
        "trunk_dropout": 0.2,
        "gender_weight": 1.2,
        "learning_rate": 2e-3,
        "augmentation_strength": 0.25,
    },
    "B": {
        "age_dropout": 0.3,
        "gender_dropout": 0.4,
        "gender_weight": 1.5,
        "learning_rate": 2e-4,
        "unfrozen_share": 0.75,
    },
}


def declare(family, tier):
    hp = keras_tuner.HyperParameters()
    return hp, spaces.space(family, hp, tier, AT_HAND)


def searched(hp):
    fixed = keras_tuner.engine.hyperparameters.Fixed
    return {p.name: p.default for p in hp.space if not isinstance(p, fixed)}


@pytest.mark.parametrize("family", "AB")
def test_what_is_searched_and_what_is_the_same_in_every_trial_make_up_the_space(family):
    names, constants = spaces.searched(family, "short", AT_HAND)
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
    assert set(SEARCHED_IN_SHORT_TIME[family]) - {"augmentation_strength"} <= set(searched(full))


@pytest.mark.parametrize("tier", spaces.TIERS)
@pytest.mark.parametrize("family", "AB")
def test_values_stand_for_the_same_arguments(family, tier):
    hp, arguments = declare(family, tier)
    assert spaces.arguments(family, dict(hp.values), tier, AT_HAND) == arguments


@pytest.mark.parametrize("seed", range(12))
def test_every_setting_of_the_full_space_builds(seed):
    hp, _ = declare("A", "full")
    values = {parameter.name: parameter.random_sample(seed) for parameter in hp.space}
    values["width"] = 16
    arguments = spaces.arguments("A", values, "full", AT_HAND)
    network = models.build_scratch(**arguments["build"])
    assert network.output_names == ["age", "gender"]
    optimizer = {
        name: arguments["fit"][name]
        for name in ("learning_rate", "schedule", "warmup", "weight_decay")
    }
    training.make_optimizer(arguments["fit"]["optimizer"], steps=10, **optimizer)
    assert 0 <= arguments["augmentation"].pop("mixing") <= 0.5
    batches.RandomView(**arguments["augmentation"])
    keras.utils.clear_session(free_memory=False)


def test_a_long_training_in_the_short_tier_mixes_and_augments_strongly():
    values = declare("A", "short")[0].values | {"augmentation_strength": 0.2}
    assert spaces.for_epochs(values, spaces.LONG_EPOCHS - 1) == values
    long = spaces.for_epochs(values, spaces.LONG_EPOCHS)
    augmentation = spaces.arguments("A", long, "short", AT_HAND)["augmentation"]
    full = spaces.arguments("A", spaces.defaults("A", AT_HAND), "full", AT_HAND)["augmentation"]
    assert augmentation == full
    for family, tier in (("A", "full"), ("B", "short"), ("A", "notebook")):
        values = declare(family, tier)[0].values
        assert spaces.for_epochs(values, 1000) == values


def test_an_unknown_tier_is_named():
    with pytest.raises(ValueError, match="short, full, notebook; got 'long'"):
        declare("A", "long")


@pytest.mark.parametrize("family", "AB")
def test_each_ablation_changes_what_is_trained(family):
    defaults = spaces.defaults(family, AT_HAND)
    changes = config.ABLATIONS[family]
    assert len(changes) >= 3
    trained = [
        spaces.arguments(family, defaults | change, "full", AT_HAND)
        for change in ({}, *changes.values())
    ]
    assert all(defaults.keys() >= change.keys() for change in changes.values())
    assert all(one != other for one, other in itertools.combinations(trained, 2))
