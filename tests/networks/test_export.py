import shutil

import h5py
import keras
import numpy as np
import pytest

from agegender.networks import export


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def network(
    *, size=128, stride=16, extra=(), outputs=("age", "gender"), gender_activation="sigmoid"
):
    images = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(2.0, [-1.0, -0.9, -1.1])(images)
    x = keras.layers.Conv2D(4, 3, stride, "same")(x)
    x = keras.layers.BatchNormalization()(x)
    for layer in extra:
        x = layer(x)
    x = keras.layers.Dense(8, "relu")(keras.layers.GlobalAveragePooling2D()(x))
    age = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(30.0), name="age")(x)
    gender = keras.layers.Dense(1, gender_activation, name="gender")(x)
    heads = {"age": age, "gender": gender}
    return keras.Model(images, [heads[name] for name in outputs])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "new" / "age_gender_A.h5"
    original = network()
    original.compile("adam", ["mae", "binary_crossentropy"])
    export.export_h5(original, path, export.golden_images())
    return original, path


def test_export_round_trip(exported):
    original, path = exported
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found = export.verify_h5(path)
    assert found["written_by"] == found["backend"] == keras.backend.backend()
    assert found["age_years"] <= 1e-3 and found["gender_probability"] <= 1e-4
    assert found["parameters"] == original.count_params()
    images = np.random.default_rng(1).random((3, 128, 128, 3), "float32")
    # As the contract's readers load it: by Keras alone, with and without compile=False.
    for loaded in (keras.models.load_model(path), export.load_h5(path)):
        assert not loaded.compiled
        for new, old in zip(loaded(images), original(images), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5)


def test_golden_mismatch_is_detected(exported, tmp_path):
    path = tmp_path / "altered.h5"
    for name, difference in (("age", 0.01), ("gender", 0.001)):
        shutil.copy(exported[1], path)
        with h5py.File(path, "a") as file:
            file["golden"][name][3] += difference
        with pytest.raises(export.ExportError, match="differs from its golden predictions"):
            export.verify_h5(path)
    with h5py.File(path, "a") as file:
        file["golden"].attrs["backend"] = "another"
        file["golden"]["gender"][3] -= 0.0005
    assert export.verify_h5(path)["gender_probability"] == pytest.approx(0.0005, abs=1e-5)


def test_changed_weights_are_detected(exported, tmp_path):
    path = shutil.copy(exported[1], tmp_path / "altered.h5")
    changed = export.load_h5(path)
    changed.get_layer("age").bias.assign([31.0])
    with h5py.File(path, "a") as file:
        golden = {name: file["golden"][name][:] for name in ("images", "age", "gender")}
    changed.save(path)
    with h5py.File(path, "a") as file:
        group = file.create_group("golden")
        group.attrs["backend"] = keras.backend.backend()
        for name, array in golden.items():
            group[name] = array
    with pytest.raises(export.ExportError, match="differs from its golden predictions"):
        export.verify_h5(path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"extra": [keras.layers.Lambda(lambda x: x)]}, "Lambda, which is not on the list"),
        ({"extra": [Doubled()]}, "Doubled, which is not on the list"),
        ({"stride": 12}, r"before the fully connected layer \w+ is 11 x 11"),
        ({"extra": [keras.layers.UpSampling2D(2), keras.layers.Dense(3)]}, "16 x 16"),
        ({"size": 96}, "input must be float32"),
        ({"outputs": ("gender", "age")}, "layers age and gender, in order"),
        ({"outputs": ("age",)}, "layers age and gender, in order"),
        ({"gender_activation": "tanh"}, "sigmoid"),
    ],
)
def test_a_network_off_the_contract_is_refused(arguments, reason, tmp_path):
    path = tmp_path / "age_gender_A.h5"
    path.write_bytes(b"the champion before")
    with pytest.raises(export.ExportError, match=reason):
        export.export_h5(network(**arguments), path, export.golden_images())
    assert path.read_bytes() == b"the champion before"


def test_a_file_off_the_contract_is_refused_before_it_is_built(tmp_path):
    path = tmp_path / "network.h5"
    network(extra=[Doubled()]).save(path)
    # Keras itself would build it here, where the layer is registered.
    keras.models.load_model(path, compile=False)
    with pytest.raises(export.ExportError, match="not on the list"):
        export.load_h5(path)
    network().save(path)
    with pytest.raises(export.ExportError, match="no golden predictions"):
        export.verify_h5(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(export.ExportError, match="no readable Keras .h5"):
        export.load_h5(path)


def test_a_network_in_mixed_precision_is_exported_in_float32(tmp_path):
    path = tmp_path / "network.h5"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = network()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.save(path)
    with pytest.raises(export.ExportError, match="float32, not mixed_bfloat16"):
        export.load_h5(path)
    export.export_h5(mixed, path, export.golden_images())
    loaded = export.load_h5(path)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    for old, new in zip(mixed.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_golden_images_are_the_same_everywhere_and_varied():
    images = export.golden_images()
    assert images.shape == (8, 128, 128, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, export.golden_images())
    assert len({image.tobytes() for image in images}) == 8
    assert images.std(axis=(1, 2)).min() > 5
