import json
import shutil

import h5py
import keras
import numpy as np
import pytest

from agegender.networks import export, inspection


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_a_file_off_the_contract_is_refused_before_it_is_built(network, tmp_path):
    path = tmp_path / "network.h5"
    network(extra=[Doubled()]).save(path)
    # Keras itself would build it here, where the layer is registered.
    keras.models.load_model(path, compile=False)
    with pytest.raises(inspection.ExportError, match="not on the list"):
        export.load_h5(path)
    network().save(path)
    with pytest.raises(inspection.ExportError, match="no golden predictions"):
        export.load_verified(path)


def edit_config(path, edit):
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config, {layer["config"]["name"]: layer for layer in config["config"]["layers"]})
        file.attrs["model_config"] = json.dumps(config)


def age(**changes):
    """Change the last layer's entries, and in its settings only those that are named."""

    def edit(config, layers):
        settings = layers["age"]["config"] | changes.get("config", {})
        layers["age"].update(changes | {"config": settings})

    return edit


def initializer(**changes):
    return lambda config, layers: layers["age"]["config"]["bias_initializer"].update(changes)


def lie_about_a_shape(config, layers):
    # By class: the number in a layer's name depends on what was built before.
    (layer,) = (layer for layer in layers.values() if layer["class_name"] == "Conv2D")
    layer["config"]["strides"] = [8, 8]


def nest(config, layers):
    inside = json.loads(json.dumps(config["config"])) | {"name": "inside"}
    nested = {"class_name": "Functional", "inbound_nodes": [], "config": inside}
    config["config"]["layers"].append(nested)


def deep_inside(config, layers):
    arguments = layers["age"]["inbound_nodes"][0]["kwargs"]
    arguments["mask"] = {"class_name": "Lambda", "config": {}}


CALL = {"class_name": "function", "config": "system", "module": "os"}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (age(class_name="Lambda"), "keras.layers.Lambda, which is not on the list"),
        (age(module="os", class_name="system"), "os.system, which is not on the list"),
        (age(module="keras.src.layers"), "keras.src.layers.Dense, which is not on the list"),
        (age(registered_name="tests>Doubled"), "or not under its own name"),
        (age(compile_config={"loss": "mine"}), r"the entries \['compile_config'\]"),
        (age(config={"activation": CALL}), "os.function, which is not on the list"),
        (age(config={"activation": "os.system"}), "'os.system', which keras.activations lacks"),
        (initializer(module="mine"), "mine.Constant, which is not on the list"),
        (initializer(class_name="get"), "keras.initializers.get, which is not on the list"),
        (deep_inside, "keras.layers.Lambda, which is not on the list"),
        (nest, "may put a network inside"),
        (lie_about_a_shape, "is 16 x 16"),
        (lambda config, layers: config.update(text="x" * 2**22), "model_config .* at most 4194304"),
    ],
)
def test_a_hostile_configuration_is_refused(edit, reason, exported, tmp_path):
    path = shutil.copy(exported[1], tmp_path / "hostile.h5")
    edit_config(path, edit)
    with pytest.raises(inspection.ExportError, match=reason):
        export.load_h5(path)


def more(value):
    return lambda file: file.update({"golden/more": value})


def array(*arguments, **settings):
    return lambda file: file.create_dataset("golden/more", *arguments, **settings)


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (3,))
    file.create_virtual_dataset("golden/more", layout)


def attributes(**changes):
    return lambda file: file.attrs.update(changes)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (more(h5py.SoftLink("/golden/age")), r"/golden/more is a link elsewhere \(SoftLink\)"),
        (more(h5py.SoftLink("/nowhere")), "a link elsewhere"),
        (more(h5py.ExternalLink("secret.h5", "/")), r"a link elsewhere \(ExternalLink\)"),
        (lambda file: more(file["golden/age"])(file), "a second link to one object"),
        (array((10,), "u1", external=[("secret.bin", 0, 10)]), "is stored outside the file"),
        (virtual, "/golden/more is stored outside the file"),
        (array((2**30,), "f4", compression="gzip"), "the arrays unpack to more than"),
        (array((1,), "f4", chunks=(2**29,), maxshape=(None,)), "the arrays unpack to more than"),
        (array(data=["text"], dtype=h5py.string_dtype()), "/golden/more is of type object"),
        (array(data=np.void(b"opaque")), "/golden/more is of type"),
        (array(data=np.array([b"text"])), "/golden/more is of type"),
        (more(np.dtype("f4")), "golden/more is of type"),
        (array(data=np.zeros(99), compression="lzf"), r"the HDF5 filters \[32000\]"),
        (lambda file: file.create_group("optimizer_weights"), "not part of an uncompiled network"),
        (attributes(training_config="{}"), "not part of an uncompiled network"),
        (attributes(model_config="[" * 10**5 + "]" * 10**5), "not a readable .*: RecursionError"),
        (lambda file: file["golden"].attrs.update(a=file["golden"].ref), "/golden@a is of type"),
    ],
)
def test_hostile_contents_are_refused(edit, reason, exported, tmp_path):
    path = shutil.copy(exported[1], tmp_path / "hostile.h5")
    with h5py.File(path, "a") as file:
        edit(file)
    assert path.stat().st_size < 2**20
    with pytest.raises(inspection.ExportError, match=reason):
        inspection.inspect_h5(path)


def test_a_file_that_is_none_or_too_large_is_refused(exported, tmp_path):
    path = tmp_path / "network.h5"
    for content in (b"", b"not HDF5", exported[1].read_bytes()[:-3000]):
        path.write_bytes(content)
        with pytest.raises(inspection.ExportError, match="not a readable Keras .h5"):
            inspection.inspect_h5(path)
    with path.open("wb") as file:
        file.truncate(inspection.MOST_BYTES + 1)
    with pytest.raises(inspection.ExportError, match="at most 134217728 are read"):
        inspection.inspect_h5(path)
    with pytest.raises(inspection.ExportError, match="No such file"):
        inspection.inspect_h5(tmp_path / "missing.h5")


def one_view_twice(layers):
    (name,) = (name for name, layer in layers.items() if layer["class_name"] == "Functional")
    calls = layers[name]["inbound_nodes"]
    calls[1] = calls[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers["age"].update(class_name="Add"),
        lambda layers: layers["mirrored"]["config"].update(dims=[2, 1, 3]),
        one_view_twice,
    ],
)
def test_another_network_around_a_network_is_refused(change, mirrored, tmp_path):
    path = shutil.copy(mirrored[1], tmp_path / "altered.h5")
    edit_config(path, lambda config, layers: change(layers))
    with pytest.raises(inspection.ExportError, match="may put a network inside"):
        inspection.inspect_h5(path)
