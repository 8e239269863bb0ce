"""Network A on small pictures first: one network, one history, resumed to the bit."""

import dataclasses

import keras
import numpy as np
import pytest

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import batches, fit, growing, models

GROWING = hyperparameters.Scratch(
    internal_size_pixels=24, first_size_pixels=16, learning_rate=5e-3, batch_size=16, mixing=0.0
)


def train(toy, config=GROWING, epochs=5, **hooks):
    """Train a small network whose pictures of 32 pixels are resized to 24, at first to 16."""
    keras.utils.set_random_seed(0)
    network = models.build_scratch(
        image_size_pixels=32,
        internal_size_pixels=24,
        width=8,
        stem_filters=8,
        stages=1,
        extra_block_stage=-1,
    )
    rows = np.arange(64), np.arange(64, 96)
    examples = batches.Examples(*toy, *rows, evaluation.floors(*toy[1:]))
    history = growing.train(network, examples, config, epochs=epochs, hooks=fit.Hooks(**hooks))
    return network, history


def test_a_run_that_the_clock_cuts_keeps_an_epoch_at_the_full_size(toy):
    network, history = train(toy, epochs=8, stop_at=0.0)
    history.loc[0, "val_score"] = 0.0
    assert list(history.phase) == ["small", "full"] and list(history.epoch) == [0, 1]
    assert evaluation.kept_epoch(history) == 1
    seen = network.predict(toy[0][64:] / np.float32(255), verbose=0)[0][:, 0]
    assert np.abs(seen - toy[1][64:]).mean() == pytest.approx(history.val_age_mae[1], rel=1e-3)


def test_both_phases_train_one_network(toy):
    rows = []
    network, history = train(toy, epochs=13, on_epoch=rows.append)
    assert list(history.phase) == ["small"] * 6 + ["full"] * 7
    assert list(history.epoch) == list(range(13)) == [row["epoch"] for row in rows]
    small, full = (history[history.phase == phase] for phase in ("small", "full"))
    assert small.learning_rate.iloc[-1] == pytest.approx(GROWING.learning_rate)
    assert full.loss.iloc[0] < 0.9 * small.loss.iloc[0], "it started over"
    pictures, age_years, _ = toy
    seen = network.predict(pictures[64:] / np.float32(255), verbose=0)[0][:, 0]
    kept = history.loc[evaluation.kept_epoch(history)]
    assert np.abs(seen - age_years[64:]).mean() == pytest.approx(kept.val_age_mae, rel=1e-3)


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_an_interrupted_training_run_resumes_to_the_bit_in_either_phase(
    toy, tmp_path, stopped_after
):
    whole, history = train(toy)

    def interrupt(row):
        if row["epoch"] + 1 == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy, checkpoint=tmp_path, on_epoch=interrupt)
    again, resumed = train(toy, checkpoint=tmp_path)
    assert list(resumed.loss) == list(history.loss)
    for one, other in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "changes", [{"first_size_pixels": 0}, {"first_size_pixels": 24}, {"pooling": "flatten"}]
)
def test_one_phase_unless_the_first_size_is_smaller_and_the_layers_allow_it(toy, changes):
    config = dataclasses.replace(GROWING, **changes)
    assert not config.small_epochs(2)
    assert set(train(toy, config, epochs=2)[1].phase) == {"full"}
