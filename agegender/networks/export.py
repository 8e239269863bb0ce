"""The .h5 contract: write, inspect without executing, load, verify golden predictions.

The file loads with keras.models.load_model(path, compile=False) where there is only Keras, and also
without that argument, as it is saved uncompiled. Its golden predictions lie in a group of the same
file, which Keras does not look at, so that they cannot be lost or paired with another model:
golden/images (uint8), golden/age (years) and golden/gender, made on the CPU by the backend named in
the group's attribute `backend`.

This module imports only Keras, h5py and NumPy. Run as a script, from anywhere, it verifies a file:

    python agegender/networks/export.py age_gender_A.h5
"""

import contextlib
import json
import logging
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

# Standard layers that are known to load uncompiled in a clean process. Lambda would run code.
_LAYER_NAMES = (
    "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D Dense DepthwiseConv2D "
    "Dropout Flatten GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization InputLayer "
    "LayerNormalization MaxPooling2D Multiply ReLU Rescaling Reshape Resizing SeparableConv2D "
    "Softmax SpatialDropout2D UpSampling2D ZeroPadding2D"
)
LAYERS = frozenset(_LAYER_NAMES.split())
# Where the other objects of a configuration may come from, such as a layer's initialiser.
MODULES = ("keras", "keras.initializers", "keras.regularizers", "keras.constraints")


class ExportError(Exception):
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


def export_h5(network: keras.Model, path: Path, golden_images: np.ndarray) -> None:
    """Write `network` to `path` under the .h5 contract and verify it in a fresh process.

    What is written is an uncompiled float32 copy, also of a network trained in mixed precision,
    with its predictions for golden_images (uint8 (K, 128, 128, 3), made-up pictures). `path`
    changes only once the file is verified. ExportError with the reason where the contract is not
    kept.
    """
    config = json.loads(network.to_json())
    _set_float32(config)
    _check(config)
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
            golden = file.create_group("golden")
            golden.attrs["backend"] = keras.backend.backend()
            golden.create_dataset("images", data=golden_images, compression="gzip")
            golden["age"], golden["gender"] = age, gender
        _verify_in_fresh_process(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def load_h5(path: Path) -> keras.Model:
    """Return the network in `path`, uncompiled: float32 RGB (N, 128, 128, 3) to [age, gender].

    Input in [0, 1], age in years, gender the probability of 1, each (N, 1). The stored architecture
    is checked against the contract and the list of standard layers before anything is built from
    it. ExportError with the reason where it fails.
    """
    try:
        with h5py.File(path) as file:
            _check(json.loads(file.attrs["model_config"]))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ExportError(f"{path} is no readable Keras .h5 file: {error!r}") from error
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a file that does not fit.
        raise ExportError(f"Keras cannot load {path}: {error}") from error


def verify_h5(path: Path) -> dict:
    """Load `path` and compare it with its golden predictions; ExportError where they differ.

    Return the backend that wrote it and the one at work, the largest differences (age_years,
    gender_probability), the number of pictures compared, of parameters and of bytes.
    """
    network = load_h5(path)
    shapes = [output.shape for output in network.outputs]
    if shapes != [(None, 1), (None, 1)]:
        raise ExportError(f"The outputs must have the shape (N, 1) each; {path} has {shapes}.")
    try:
        with h5py.File(path) as file:
            written_by = file["golden"].attrs["backend"]
            images, *golden = (file["golden"][name][:] for name in ("images", *OUTPUTS))
    except KeyError as error:
        raise ExportError(f"{path} has no golden predictions; export it with export_h5.") from error
    predictions = network.predict(images.astype("float32") / 255, verbose=0)
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


def _set_float32(config: dict) -> None:
    for part in _objects(config):
        if part["class_name"] == "DTypePolicy":
            part["config"]["name"] = "float32"


def _objects(node: object) -> Iterator[dict]:
    """Yield every object of a model's configuration, at any depth."""
    if isinstance(node, dict) and "class_name" in node:
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _objects(child)


def _check(config: dict) -> None:
    """Check a model's configuration, as Keras stores it, against the contract."""
    if config["class_name"] != "Functional":
        raise ExportError(f"The network must be a functional model, not a {config['class_name']}.")
    for part in _objects(config["config"]):
        name, module = part["class_name"], part.get("module", "keras.layers")
        if name == "__keras_tensor__":
            continue
        standard = name in LAYERS if module == "keras.layers" else module in MODULES
        if not standard or part.get("registered_name") not in (None, name):
            raise ExportError(
                f"{part.get('name', 'The network')} uses {module}.{name}, which is not on the list "
                "of standard layers that load everywhere; build it from those, or add it to "
                "LAYERS once it is seen to load in a process that has only Keras."
            )
        if name == "DTypePolicy" and part["config"]["name"] != "float32":
            raise ExportError(f"All layers must compute in float32, not {part['config']['name']}.")
    layers = {layer["config"]["name"]: layer for layer in config["config"]["layers"]}
    inputs = [
        (layer["config"]["batch_shape"], layer["config"]["dtype"])
        for layer in layers.values()
        if layer["class_name"] == "InputLayer"
    ]
    if inputs != [([None, IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS, 3], "float32")]:
        raise ExportError(f"The one input must be float32 (N, 128, 128, 3); got {inputs}.")
    outputs = config["config"]["output_layers"]
    names = [output[0] for output in outputs] if isinstance(outputs, list) else outputs
    if names != OUTPUTS:
        raise ExportError(f"The outputs must be the layers age and gender, in order; got {names}.")
    if layers["gender"]["config"].get("activation") != "sigmoid":
        raise ExportError("The layer gender must end in a sigmoid.")
    for name, layer in layers.items():
        if layer["class_name"] == "Dense":
            _check_maps(name, layers)


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
    print(json.dumps(verify_h5(Path(sys.argv[1]))))
