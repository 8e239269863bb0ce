import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    # tests/test_miniature.py verifies its exports in fresh processes.
    export.export_h5(original, path, export.golden_images(), fresh_process=False)
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


def edit_config(path, edit):
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config, {layer["config"]["name"]: layer for layer in config["config"]["layers"]})
        file.attrs["model_config"] = json.dumps(config)


HOSTILE_CONFIGS = {
    "a Lambda": (
        lambda config, layers: layers["age"].update(class_name="Lambda"),
        "keras.layers.Lambda, which is not on the list",
    ),
    "a class from elsewhere": (
        lambda config, layers: layers["age"].update(module="os", class_name="system"),
        "os.system, which is not on the list",
    ),
    "a Keras class by another door": (
        lambda config, layers: layers["age"].update(module="keras.src.layers"),
        "keras.src.layers.Dense, which is not on the list",
    ),
    "a registered name": (
        lambda config, layers: layers["age"].update(registered_name="tests>Doubled"),
        "or not by its own name",
    ),
    "an initializer from elsewhere": (
        lambda config, layers: layers["age"]["config"]["bias_initializer"].update(module="mine"),
        "mine.Constant, which is not on the list",
    ),
    "a function for an initializer": (
        lambda config, layers: layers["age"]["config"]["bias_initializer"].update(class_name="get"),
        "keras.initializers.get, which is not on the list",
    ),
    "an activation as an object": (
        lambda config, layers: layers["age"]["config"].update(
            activation={"class_name": "function", "config": "system", "module": "os"}
        ),
        "os.function, which is not on the list",
    ),
    "an activation of no known name": (
        lambda config, layers: layers["age"]["config"].update(activation="os.system"),
        "the activation 'os.system', which keras.activations lacks",
    ),
    "a compilation": (
        lambda config, layers: layers["age"].update(compile_config={"loss": "mine"}),
        r"the entries \['compile_config'\]",
    ),
    "something deep inside": (
        lambda config, layers: layers["age"]["inbound_nodes"][0]["kwargs"].update(
            mask={"class_name": "Lambda", "config": {}}
        ),
        "keras.layers.Lambda, which is not on the list",
    ),
    "a nested network": (
        lambda config, layers: config["config"]["layers"].append(
            {"class_name": "Functional", "inbound_nodes": []}
            | {"config": json.loads(json.dumps(config["config"])) | {"name": "inside"}}
        ),
        "The only model with a network inside",
    ),
    "a lie about a shape": (
        # By class: the number in a layer's name depends on what was built before.
        lambda config, layers: next(
            layer for layer in layers.values() if layer["class_name"] == "Conv2D"
        )["config"].update(strides=[8, 8]),
        "is 16 x 16",
    ),
    "a long text": (
        lambda config, layers: config.update(text="x" * 2**22),
        "model_config of .* at most 4194304",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE_CONFIGS)
def test_a_hostile_configuration_is_refused(kind, exported, tmp_path):
    edit, reason = HOSTILE_CONFIGS[kind]
    path = shutil.copy(exported[1], tmp_path / "hostile.h5")
    edit_config(path, edit)
    with pytest.raises(export.ExportError, match=reason):
        export.load_h5(path)


def second_link(file):
    file["golden/again"] = file["golden/age"]


def external(file):
    file.create_dataset("golden/more", (10,), "u1", external=[("secret.bin", 0, 10)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (3,))
    file.create_virtual_dataset("golden/more", layout)


def bomb(file):
    file.create_dataset("golden/more", (2**30,), "f4", compression="gzip")


def wide_chunk(file):
    file.create_dataset("golden/more", (1,), "f4", chunks=(2**29,), maxshape=(None,))


def array(value, **arguments):
    return lambda file: file.create_dataset("golden/more", data=value, **arguments)


HOSTILE_CONTENTS = {
    "a soft link": (
        lambda file: file.update({"golden/more": h5py.SoftLink("/model_weights/age")}),
        r"/golden/more is a link elsewhere \(SoftLink\)",
    ),
    "an external link": (
        lambda file: file.update({"model_weights/more": h5py.ExternalLink("secret.h5", "/")}),
        r"/model_weights/more is a link elsewhere \(ExternalLink\)",
    ),
    "a dangling link": (
        lambda file: file.update({"golden/more": h5py.SoftLink("/nowhere")}),
        "a link elsewhere",
    ),
    "a second link": (second_link, "a second link to one object"),
    "an external dataset": (external, "/golden/more is stored outside the file"),
    "a virtual dataset": (virtual, "/golden/more is stored outside the file"),
    "an array that unpacks to gigabytes": (bomb, "the arrays unpack to more than"),
    "a chunk of gigabytes": (wide_chunk, "the arrays unpack to more than"),
    "objects": (array(["text"], dtype=h5py.string_dtype()), "/golden/more is of type object"),
    "opaque bytes": (array(np.void(b"opaque")), "/golden/more is of type"),
    "text": (array(np.array([b"text"])), "/golden/more is of type"),
    "a type": (lambda file: file.update({"golden/more": np.dtype("f4")}), "golden/more is of type"),
    "another filter": (array(np.zeros(99), compression="lzf"), r"the HDF5 filters \[32000\]"),
    "an optimizer": (
        lambda file: file.create_group("optimizer_weights"),
        "optimizer_weights is no part of an uncompiled network",
    ),
    "a compilation": (
        lambda file: file.attrs.update(training_config="{}"),
        "training_config is no part of an uncompiled network",
    ),
    "a depth without end": (
        lambda file: file.attrs.update(model_config="[" * 10**5 + "]" * 10**5),
        "no readable Keras .h5 file: RecursionError",
    ),
    "a reference": (
        lambda file: file["golden"].attrs.update(more=file["model_weights"].ref),
        "/golden@more is of type",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE_CONTENTS)
def test_hostile_contents_are_refused(kind, exported, tmp_path):
    edit, reason = HOSTILE_CONTENTS[kind]
    path = shutil.copy(exported[1], tmp_path / "hostile.h5")
    with h5py.File(path, "a") as file:
        edit(file)
    assert path.stat().st_size < 2**20
    with pytest.raises(export.ExportError, match=reason):
        export.inspect_h5(path)


def test_a_file_that_is_none_or_too_large_is_refused(exported, tmp_path):
    path = tmp_path / "network.h5"
    for content in (b"", b"not HDF5", exported[1].read_bytes()[:-3000]):
        path.write_bytes(content)
        with pytest.raises(export.ExportError, match="no readable Keras .h5"):
            export.inspect_h5(path)
    with path.open("wb") as file:
        file.truncate(export.MOST_BYTES + 1)
    with pytest.raises(export.ExportError, match="at most 134217728 are read"):
        export.inspect_h5(path)
    with pytest.raises(export.ExportError, match="No such file"):
        export.inspect_h5(tmp_path / "missing.h5")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    path = tmp_path_factory.mktemp("mirrored") / "age_gender_B.h5"
    original = network()
    original.compile("adam", "mse")
    golden = export.golden_images()
    export.export_h5(export.with_mirror(original), path, golden, fresh_process=False)
    return original, path


def test_mirror_averaging_is_part_of_the_exported_network(mirrored):
    original, path = mirrored
    images = np.random.default_rng(1).random((3, 128, 128, 3), "float32")
    both = [original(images), original(images[:, :, ::-1])]
    for loaded in (keras.models.load_model(path), export.load_h5(path)):
        assert loaded.input_shape == (None, 128, 128, 3)
        for new, plain, turned in zip(loaded(images), *both, strict=True):
            assert np.abs(plain - turned).max() > 1e-4
            np.testing.assert_allclose(new, (plain + turned) / 2, atol=1e-5)
    assert export.verify_h5(path)["images"] == 8


MIRROR_CHANGES = {
    "another layer": lambda layers: layers["age"].update(class_name="Add"),
    "other dimensions": lambda layers: layers["mirrored"]["config"].update(dims=[2, 1, 3]),
    "one view twice": lambda layers: layers["functional"]["inbound_nodes"].__setitem__(
        1, layers["functional"]["inbound_nodes"][0]
    ),
}


@pytest.mark.parametrize("kind", MIRROR_CHANGES)
def test_another_network_around_a_network_is_refused(kind, mirrored, tmp_path):
    path = shutil.copy(mirrored[1], tmp_path / "altered.h5")

    def edit(config, layers):
        (name,) = (n for n, layer in layers.items() if layer["class_name"] == "Functional")
        MIRROR_CHANGES[kind](layers | {"functional": layers[name]})

    edit_config(path, edit)
    with pytest.raises(export.ExportError, match="only model with a network inside"):
        export.inspect_h5(path)


def test_the_network_inside_a_mirror_keeps_the_contract(mirrored, tmp_path):
    for arguments, reason in (
        ({"stride": 12}, "is 11 x 11"),
        ({"gender_activation": "tanh"}, "sigmoid"),
        ({"extra": [keras.layers.Lambda(lambda x: x)]}, "not on the list"),
    ):
        with pytest.raises(export.ExportError, match=reason):
            bad = export.with_mirror(network(**arguments))
            export.export_h5(bad, tmp_path / "bad.h5", export.golden_images())
    path = shutil.copy(mirrored[1], tmp_path / "altered.h5")
    with h5py.File(path, "a") as file:
        file["model_weights/mirror_image/mirror_image/kernel"][0, 0] = 1
    with pytest.raises(export.ExportError, match="mirror_image of .* does not mirror"):
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
    export.export_h5(mixed, path, export.golden_images(), fresh_process=False)
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


def environment_with_keras(folder, keras_version, jax_version):
    """Make an environment with these alone; return its Python, or skip where none can be had."""
    python, uv = folder / "bin" / "python", [sys.executable, "-m", "uv"]
    packages = ["h5py", f"keras=={keras_version}.*", f"jax=={jax_version}.*"]
    commands = [
        [*uv, "venv", "--quiet", "--python", sys.executable, folder],
        [*uv, "pip", "install", "--quiet", "--python", python, *packages],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no environment with Keras {keras_version}: {done.stderr[-300:]}")
    return python


# Each with a JAX of its time; the newest Keras is the one that all other tests run on.
@pytest.mark.parametrize(
    ("keras_version", "jax_version"),
    [
        pytest.param("3.6", "0.4", marks=pytest.mark.system),
        *(
            pytest.param(*versions, marks=pytest.mark.slow)
            for versions in (
                ("3.8", "0.5"),
                ("3.10", "0.6"),
                ("3.12", "0.7"),
                ("3.13", "0.8"),
                ("3.14", "0.9"),
                ("3.15", "0.10"),
            )
        ),
    ],
)
def test_older_versions_of_keras_load_what_is_exported(
    keras_version, jax_version, exported, mirrored, tmp_path
):
    python = environment_with_keras(tmp_path / "environment", keras_version, jax_version)
    released = sorted((Path(__file__).parents[2] / "models").glob("*.h5"))
    assert len(released) == 4
    done = subprocess.run(
        [python, export.__file__, exported[1], mirrored[1], *released],
        env={"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    differences = [json.loads(line)["age_years"] for line in done.stdout.splitlines()]
    assert len(differences) == 6
    assert max(differences) < export.OTHER_BACKEND_TOLERANCE[0]


def test_a_setting_that_older_versions_lack_is_refused(tmp_path):
    images = keras.Input((128, 128, 3), name="image")
    x = keras.layers.Resizing(64, 64, antialias=True)(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = [keras.layers.Dense(1, name="age")(x)]
    outputs.append(keras.layers.Dense(1, "sigmoid", name="gender")(x))
    with pytest.raises(export.ExportError, match="antialias, which Keras 3.6 does not have"):
        export.export_h5(keras.Model(images, outputs), tmp_path / "a.h5", export.golden_images(1))
