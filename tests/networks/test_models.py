"""Both networks keep their contract over the space's corners."""

import keras
import numpy as np
import pytest

from agegender.networks import models

PICTURES = np.random.default_rng(0).random((3, 128, 128, 3), dtype="float32")


def scratch(**changes):
    return models.build_scratch(width=8, stem_filters=8, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": False, "normalization": "none", "activation": "gelu"},
        {"normalization": "group", "pooling": "maximum", "age_head": "ordinal"},
        {"pooling": "flatten", "age_head": "regression", "stages": 5, "extra_block_stage": -1},
    ],
)
def test_outputs_are_years_and_a_probability(changes):
    network = scratch(**changes)
    assert [tensor.name for tensor in network.inputs] == ["image"]
    assert network.output_names == ["age", "gender"]
    age, gender = network.predict_on_batch(PICTURES)
    assert age.shape == gender.shape == (3, 1)
    assert age.dtype == gender.dtype == np.float32
    assert ((gender >= 0) & (gender <= 1)).all()
    if changes.get("age_head") != "regression":
        assert ((age >= 0) & (age <= 116)).all()


def test_expected_age_is_the_mean_of_its_distribution():
    network = scratch()
    inside = keras.Model(network.input, network.get_layer("age_distribution").output)
    probabilities = inside.predict_on_batch(PICTURES)
    age, _ = network.predict_on_batch(PICTURES)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(age[:, 0], probabilities @ np.arange(117), rtol=1e-4)
    assert not network.get_layer("age").trainable


def test_map_before_the_first_dense_layer_stays_small():
    with pytest.raises(ValueError, match="1 to 9 pixels"):
        scratch(stages=2)
    with pytest.raises(ValueError, match="age_head must be one of"):
        scratch(age_head="guess")
