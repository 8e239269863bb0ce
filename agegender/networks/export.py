"""The .h5 contract: write, inspect without executing, load, verify golden predictions.

The file loads with keras.models.load_model(path) where there is only Keras, 3.6 or newer, and is
saved uncompiled. Its golden predictions lie in a group of the same file, which Keras ignores, so
that they cannot be lost or paired with another model: golden/images (uint8), golden/age (years) and
golden/gender, made on the CPU by the backend named in the group's attribute `backend`.

This module imports only Keras, h5py and NumPy. Run as a script, from anywhere, it verifies files:

    python agegender/networks/export.py age_gender_A.h5
"""

import contextlib
import hashlib
import inspect
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

IMAGE_SIZE_PIXELS = 128
OUTPUTS = ["age", "gender"]
# The map that enters the first fully connected layer must be smaller than this on both sides.
MAP_LIMIT_PIXELS = 10
# Largest difference from the golden predictions in years and in probability: on the backend that
# wrote the file, and on any other.
SAME_BACKEND_TOLERANCE = (1e-3, 1e-4)
OTHER_BACKEND_TOLERANCE = (0.05, 1e-3)
VERIFY_TIMEOUT_SECONDS = 300
# The largest network here, the student notebook's on VGG16, takes 74 MiB.
MOST_BYTES = 128 * 2**20
MOST_CONFIG_BYTES = 4 * 2**20

