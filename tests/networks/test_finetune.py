"""Fine-tuning: what is unfrozen moves, the better phase is kept, activations are shared."""

import dataclasses
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import batches, features, finetune, models


@pytest.fixture
def small_pretrained():
    """A backbone with the layers that fine-tuning needs, of random weights."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 4, name="low")(images)
    x = keras.layers.ReLU(name="cut")(x)
    x = keras.layers.BatchNormalization(name="high_bn")(keras.layers.Conv2D(8, 3, name="high")(x))
    return models.build_pretrained(keras.Model(images, keras.layers.ReLU(name="top")(x)))


def fine_tune(
    network, toy, folder, *, unfreeze_from="cut", epochs=4, validation_rows=range(64, 96), **changes
):
    setting = hyperparameters.Pretrained(
        **{"head_learning_rate": 1e-5, "batch_size": 8, "learning_rate": 1e-2} | changes
    )
    floors = evaluation.floors(*toy[1:])
    return finetune.fine_tune(
        network,
        batches.Examples(*toy, np.arange(64), np.array(validation_rows, int), floors),
        setting,
        features.Cached(folder, {"backbone": "small"}, "cut", views=3, gigabytes=1.0),
        head_epochs=2,
        epochs=epochs,
        unfreeze_from=unfreeze_from,
    )


def test_fine_tuning_moves_what_is_unfrozen_and_nothing_else(toy, small_pretrained, tmp_path):
    layers = {name: small_pretrained.get_layer(name) for name in ("low", "high", "high_bn")}
    before = {name: layer.get_weights() for name, layer in layers.items()}
    # A head trained so shortly leaves much to gain: else its weights would be put back.
    tuned = fine_tune(small_pretrained, toy, tmp_path, epochs=10)
    history = tuned.history
    assert tuned.fine_tuning_kept
    assert list(history.phase) == ["head"] * 2 + ["fine-tuning"] * 10
    assert list(history.epoch) == list(range(12))
    assert history.val_score.idxmin() > 1
    moved = {
        name: not all(map(np.array_equal, before[name], layer.get_weights()))
        for name, layer in layers.items()
    }
    assert moved == {"low": False, "high": True, "high_bn": False}
    small_pretrained.set_weights(tuned.frozen_weights)
    assert all(map(np.array_equal, before["high"], layers["high"].get_weights()))


RELEASED = {"unfreeze_from": "low", "views": "fresh", "batch_normalization": "update"}
RELEASED |= {"validation_rows": ()}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"learning_rate": 10.0, "head_learning_rate": 1e-2}, False),  # it only does harm
        ({"unfreeze_from": None}, None),
        (RELEASED, True),  # Without validation nothing is put back.
    ],
)
def test_it_is_known_whether_fine_tuning_was_kept(toy, small_pretrained, tmp_path, changes, kept):
    low = small_pretrained.get_layer("low")
    before = low.get_weights()
    tuned = fine_tune(small_pretrained, toy, tmp_path, epochs=1, **changes)
    assert tuned.fine_tuning_kept is kept
    left = zip(small_pretrained.get_weights(), tuned.frozen_weights, strict=True)
    assert all(np.array_equal(*pair) for pair in left) == (not kept)
    assert all(map(np.array_equal, before, low.get_weights())) == (not kept)


def test_activations_are_computed_once_and_match_the_network(toy, small_pretrained, tmp_path):
    pictures = toy[0]
    layers = [small_pretrained.get_layer(name).output for name in ("cut", "features")]
    part = keras.Model(small_pretrained.input, layers)
    rows = np.array([5, 2, 90])
    calls = []

    def activations(**changes):
        cached = features.Cached(tmp_path, {"a": 1}, "cut", views=3, gigabytes=1.0)
        cached = dataclasses.replace(cached, **changes)
        return cached.activations(part, pictures, rows, lambda *done: calls.append(done))

    # Two at once, as the workers of a search may be: the second waits for the first.
    with ThreadPoolExecutor(2) as pool:
        first, again = pool.map(lambda _: activations(), range(2))
    assert calls == [(3, 3)]
    seen = pictures[rows].astype("float32") / 255
    expected, mirrored = part.predict_on_batch(seen), part.predict_on_batch(seen[:, :, ::-1])
    for number in range(2):
        assert first[number].shape[:2] == (3, 3)
        assert np.array_equal(first[number], again[number])
        np.testing.assert_allclose(first[number][:, 0], expected[number], atol=2e-3)
        np.testing.assert_allclose(first[number][:, 1], mirrored[number], atol=2e-3)
    (folder,) = tmp_path.glob("*/")
    assert json.loads((folder / "key.json").read_text())["faces"] == 3
    os.utime(folder, (0, 0))
    activations()
    assert folder.stat().st_mtime > time.time() - 60  # used just now
    # Where there is room for one set only, the next one takes it, and the first comes anew.
    kilobytes = sum(path.stat().st_size for path in folder.iterdir()) / 1000
    activations(key={"a": 2}, gigabytes=1.5 * kilobytes / 1e6)
    assert not folder.exists() and len(list(tmp_path.glob("*/"))) == 1
    assert np.array_equal(activations()[0], first[0])
    (folder / "1.npy").unlink()
    assert np.array_equal(activations()[1], first[1])
    assert calls == 4 * [(3, 3)]
    with pytest.raises(OSError, match="FEATURES_GIGABYTES"):
        activations(key={"a": 3}, gigabytes=0.5 * kilobytes / 1e6)
    assert calls == 4 * [(3, 3)]
