import keras
import numpy as np
import pytest

from agegender.networks import backbones
from pipelines import fetch_backbones


@pytest.fixture
def images():
    return np.random.default_rng(0).random((16, 64, 64, 3), "float32")


@pytest.mark.parametrize(
    "name",
    [  # Those of keras.applications are large, and nothing but a table's line each.
        pytest.param(name, marks=() if name.startswith("faceres") else pytest.mark.system)
        for name in backbones.BACKBONES
    ],
)
def test_every_backbone_maps_images_to_features_and_can_be_cut(name, tmp_path):
    network = backbones.load(name, 48, tmp_path, internal_size_pixels=64, pretrained=False)
    assert network.input.shape == (None, 48, 48, 3)
    assert network.output.shape[:3] == (None, 2, 2)
    cuts = backbones.BACKBONES[name].cut_layers
    names = [layer.name for layer in network.layers]
    assert [names.index(cut) for cut in cuts] == sorted(names.index(cut) for cut in cuts)
    assert cuts[-1] == names[-1]
    for cut in cuts[:-1]:
        # Keras refuses this where another path leads around the cut.
        keras.Model(network.get_layer(cut).output, network.output)


def test_committed_weights_give_the_features_of_upstreams_files(tmp_path):
    """The figures are those of an independent reader of upstream's TensorFlow.js files."""
    loudest, means = [32, 463, 274, 561], [2.2313275, 2.0070617, 1.8644855, 1.8136762]
    network = backbones.load("faceres_deep", 64, tmp_path)
    noise = np.random.default_rng(0).random((4, 64, 64, 3), "float32")
    features = keras.ops.convert_to_numpy(network(noise)).mean(axis=(0, 1, 2))
    np.testing.assert_array_equal(np.argsort(-features)[:4], loudest)
    np.testing.assert_allclose(features[loudest], means, rtol=1e-4)


def test_unfolding_keeps_the_function_and_gives_true_statistics(images, tmp_path):
    network = backbones.load("faceres_deep", 64, tmp_path, pretrained=False)
    generator = np.random.default_rng(1)
    for layer in network.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        gamma, beta, mean, variance = layer.get_weights()
        gamma *= generator.uniform(0.5, 8, gamma.shape)
        beta += generator.uniform(0, 0.5, beta.shape)
        layer.set_weights([gamma, beta, mean, variance - layer.epsilon])
    before = keras.ops.convert_to_numpy(network(images))
    backbones.unfold_batch_normalization(network, images)
    after = keras.ops.convert_to_numpy(network(images))
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            (kernel,) = layer.get_weights()
            np.testing.assert_allclose(np.square(kernel).sum((0, 1, 2)), 2, rtol=1e-4)
    # In training mode a batch is normalised by its own statistics: here they are the stored ones.
    trained = keras.ops.convert_to_numpy(network(images, training=True))
    np.testing.assert_allclose(trained, after, atol=1e-3 * np.abs(before).max())
    with pytest.raises(ValueError, match="at least one image"):
        backbones.unfold_batch_normalization(network, images[:0])


def test_weights_of_an_application_come_back_at_another_size(tmp_path):
    network = backbones.load("vgg16", 32, tmp_path, pretrained=False)
    assert "vgg16" not in backbones.available(tmp_path)
    network.save_weights(tmp_path / "vgg16.weights.h5")
    assert "vgg16" in backbones.available(tmp_path)
    again = backbones.load("vgg16", 48, tmp_path, internal_size_pixels=64)
    for old, new in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_network_for_bgr_sees_the_same_after_its_kernel_is_reversed(images, tmp_path):
    network = backbones.load("vgg16", 64, tmp_path, pretrained=False)
    first = keras.Model(network.get_layer("rescale").output, network.layers[2].output)
    before = keras.ops.convert_to_numpy(first(images))
    backbones._reverse_first_kernel(network)
    np.testing.assert_allclose(first(images[..., ::-1]), before, atol=1e-5)


def test_wrong_arguments_and_missing_or_damaged_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="faceres_deep"):
        backbones.load("resnet", 128, tmp_path)
    with pytest.raises(ValueError, match="multiple of 32"):
        backbones.load("vgg16", 100, tmp_path, pretrained=False)
    with pytest.raises(backbones.WeightsError, match="pipelines.fetch_backbones vgg16"):
        backbones.load("vgg16", 128, tmp_path)
    monkeypatch.setattr(backbones, "COMMITTED", tmp_path)
    assert "faceres_deep" not in backbones.available(tmp_path)
    for give in (backbones.load, lambda name, _, cache: backbones.fetch(name, cache)):
        with pytest.raises(backbones.WeightsError, match="git checkout models/backbones"):
            give("faceres_deep", 128, tmp_path)
    (tmp_path / "faceres_deep.npz").write_bytes(b"PK")
    with pytest.raises(backbones.WeightsError, match="SHA-256"):
        backbones.load("faceres_deep", 128, tmp_path)


def test_what_is_committed_is_at_hand_and_recorded(tmp_path, capsys):
    assert fetch_backbones.main([], tmp_path / "weights") == 0
    assert "available: faceres_deep" in capsys.readouterr().out
    record = (backbones.COMMITTED / "README.md").read_text()
    for name in backbones.available(tmp_path):
        assert backbones.BACKBONES[name].sha256 in record
    assert fetch_backbones.main(["resnet"]) == 2
    assert "vgg16" in capsys.readouterr().err


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(backbones.WeightsError, match="could not be downloaded"):
        backbones.fetch("vgg16", tmp_path / "weights")
    assert "vgg16" not in backbones.available(tmp_path / "weights")
