"""Steps that are used again: the same result to the bit, and nothing traced anew."""

import keras
import numpy as np
import pandas as pd
import pytest

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import batches, fit, models, step

ROWS = np.arange(48)
KEPT = pytest.StashKey[step.Kept]()


@pytest.fixture(scope="module")
def examples():
    generator = np.random.default_rng(0)
    age_years = generator.uniform(1, 90, 48).astype("float32")
    gender = generator.integers(0, 2, 48).astype("float32")
    pictures = generator.integers(0, 255, (48, 32, 32, 3)).astype("uint8")
    floors = evaluation.floors(age_years, gender)
    return batches.Examples(pictures, age_years, gender, ROWS[:32], ROWS[32:], floors)


def train(kept, examples, **changes):
    setting = hyperparameters.Scratch(**{"batch_size": 16, "mixing": 0.0} | changes)

    def build():
        # Only here, as in a search: a used step must not depend on the random state around it.
        keras.utils.set_random_seed(1)
        return models.build_scratch(
            image_size_pixels=32, width=setting.width, stages=1, extra_block_stage=-1
        )

    network = kept.network(setting.width, build)
    history = fit.fit(
        models.for_training(network), examples, setting, epochs=2, seed=1, kept=kept
    ).drop(columns=["seconds", "images_per_second"])
    return history, network.get_weights()


ADJUSTED = {"learning_rate": 7e-3, "warmup": 0.6, "weight_decay": 0.2, "rotation": 0.1}
ADJUSTED |= {"trunk_dropout": 0.0, "age_dropout": 0.6, "gender_weight": 4.0, "age_weight": 0.3}
ADJUSTED |= {"age_deviation_years": 5.0, "augmentation_strength": 0.5}
SETTINGS = [{"width": 8}, {"width": 8} | ADJUSTED, {"width": 8, "mixing": 0.3}]


def test_a_step_that_was_used_before_trains_as_a_new_one_does(examples):
    kept = step.Kept()
    again = [train(kept, examples, **setting) for setting in SETTINGS + SETTINGS[:1]]
    for setting, (history, weights) in zip(SETTINGS[:2], again[:2], strict=True):
        new_history, new_weights = train(step.Kept(), examples, **setting)
        pd.testing.assert_frame_equal(history, new_history, check_exact=True)
        assert all(np.array_equal(a, b) for a, b in zip(weights, new_weights, strict=True))
    pd.testing.assert_frame_equal(again[0][0], again[3][0], check_exact=True)
    assert len({history.loss.iloc[-1] for history, _ in again}) == len(SETTINGS)
    assert (len(kept.networks), len(kept.steps)) == (1, 2)


@pytest.mark.parametrize("name", ADJUSTED)
def test_each_adjusted_field_has_its_effect(examples, name, request):
    kept = request.config.stash.setdefault(KEPT, step.Kept())
    plain, changed = (
        train(kept, examples, width=8, **changes)[0] for changes in ({}, {name: ADJUSTED[name]})
    )
    assert not plain.equals(changed)


def test_only_so_much_is_kept(examples, monkeypatch):
    monkeypatch.setattr(step, "MOST_KEPT", 2)
    kept = step.Kept()
    for width in (4, 8, 16):
        train(kept, examples, width=width)
    assert (len(kept.networks), len(kept.steps)) == (1, 1)
