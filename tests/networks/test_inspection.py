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
        export.verify_h5(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(inspection.ExportError, match="no readable Keras .h5"):
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
    with pytest.raises(inspection.ExportError, match=reason):
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
    with pytest.raises(inspection.ExportError, match=reason):
        inspection.inspect_h5(path)


def test_a_file_that_is_none_or_too_large_is_refused(exported, tmp_path):
    path = tmp_path / "network.h5"
    for content in (b"", b"not HDF5", exported[1].read_bytes()[:-3000]):
        path.write_bytes(content)
        with pytest.raises(inspection.ExportError, match="no readable Keras .h5"):
            inspection.inspect_h5(path)
    with path.open("wb") as file:
        file.truncate(inspection.MOST_BYTES + 1)
    with pytest.raises(inspection.ExportError, match="at most 134217728 are read"):
        inspection.inspect_h5(path)
    with pytest.raises(inspection.ExportError, match="No such file"):
        inspection.inspect_h5(tmp_path / "missing.h5")


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
    with pytest.raises(inspection.ExportError, match="only model with a network inside"):
        inspection.inspect_h5(path)
