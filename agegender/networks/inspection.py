"""Check an .h5 file against the .h5 contract before Keras builds anything."""

import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras

IMAGE_SIZE_PIXELS = 128
OUTPUTS = ["age", "gender"]
# The map that enters the first fully connected layer must be smaller than this on both sides.
MAP_LIMIT_PIXELS = 10
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
# Modules of a layer's other parts, by the last word of the setting's name.
_PARTS = {
    "activation": keras.activations,
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_OBJECT_KEYS = frozenset(
    ("module", "class_name", "config", "registered_name", "name", "build_config", "inbound_nodes")
)
_ROOT_GROUPS = frozenset(("model_weights", "golden"))
_ROOT_ATTRIBUTES = frozenset(("model_config", "keras_version", "backend"))
_FILTERS = frozenset((h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32))


class ExportError(ValueError):
    """A network or a file does not keep the .h5 contract."""


def inspect_h5(path: Path) -> None:
    """Check that a file is small and holds only numbers and known layers with known settings.

    Raises ExportError, with the reason, if it does not.
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
        check(json.loads(config))
    except ExportError:
        raise
    # Errors of h5py, json and the checks for a file that is damaged or built differently.
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ExportError(f"{path} is not a readable Keras .h5 file: {error!r}") from error


def _check_contents(file: h5py.File) -> None:
    """Check an HDF5 file's contents, and the memory to read them, from its headers alone."""

    def refuse(name, what):
        raise ExportError(f"{file.filename}: {name} is {what}; a network holds only plain numbers.")

    if surplus := (set(file) - _ROOT_GROUPS) | (set(file.attrs) - _ROOT_ATTRIBUTES):
        refuse(", ".join(sorted(surplus)), "not part of an uncompiled network")
    declared_bytes, waiting, seen = 0, [file], set()
    while waiting:
        group = waiting.pop()
        for name in group.attrs:
            kind = group.attrs.get_id(name).dtype
            if kind.kind not in "fiuS" and not h5py.check_string_dtype(kind):
                refuse(f"{group.name}@{name}", f"of type {kind}")
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
            # Reading loads a whole chunk, which may be larger than the array.
            chunk_bytes = math.prod(part.chunks or ()) * part.dtype.itemsize
            declared_bytes += max(part.nbytes, chunk_bytes)
            if declared_bytes > 2 * MOST_BYTES:
                refuse(path, f"too large: the arrays unpack to more than {2 * MOST_BYTES} bytes")


def check(config: dict) -> None:
    """Check a model's configuration, as Keras stores it; raise ExportError with the reason."""
    if config["class_name"] != "Functional":
        raise ExportError(f"The network must be a functional model, not a {config['class_name']}.")
    for part in objects(config):
        _check_object(part)
    graph = config["config"]
    nested = [layer for layer in graph["layers"] if layer["class_name"] == "Functional"]
    graphs = [graph, *(layer["config"] for layer in nested)]
    if nested and _form(graph) != _mirror_form(nested[0]["config"]["name"]):
        raise ExportError("Only `with_mirror` may put a network inside a model.")
    for graph in graphs:
        layers = {layer["config"]["name"]: layer for layer in graph["layers"]}
        inputs = [
            (layer["config"]["batch_shape"], layer["config"]["dtype"])
            for layer in layers.values()
            if layer["class_name"] == "InputLayer"
        ]
        if inputs != [([None, IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS, 3], "float32")]:
            raise ExportError(f"The single input must be float32 (N, 128, 128, 3); got {inputs}.")
        outputs = graph["output_layers"]
        names = [output[0] for output in outputs] if isinstance(outputs, list) else outputs
        if names != OUTPUTS:
            raise ExportError(
                f"The outputs must be the layers age and gender, in order; got {names}."
            )
    # `layers` now holds those of the network inside, if there is one.
    if layers["gender"]["config"].get("activation") != "sigmoid":
        raise ExportError("The layer gender must end in a sigmoid.")
    for name, layer in layers.items():
        if layer["class_name"] == "Dense":
            _check_maps(name, layers)


def objects(node: object) -> Iterator[dict]:
    """Yield every object of a model's configuration, at any depth."""
    if isinstance(node, dict) and "class_name" in node:
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from objects(child)


def _check_object(part: dict) -> None:
    """Check that Keras will build a part of a configuration only from its own classes and names."""
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
            "everywhere, or not under its own name. Use a listed layer, or add this one to LAYERS "
            "after checking that it loads in a process that has only Keras."
        )
    # An uncompiled network inside another has an empty compile_config.
    if surplus := {key for key, value in part.items() if value} - _OBJECT_KEYS:
        raise ExportError(f"{title} has the entries {sorted(surplus)}, which are not expected.")
    if name == "DTypePolicy" and part["config"]["name"] != "float32":
        raise ExportError(f"All layers must compute in float32, not {part['config']['name']}.")
    for key, value in part["config"].items():
        kind = _PARTS.get(key.rpartition("_")[2])
        if kind and isinstance(value, str) and (value.startswith("_") or value not in vars(kind)):
            raise ExportError(f"{title} has the {key} {value!r}, which {kind.__name__} lacks.")


def _form(graph: dict) -> dict:
    """Return each layer's class, the settings that `_mirror_form` prescribes, and its inputs.

    The inputs are, call by call, (layer, its call, its output).
    """
    prescribed = ("dims", "units", "use_bias", "activation")
    form = {}
    for layer in graph["layers"]:
        config = layer["config"]
        settings = {key: config[key] for key in prescribed if key in config}
        reads = [tuple(t["config"]["keras_history"]) for t in objects(layer["inbound_nodes"])]
        form[config["name"]] = layer["class_name"], settings, reads
    return form


def _mirror_form(network: str) -> dict:
    """Return the `_form` of the result of `export.with_mirror` on a network of this name."""
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
    """Check that the last feature maps before the layer `name` are small enough."""
    waiting, seen = [name], set()
    while waiting:
        for tensor in objects(layers[waiting.pop()]["inbound_nodes"]):
            shape, (source, *_) = tensor["config"]["shape"], tensor["config"]["keras_history"]
            if len(shape) == 4 and max(shape[1:3]) >= MAP_LIMIT_PIXELS:
                raise ExportError(
                    f"The feature map before the fully connected layer {name} is {shape[1]} x "
                    f"{shape[2]}; it must be under {MAP_LIMIT_PIXELS} x {MAP_LIMIT_PIXELS}. "
                    "Use more stages or a smaller internal size."
                )
            if len(shape) != 4 and source not in seen:
                seen.add(source)
                waiting.append(source)
