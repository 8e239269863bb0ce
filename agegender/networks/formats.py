"""Convert a network to a format that needs no Keras, through Keras' own export.

The format's own runtime verifies the result against the golden predictions of the .h5, in a process
without Keras. This module, run as a script, is that process:

    python agegender/networks/formats.py onnx FILE IMAGES.npy ANSWERS.npz
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def _onnx(path: str, images: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def _litert(path: str, images: np.ndarray) -> list[np.ndarray]:
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(path).get_signature_runner()
    (name,) = runner.get_input_details()
    answers = [runner(**{name: image[None]}) for image in images]
    return [np.concatenate([one[output] for one in answers]) for output in sorted(answers[0])]


def _saved_model(path: str, images: np.ndarray) -> list[np.ndarray]:
    import tensorflow

    loaded = tensorflow.saved_model.load(path)  # It owns the weights that `serve` uses.
    return [output.numpy() for output in loaded.serve(images)]


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of `keras.Model.export`, named as there.

    ending: the file's suffix; "" for a folder. needs: the modules that write and read it.
    predict: gets a path and float32 (N, 128, 128, 3) in [0, 1]; returns the runtime's answers: age
        in years and probability of 1, (N, 1) each.
    """

    name: str
    ending: str
    needs: tuple[str, ...]
    predict: Callable[[str, np.ndarray], list[np.ndarray]]


FORMATS = {
    "onnx": Format("onnx", ".onnx", ("tf2onnx", "onnxruntime"), _onnx),
    "litert": Format("litert", ".tflite", ("tensorflow", "ai_edge_litert"), _litert),
    "saved_model": Format("tf_saved_model", "", ("tensorflow",), _saved_model),
}


def check(name: str) -> None:
    """Raise ValueError if a format's packages or backend are missing."""
    import keras

    lacking = [module for module in FORMATS[name].needs if not importlib.util.find_spec(module)]
    if lacking:
        raise ValueError(
            f"FORMAT={name} needs {' and '.join(lacking).replace('_', '-')}: install the extra "
            "'formats' of pyproject.toml with pip or uv."
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"FORMAT={name} needs the TensorFlow backend: leave out BACKEND=jax.")


def convert(h5: Path, to: Path, name: str) -> Path:
    """Convert the network of a .h5 to the format `name`, a key of FORMATS, and return its path.

    h5: a file under the contract. to: a file, or an existing folder; written only after the result
    is verified. Raises ValueError if `to` is in use, or if a golden prediction differs by more than
    `export.OTHER_BACKEND_TOLERANCE`.
    """
    from agegender.networks import export

    form = FORMATS[name]
    to = to / f"{h5.stem}{form.ending}" if to.is_dir() else to
    if to.is_dir():
        raise ValueError(f"{to} exists. Move it away or name another folder.")
    network = export.load_h5(h5)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".convert-") as folder:
        written = Path(folder, f"network{form.ending}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Warnings from third-party converters.
            network(np.zeros((1, *network.input_shape[1:]), "float32"))  # Keras needs one call.
            network.export(str(written), format=form.name, verbose=False)
        _, images, *golden = export.golden(h5)
        pairs = zip(answers(written, images.astype("float32") / 255, name), golden, strict=True)
        differences = [float(np.abs(answer - expected).max()) for answer, expected in pairs]
        if not all(np.array(differences) <= export.OTHER_BACKEND_TOLERANCE):
            raise ValueError(
                f"The {name} network differs from its golden predictions by {differences} "
                f"(years, probability); at most {export.OTHER_BACKEND_TOLERANCE} is allowed."
            )
        os.replace(written, to)
    return to


def answers(path: Path, images: np.ndarray, name: str) -> list[np.ndarray]:
    """Return a format's answers, as `Format.predict` does, from a process without Keras."""
    pictures, found = path.with_name("images.npy"), path.with_name("answers.npz")
    np.save(pictures, images)
    command = [sys.executable, "-P", __file__, name, str(path), str(pictures), str(found)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"The {name} runtime cannot use the file: {done.stderr[-1000:].strip()}")
    with np.load(found) as arrays:
        return list(arrays.values())


if __name__ == "__main__":
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    chosen, file, images_path, answers_path = sys.argv[1:]
    sys.modules["keras"] = None  # type: ignore[assignment] # As if not installed.
    np.savez(answers_path, *FORMATS[chosen].predict(file, np.load(images_path)))
