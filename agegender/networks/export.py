"""The .h5 contract: write a network, load it, verify its golden predictions.

The file is saved uncompiled. keras.models.load_model(path) loads it with only Keras, 3.6 or newer.
Its golden predictions are in a group of the same file, which Keras ignores, so they cannot be lost
or paired with another model. They are golden/images (uint8), golden/age (years) and golden/gender,
computed on the CPU by the backend named in the group's attribute `backend`.

This module needs only Keras, h5py and NumPy. Run in the package's folder, it verifies files:

    python -m agegender.networks.export age_gender_A.h5
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

from agegender import disk
from agegender.networks import inspection

# Largest allowed difference from the golden predictions, in years and in probability: on the
# backend that wrote the file, and on any other.
SAME_BACKEND_TOLERANCE = (1e-3, 1e-4)
OTHER_BACKEND_TOLERANCE = (0.05, 1e-3)
# Settings newer than Keras 3.6, which rejects unknown ones, and the values at which they change
# nothing. (Before 3.6 a network's single input was listed in another form, about which newer
# versions warn at each prediction.)
_NEWER_SETTINGS: dict[str, object] = {"renorm_momentum": 0.99}
_NEWER_SETTINGS |= dict.fromkeys(("antialias", "optional", "ragged", "renorm"), False)
_NEWER_SETTINGS |= dict.fromkeys(("input_axes", "output_axes", "renorm_clipping"))
_NEWER_SETTINGS["quantization_config"] = None


def golden_images(count: int = 8, seed: int = 0) -> np.ndarray:
    """Return synthetic pictures, uint8 (count, 128, 128, 3): colour gradients, an ellipse, noise.

    They are part of every exported file, as no real face may be. Same seed, same bytes.
    """
    generator = np.random.default_rng(seed)
    size = inspection.IMAGE_SIZE_PIXELS
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
    """Return a network that averages age and gender over the picture and its mirror image.

    It calls `network` twice and has only standard layers. "mirror_image", which is fully connected
    and fixed, reverses the columns.
    """
    images = keras.Input(network.input_shape[1:], name="image")
    width = images.shape[2]
    mirror = keras.layers.Dense(
        width, use_bias=False, trainable=False, dtype="float32", name="mirror_image"
    )
    x = keras.layers.Permute((1, 3, 2), dtype="float32", name="columns_last")(images)
    mirrored = keras.layers.Permute((1, 3, 2), dtype="float32", name="mirrored")(mirror(x))
    mirror.set_weights([np.eye(width)[::-1]])
    outputs = [
        keras.layers.Average(dtype="float32", name=name)(pair)
        for name, *pair in zip(inspection.OUTPUTS, network(images), network(mirrored), strict=True)
    ]
    return keras.Model(images, outputs, name=f"{network.name}_with_mirror")


def export_h5(network: keras.Model, path: Path, *, fresh_process: bool = True) -> None:
    """Write `network` to `path` under the .h5 contract and verify it in a fresh process.

    network: of any precision; the file holds an uncompiled float32 copy.
    path: replaced only after the file is verified.
    fresh_process: False verifies in this process, which saves seconds.

    Raises ExportError, with the reason, if the contract is not kept.
    """
    config = json.loads(network.to_json())
    _make_portable(config)
    inspection.check(config)
    # Serialized before `from_config`, which takes the dictionary apart.
    portable = json.dumps({name: config[name] for name in ("class_name", "config")})
    # On the CPU, like the fresh process, whatever the network was trained on.
    with keras.device("cpu:0"):
        copy = keras.Model.from_config(config["config"])
        copy.set_weights(network.get_weights())
        images = golden_images()
        age, gender = _predict(copy, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / "network.h5"
        _save(copy, temporary)
        with h5py.File(temporary, "a") as file:
            file.attrs["model_config"] = portable
            group = file.create_group("golden")
            group.attrs["backend"] = keras.backend.backend()
            group.create_dataset("images", data=images, compression="gzip")
            group["age"], group["gender"] = age, gender
        if fresh_process:
            _verify_in_fresh_process(temporary)
        else:
            load_verified(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def load_h5(path: Path) -> keras.Model:
    """Return the network in `path`, uncompiled: float32 RGB (N, 128, 128, 3) to [age, gender].

    Input in [0, 1], age in years, gender the probability of 1, each (N, 1). Nothing is built until
    the file passes `inspection.inspect_h5`. Raises ExportError, with the reason, if it fails.
    """
    inspection.inspect_h5(path)
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds of error for a bad file.
        raise inspection.ExportError(f"Keras cannot load {path}: {error}") from error
    # A file may lie about the shapes between its layers; the built network cannot.
    config = json.loads(network.to_json())["config"]
    inspection.check({"class_name": "Functional", "config": config})
    for layer in network.layers:
        if layer.name == "mirror_image":
            (kernel,) = layer.get_weights()
            if not np.array_equal(kernel, np.eye(len(kernel))[::-1]):
                raise inspection.ExportError(f"The layer mirror_image of {path} does not mirror.")
    return network


def load_verified(path: Path, passed: Path | None = None) -> keras.Model:
    """Return the network in `path`, as `load_h5` does, if it reproduces its golden predictions.

    passed: a folder that remembers which files have passed, by their SHA-256 and the versions of
        Keras and its backend. Those are inspected and loaded, but not compared again.

    Raises ExportError, with the reason, if it does not.
    """
    network = load_h5(path)
    backend = keras.backend.backend()
    versions = f"keras-{keras.__version__}-{backend}-{sys.modules[backend].__version__}"
    mark = passed and passed / f"{disk.checksum(path)}-{versions}"
    if not (mark and mark.exists()):
        compare_with_golden(network, path)
        if mark:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()  # Empty, so never half written.
    return network


def compare_with_golden(network: keras.Model, path: Path) -> list[float]:
    """Compare the network loaded from `path` with the golden predictions in that file.

    Return the largest differences in years and in probability. Raises ExportError if they exceed
    rounding, or if the network does not return an age and a probability, (N, 1) each.
    """
    shapes = [output.shape for output in network.outputs]
    if shapes != [(None, 1), (None, 1)]:
        raise inspection.ExportError(
            f"Each output must have the shape (N, 1); {path} has {shapes}."
        )
    written_by, images, *expected = golden(path)
    age, gender = _predict(network, images)
    if not (np.isfinite(age).all() and (gender >= 0).all() and (gender <= 1).all()):
        raise inspection.ExportError(f"{path} predicts impossible ages or probabilities.")
    pairs = zip((age, gender), expected, strict=True)
    differences = [float(np.abs(new - old).max()) for new, old in pairs]
    backend = keras.backend.backend()
    tolerances = SAME_BACKEND_TOLERANCE if written_by == backend else OTHER_BACKEND_TOLERANCE
    if not all(np.array(differences) <= tolerances):
        raise inspection.ExportError(
            f"{path} differs from its golden predictions by {differences} (years, probability); "
            f"at most {tolerances} is allowed on {backend} for a file written on {written_by}. "
            "The file or this installation is damaged."
        )
    return differences


def golden(path: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Return the golden predictions of a .h5: the backend that made them, images, age and gender.

    Images uint8 (K, 128, 128, 3), age in years and gender (K, 1). Raises ExportError if missing.
    """
    try:
        with h5py.File(path) as file:
            kept = file["golden"]
            return kept.attrs["backend"], *(kept[n][:] for n in ("images", *inspection.OUTPUTS))
    except KeyError as error:
        raise inspection.ExportError(
            f"{path} has no golden predictions; export it with export_h5."
        ) from error