# Standard layers that are known to load uncompiled in a clean process. Lambda would run code.
_LAYER_NAMES = (
    "Activation Add Average AveragePooling2D BatchNormalization Concatenate Conv2D Dense "
    "DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization "
    "InputLayer LayerNormalization MaxPooling2D Multiply Permute ReLU Rescaling Reshape Resizing "
    "SeparableConv2D Softmax SpatialDropout2D UpSampling2D ZeroPadding2D"
)
LAYERS = frozenset(_LAYER_NAMES.split())
# Where the other parts of a layer come from, by the last word of their setting's name.
_PARTS = {
    "activation": keras.activations,
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
# Settings that came after Keras 3.6, which stops at any that it does not know, and the values with
# which they change nothing. (Before 3.6 a network's one input was listed in another form, at which
# newer versions warn with each prediction.)
_NEWER_SETTINGS = {
    "antialias": False,
    "input_axes": None,
    "optional": False,
    "output_axes": None,
    "quantization_config": None,
    "ragged": False,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}
_OBJECT_KEYS = frozenset(
    ("module", "class_name", "config", "registered_name", "name", "build_config", "inbound_nodes")
)
_ROOT_ATTRIBUTES = frozenset(("model_config", "keras_version", "backend"))
_FILTERS = frozenset((h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32))


class ExportError(ValueError):
    """A network or a file that does not keep the .h5 contract."""


def golden_images(count: int = 8, seed: int = 0) -> np.ndarray:
    """Return made-up pictures, uint8 (count, 128, 128, 3): slopes of colour, an ellipse and noise.

    Drawn, because they travel with every exported file and no real face may. Same seed, same bytes.
    """
    generator = np.random.default_rng(seed)
    size = IMAGE_SIZE_PIXELS
    row, column = np.arange(size)[:, None, None], np.arange(size)[None, :, None]
    images = np.empty((count, size, size, 3), "uint8")
    for image in images:
        corner, along, across, inside = generator.integers(0, 256, (4, 1, 1, 3))
        image[:] = ((size - row) * corner + row * along + column * across) // (2 * size)
        (middle_row, middle_column), (height, width) = generator.integers(40, 88, (2, 2))
        distance = ((row - middle_row) * width) ** 2 + ((column - middle_column) * height) ** 2
        ellipse = np.broadcast_to(4 * distance < (height * width) ** 2, image.shape)
        image[ellipse] = (image // 2 + inside.astype("uint8") // 2)[ellipse]
        image[:] = np.clip(image + generator.integers(-12, 13, image.shape), 0, 255)
    return images


def with_mirror(network: keras.Model) -> keras.Model:
    """Return a network whose age and gender are the means over the picture and its mirror image.

    Its input is that of `network`, which it calls twice and shares. Of standard layers only: the
    columns are reversed by a fixed fully connected layer over them, "mirror_image".
    """
    images = keras.Input(network.input_shape[1:], name="image")
    width = images.shape[2]
    mirror = keras.layers.Dense(
        width, use_bias=False, trainable=False, dtype="float32", name="mirror_image"
    )
    columns_last = keras.layers.Permute((1, 3, 2), dtype="float32", name="columns_last")(images)
    mirrored = keras.layers.Permute((1, 3, 2), dtype="float32", name="mirrored")(
        mirror(columns_last)
    )
    mirror.set_weights([np.eye(width)[::-1]])
    pairs = zip(network(images), network(mirrored), strict=True)
    outputs = [
        keras.layers.Average(dtype="float32", name=name)(pair)
        for name, pair in zip(OUTPUTS, pairs, strict=True)
    ]
    return keras.Model(images, outputs, name=f"{network.name}_with_mirror")


def export_h5(
    network: keras.Model, path: Path, golden_images: np.ndarray, *, fresh_process: bool = True
) -> None:
    """Write `network` to `path` under the .h5 contract and verify it in a fresh process.

    What is written is an uncompiled float32 copy, also of a network trained in mixed precision,
    with its predictions for golden_images (uint8 (K, 128, 128, 3), made-up pictures). `path`
    changes only once the file is verified; fresh_process=False does so in this process, which saves
    seconds. ExportError with the reason where the contract is not kept.
    """
    config = json.loads(network.to_json())
    _make_portable(config)
    _check(config)
    # Before a network is made from it, which takes it apart.
    portable = json.dumps({name: config[name] for name in ("class_name", "config")})
    # On the CPU, as a fresh process will, whatever the network was trained on.
    with keras.device("cpu:0"):
        copy = keras.Model.from_config(config["config"])
        copy.set_weights(network.get_weights())
        age, gender = (
            keras.ops.convert_to_numpy(output)
            for output in copy(golden_images.astype("float32") / 255, training=False)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / "network.h5"
        with _without_format_advice():
            copy.save(temporary)
        with h5py.File(temporary, "a") as file:
            file.attrs["model_config"] = portable
            golden = file.create_group("golden")
            golden.attrs["backend"] = keras.backend.backend()
            golden.create_dataset("images", data=golden_images, compression="gzip")
            golden["age"], golden["gender"] = age, gender
        if fresh_process:
            _verify_in_fresh_process(temporary)
        else:
            verify_h5(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def inspect_h5(path: Path) -> dict:
    """Return the configuration of the network in `path`, checked without executing anything.

    Sizes, stored and declared; nothing but groups, numbers and names, all inside the file; the
    architecture of known layers with known settings, under the contract. ExportError with the
    reason where it fails.
    """
    try:
        if (size_bytes := path.stat().st_size) > MOST_BYTES:
            raise ExportError(f"{path} has {size_bytes} bytes; at most {MOST_BYTES} are read.")
        with h5py.File(path) as file:
            _check_contents(file)
            config = file.attrs["model_config"]
            if len(config) > MOST_CONFIG_BYTES:
                raise ExportError(
                    f"The model_config of {path} has {len(config)} characters; at most "
                    f"{MOST_CONFIG_BYTES} are read."
                )
        config = json.loads(config)
        _check(config)
    except ExportError:
        raise
    # What h5py, json and the checks raise for what is damaged or built otherwise.
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ExportError(f"{path} is no readable Keras .h5 file: {error!r}") from error
    return config


def load_h5(path: Path) -> keras.Model:
    """Return the network in `path`, uncompiled: float32 RGB (N, 128, 128, 3) to [age, gender].

    Input in [0, 1], age in years, gender the probability of 1, each (N, 1). Nothing is built before
    `inspect_h5` has passed it. ExportError with the reason where it fails.
    """
    inspect_h5(path)
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a file that does not fit.
        raise ExportError(f"Keras cannot load {path}: {error}") from error
    # A file may lie about the shapes between its layers; the built network cannot.
    _check({"class_name": "Functional", "config": json.loads(network.to_json())["config"]})
    for layer in network.layers:
        if layer.name == "mirror_image":
            (kernel,) = layer.get_weights()
            if not np.array_equal(kernel, np.eye(len(kernel))[::-1]):
                raise ExportError(f"The layer mirror_image of {path} does not mirror.")
    return network


def load_verified(path: Path, passed: Path | None = None) -> keras.Model:
    """Return the network in `path` as `load_h5` does, once it reproduced its golden predictions.

    passed: a folder in which to remember which files did so on which versions of Keras and its
    backend, by their SHA-256. Those are inspected and loaded, but not compared again.
    """
    network = load_h5(path)
    backend = keras.backend.backend()
    versions = f"keras-{keras.__version__}-{backend}-{sys.modules[backend].__version__}"
    mark = passed and passed / f"{hashlib.sha256(path.read_bytes()).hexdigest()}-{versions}"
    if not (mark and mark.exists()):
        compare_with_golden(network, path)
        if mark:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()  # Empty, and so never half written.
    return network


def verify_h5(path: Path) -> dict:
    """Load `path` and return what `compare_with_golden` finds; ExportError where it is no good."""
    return compare_with_golden(load_h5(path), path)


def compare_with_golden(network: keras.Model, path: Path) -> dict:
    """Compare a network with the golden predictions in its file; ExportError where they differ.

    Return the backend that wrote the file and the one at work, the largest differences (age_years,
    gender_probability), the number of pictures compared, of parameters and of bytes.
    """
    shapes = [output.shape for output in network.outputs]
    if shapes != [(None, 1), (None, 1)]:
        raise ExportError(f"The outputs must have the shape (N, 1) each; {path} has {shapes}.")
    try:
        with h5py.File(path) as file:
            written_by = file["golden"].attrs["backend"]
            images, *golden = (file["golden"][name][:] for name in ("images", *OUTPUTS))
    except KeyError as error:
        raise ExportError(f"{path} has no golden predictions; export it with export_h5.") from error
    predictions = [
        keras.ops.convert_to_numpy(output)
        for output in network(images.astype("float32") / 255, training=False)
    ]
    gender = predictions[1]
    if not (np.isfinite(predictions[0]).all() and (gender >= 0).all() and (gender <= 1).all()):
        raise ExportError(f"{path} predicts ages or probabilities that cannot be.")
    differences = [
        float(np.abs(new - old).max()) for new, old in zip(predictions, golden, strict=True)
    ]
    same = written_by == keras.backend.backend()
    tolerances = SAME_BACKEND_TOLERANCE if same else OTHER_BACKEND_TOLERANCE
    if not all(np.array(differences) <= tolerances):
        raise ExportError(
            f"{path} differs from its golden predictions by {differences} (years, probability); "
            f"at most {tolerances} is allowed on {keras.backend.backend()} for a file written on "
            f"{written_by}. The file or this installation is damaged."
        )
    return {
        "written_by": written_by,
        "backend": keras.backend.backend(),
        "age_years": differences[0],
        "gender_probability": differences[1],
        "images": len(images),
        "parameters": network.count_params(),
        "bytes": Path(path).stat().st_size,
    }


def _make_portable(config: dict) -> None:
    """Rewrite a model's configuration, in place, as Keras 3.6 reads it: all in float32.

    ExportError where a layer uses what older versions of Keras do not have.
    """
    for part in _objects(config):
        part.pop("compile_config", None)
        settings = part["config"]
        if isinstance(settings.get("dtype"), dict):
            settings["dtype"] = "float32"
        for name in _NEWER_SETTINGS.keys() & settings.keys():
            if settings.pop(name) != _NEWER_SETTINGS[name]:
                raise ExportError(
                    f"{part.get('name', part['class_name'])} sets {name}, which Keras 3.6 does not "
                    "have; build it without."
                )


def _objects(node: object) -> Iterator[dict]:
    """Yield every object of a model's configuration, at any depth."""
    if isinstance(node, dict) and "class_name" in node:
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _objects(child)


def _check_contents(file: h5py.File) -> None:
    """Check what an HDF5 file holds, and what reading it would take, from its headers alone."""

    def refuse(name, what):
        raise ExportError(f"{file.filename}: {name} is {what}; a network has only plain numbers.")

    if surplus := (set(file) - {"model_weights", "golden"}) | (set(file.attrs) - _ROOT_ATTRIBUTES):
        refuse(", ".join(sorted(surplus)), "no part of an uncompiled network")
    declared_bytes, waiting, seen = 0, [file], set()
    while waiting:
        group = waiting.pop()
        for name in group.attrs:
            attribute = group.attrs.get_id(name)
            if attribute.dtype.kind not in "fiuS" and not h5py.check_string_dtype(attribute.dtype):
                refuse(f"{group.name}@{name}", f"of type {attribute.dtype}")
        for name in group:
            path = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                refuse(path, f"a link elsewhere ({type(link).__name__})")
            part = group[name]
            address = h5py.h5o.get_info(part.id).addr
            if address in seen:
                refuse(path, "a second link to one object")
            seen.add(address)
            if isinstance(part, h5py.Group):
                waiting.append(part)
                continue
            if not isinstance(part, h5py.Dataset) or part.dtype.kind not in "fiu":
                refuse(path, f"of type {part.dtype}")
            if part.external or part.is_virtual:
                refuse(path, "stored outside the file")
            creation = part.id.get_create_plist()
            filters = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
            if not filters <= _FILTERS:
                refuse(path, f"packed by the HDF5 filters {sorted(filters - _FILTERS)}")
            # Reading takes a whole chunk, which may be larger than the array.
            chunk_bytes = math.prod(part.chunks or ()) * part.dtype.itemsize
            declared_bytes += max(part.nbytes, chunk_bytes)
            if declared_bytes > 2 * MOST_BYTES:
                refuse(path, f"too large: the arrays unpack to more than {2 * MOST_BYTES} bytes")


def _check(config: dict) -> None:
    """Check a model's configuration, as Keras stores it, against the contract."""
    if config["class_name"] != "Functional":
        raise ExportError(f"The network must be a functional model, not a {config['class_name']}.")
    for part in _objects(config):
        _check_object(part)
    graph = config["config"]
    nested = [layer for layer in graph["layers"] if layer["class_name"] == "Functional"]
    graphs = [graph, *(layer["config"] for layer in nested)]
    if nested and _form(graph) != _mirror_form(nested[0]["config"]["name"]):
        raise ExportError("The only model with a network inside is what `with_mirror` returns.")
    for graph in graphs:
        layers = {layer["config"]["name"]: layer for layer in graph["layers"]}
        inputs = [
            (layer["config"]["batch_shape"], layer["config"]["dtype"])
            for layer in layers.values()
            if layer["class_name"] == "InputLayer"
        ]
        if inputs != [([None, IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS, 3], "float32")]:
            raise ExportError(f"The one input must be float32 (N, 128, 128, 3); got {inputs}.")
        outputs = graph["output_layers"]
        names = [output[0] for output in outputs] if isinstance(outputs, list) else outputs
        if names != OUTPUTS:
            raise ExportError(
                f"The outputs must be the layers age and gender, in order; got {names}."
            )
    # Of a mirrored network, the one inside.
    if layers["gender"]["config"].get("activation") != "sigmoid":
        raise ExportError("The layer gender must end in a sigmoid.")
    for name, layer in layers.items():
        if layer["class_name"] == "Dense":
            _check_maps(name, layers)


def _check_object(part: dict) -> None:
    """Check that Keras will make a part of a configuration from its own classes and names alone."""
    name, module = part["class_name"], part.get("module", "keras.layers")
    if name == "__keras_tensor__":
        return
    title = part.get("name", "The network")
    if name == "Functional":
        standard = module in ("keras.layers", "keras.src.models.functional")
    elif module in ("keras.layers", "keras"):
        standard = name in (LAYERS if module == "keras.layers" else ("DTypePolicy",))
    else:
        known = {f"keras.{part.__name__.rpartition('.')[2]}": part for part in _PARTS.values()}
        standard = inspect.isclass(vars(known.get(module, object)).get(name))
    if not standard or part.get("registered_name") not in (None, name):
        raise ExportError(
            f"{title} uses {module}.{name}, which is not on the list of standard layers that load "
            "everywhere, or not by its own name; build it from those, or add it to LAYERS once it "
            "is seen to load in a process that has only Keras."
        )
    # A network that is not compiled, inside another, says so by an empty compile_config.
    if surplus := {key for key, value in part.items() if value} - _OBJECT_KEYS:
        raise ExportError(f"{title} has the entries {sorted(surplus)}; none such is expected.")
    if name == "DTypePolicy" and part["config"]["name"] != "float32":
        raise ExportError(f"All layers must compute in float32, not {part['config']['name']}.")
    for key, value in part["config"].items():
        kind = _PARTS.get(key.rpartition("_")[2])
        if kind and isinstance(value, str) and (value.startswith("_") or value not in vars(kind)):
            raise ExportError(f"{title} has the {key} {value!r}, which {kind.__name__} lacks.")


def _form(graph: dict) -> dict:
    """Return a graph's layers by name: class, what `_mirror_form` prescribes, and what each reads.

    What a layer reads is, call by call, (layer, its call, its output).
    """
    prescribed = ("dims", "units", "use_bias", "activation")
    return {
        layer["config"]["name"]: (
            layer["class_name"],
            {key: layer["config"][key] for key in prescribed if key in layer["config"]},
            [
                tuple(tensor["config"]["keras_history"])
                for tensor in _objects(layer["inbound_nodes"])
            ],
        )
        for layer in graph["layers"]
    }


def _mirror_form(network: str) -> dict:
    """Return the `_form` of what `with_mirror` makes of a network of this name."""
    size = IMAGE_SIZE_PIXELS
    dense = {"units": size, "use_bias": False, "activation": "linear"}
    return {
        "image": ("InputLayer", {}, []),
        "columns_last": ("Permute", {"dims": [1, 3, 2]}, [("image", 0, 0)]),
        "mirror_image": ("Dense", dense, [("columns_last", 0, 0)]),
        "mirrored": ("Permute", {"dims": [1, 3, 2]}, [("mirror_image", 0, 0)]),
        network: ("Functional", {}, [("image", 0, 0), ("mirrored", 0, 0)]),
        "age": ("Average", {}, [(network, 0, 0), (network, 1, 0)]),
        "gender": ("Average", {}, [(network, 0, 1), (network, 1, 1)]),
    }


def _check_maps(name: str, layers: dict[str, dict]) -> None:
    """Check that the last feature maps below the layer `name` are small enough."""
    waiting, seen = [name], set()
    while waiting:
        for tensor in _objects(layers[waiting.pop()]["inbound_nodes"]):
            shape, (source, *_) = tensor["config"]["shape"], tensor["config"]["keras_history"]
            if len(shape) == 4 and max(shape[1:3]) >= MAP_LIMIT_PIXELS:
                raise ExportError(
                    f"The feature map before the fully connected layer {name} is {shape[1]} x "
                    f"{shape[2]}; it must be under {MAP_LIMIT_PIXELS} x {MAP_LIMIT_PIXELS}: "
                    "use more stages or a smaller internal size."
                )
            if len(shape) != 4 and source not in seen:
                seen.add(source)
                waiting.append(source)


@contextlib.contextmanager
def _without_format_advice() -> Iterator[None]:
    """Silence the advice to save as .keras: .h5 is what the contract asks for."""
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _verify_in_fresh_process(path: Path) -> None:
    # -P keeps this folder off the module path; the CPU, since a training process may hold a GPU.
    environment = os.environ | {
        "KERAS_BACKEND": keras.backend.backend(),
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_SECONDS,
    )
    if done.returncode:
        raise ExportError(f"A fresh process could not use the file: {done.stderr[-1000:].strip()}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(verify_h5(Path(argument))))