def _predict(network: keras.Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return age and gender, (N, 1) each, of uint8 images, without tracing."""
    age, gender = network(images.astype("float32") / 255, training=False)
    return keras.ops.convert_to_numpy(age), keras.ops.convert_to_numpy(gender)


def _make_portable(config: dict) -> None:
    """Rewrite a model's configuration in place so that Keras 3.6 can read it, all in float32.

    Raises ExportError if a layer uses a setting that older versions of Keras lack.
    """
    for part in inspection.objects(config):
        part.pop("compile_config", None)
        settings = part["config"]
        if isinstance(settings.get("dtype"), dict):
            settings["dtype"] = "float32"
        for name in _NEWER_SETTINGS.keys() & settings.keys():
            if settings.pop(name) != _NEWER_SETTINGS[name]:
                raise inspection.ExportError(
                    f"{part.get('name', part['class_name'])} sets {name}, which Keras 3.6 does not "
                    "have; build it without that setting."
                )


def _save(network: keras.Model, path: Path) -> None:
    """Save as .h5, as the contract requires, and silence Keras' advice to save as .keras."""
    advice = logging.getLogger("absl")
    disabled, advice.disabled = advice.disabled, True
    try:
        network.save(path)
    finally:
        advice.disabled = disabled


def _verify_in_fresh_process(path: Path) -> None:
    # On the CPU: a training process may hold a GPU.
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    environment["KERAS_BACKEND"] = keras.backend.backend()
    done = subprocess.run(
        [sys.executable, "-m", "agegender.networks.export", path.resolve()],
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise inspection.ExportError(
            f"A fresh process could not use the file: {done.stderr[-1000:].strip()}"
        )


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        years, probability = compare_with_golden(load_h5(file), file)
        print(f"{file} differs from its golden predictions by {years} years and {probability}.")
