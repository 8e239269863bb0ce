"""Batches for training: pictures or activations, random views, mixed pairs."""

import dataclasses
import math
import mmap
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from agegender.measure import evaluation


class RandomView(keras.layers.Layer):
    """Turn uint8 pictures (N, S, S, 3) into floats in [0, 1]; in training, draw random views.

    Mirror, rotation, zoom and shift form one affine map, so pictures are resampled only once. Then
    contrast and brightness change and, with probability `erasing`, a random square of up to half
    the side turns grey (Zhong et al. 2020). Strengths are numbers or variables; 0 is off.
    Rotation is in turns, zoom and shift are fractions of the side, brightness and contrast
    fractions of the range. Pictures are first resized to size_pixels, unless it is None.
    """

    def __init__(
        self,
        rotation: float | keras.Variable = 0.04,
        zoom: float | keras.Variable = 0.12,
        shift: float | keras.Variable = 0.08,
        brightness: float | keras.Variable = 0.2,
        contrast: float | keras.Variable = 0.3,
        erasing: float | keras.Variable = 0.0,
        seed: int = 0,
        size_pixels: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size_pixels = size_pixels
        self.rotation, self.zoom, self.shift = rotation, zoom, shift
        self.brightness, self.contrast, self.erasing = brightness, contrast, erasing
        self.erases = isinstance(erasing, keras.Variable) or erasing > 0
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """Return the pictures as float; only training changes more than their size."""
        images = keras.ops.cast(images, self.compute_dtype) / 255
        if self.size_pixels not in (None, images.shape[1]):
            images = keras.ops.image.resize(images, (self.size_pixels, self.size_pixels))
        if not training:
            return images
        count, size = keras.ops.shape(images)[0], images.shape[1]

        def uniform(strength: float, center: float = 0.0) -> keras.KerasTensor:
            draw = keras.random.uniform((count,), -1.0, 1.0, seed=self.generator)
            return center + strength * draw

        mirror = keras.ops.sign(uniform(1.0, center=1e-6))
        angle, scale = uniform(2 * math.pi * self.rotation), uniform(self.zoom, center=1.0)
        cosine, sine = scale * keras.ops.cos(angle), scale * keras.ops.sin(angle)
        # The map goes from output coordinates to input coordinates, about the centre.
        middle = (size - 1) / 2
        columns = [mirror * cosine, -sine, mirror * sine, cosine]
        offsets = [
            middle * (1 - columns[0] - columns[1]) + uniform(self.shift * size),
            middle * (1 - columns[2] - columns[3]) + uniform(self.shift * size),
        ]
        zero = keras.ops.zeros((count,))
        transform = [*columns[:2], offsets[0], *columns[2:], offsets[1], zero, zero]
        images = keras.ops.image.affine_transform(
            images, keras.ops.stack(transform, axis=1), "bilinear", fill_mode="reflect"
        )

        def per_image(values: keras.KerasTensor) -> keras.KerasTensor:
            return keras.ops.cast(values, images.dtype)[:, None, None, None]

        mean = keras.ops.mean(images, axis=(1, 2), keepdims=True)
        images = (images - mean) * per_image(uniform(self.contrast, center=1.0)) + mean
        images = keras.ops.clip(images + per_image(uniform(self.brightness)), 0, 1)
        if self.erases:
            half_side = (
                size
                * (0.15 + uniform(0.1))
                * keras.ops.cast(uniform(0.5, center=0.5) < self.erasing, "float32")
            )
            places = keras.ops.arange(size, dtype="float32")[None, :]
            inside = [
                keras.ops.abs(places - uniform(size / 2, center=size / 2)[:, None])
                < half_side[:, None]
                for _ in range(2)
            ]
            hole = keras.ops.logical_and(inside[0][:, :, None], inside[1][:, None, :])
            images = keras.ops.where(hole[..., None], keras.ops.cast(0.5, images.dtype), images)
        return images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input, with its new size."""
        size = self.size_pixels or input_shape[1]
        return (input_shape[0], size, size, 3)


class ResidentPictures(keras.layers.Layer):
    """Turn row numbers (N, 1) into pictures, uint8 (N, S, S, 3), of a set kept on the device.

    Rows may be float32 (N, 3): two row numbers and the share of the first picture in their mean.
    """

    def __init__(self, pictures: np.ndarray):
        # No cast to a GPU's bfloat16, which cannot hold every row number above 256.
        super().__init__(trainable=False, autocast=False)
        self.pictures = self.add_weight(
            pictures.shape, lambda shape, dtype: pictures, "uint8", trainable=False
        )

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """Return the pictures of these rows, mixed if they come in pairs."""

        def pictures(column: int) -> keras.KerasTensor:
            return keras.ops.take(self.pictures, keras.ops.cast(rows[:, column], "int32"), axis=0)

        if rows.shape[1] == 1:
            return pictures(0)
        share = rows[:, 2][:, None, None, None]
        first, second = (keras.ops.cast(pictures(k), "float32") for k in (0, 1))
        return keras.ops.cast(keras.ops.round(share * first + (1 - share) * second), "uint8")


@dataclasses.dataclass(frozen=True)
class Examples:
    """The data that a network is fitted to.

    inputs: uint8 pictures (M, S, S, 3), which are augmented; or activations, float (M, ...), or
        (M, views, ...) with several views per face.
    age_years, gender: float32 (M,).
    train_rows, validation_rows: int (n,), rows of these three arrays. Without validation rows,
        nothing is validated and the last epoch is kept.
    floors: turn MAE and accuracy into val_score.
    taught: float32 (M, W), a teacher's answers as in `models.for_training`, or None.
    """

    inputs: np.ndarray
    age_years: np.ndarray
    gender: np.ndarray
    train_rows: np.ndarray
    validation_rows: np.ndarray
    floors: evaluation.Floors
    taught: np.ndarray | None = None


class Batches:
    """Batches of an array, which may be a memory map, with labels for each output of a network.

    The order depends only on the seed and the epoch. Training has a seed and picks one of several
    views of a face at random. Validation has no seed and takes view 0.

    examples: inputs (M, ...) or (M, views, ...), and the labels.
    rows: int (n,), rows of the examples.
    outputs: names of the network's outputs.
    views: number of views per face; 0 if the inputs have no such dimension.
    epoch: number of epochs already trained.
    mixing: above 0, each training picture is the mean of two (mixup, Zhang et al. 2018). The share
        of the first, 1/2 to 1, comes from a Beta distribution with `mixing` for both parameters.
        Labels are then (N, 3): the first picture's, the second's, the share.
    """

    def __init__(
        self,
        examples: Examples,
        rows: np.ndarray,
        outputs: list[str],
        batch_size: int,
        *,
        views: int = 0,
        seed: int | None = None,
        epoch: int = 0,
        mixing: float = 0.0,
    ):
        self.inputs, self.rows = examples.inputs, rows
        self.views, self.batch_size = views, batch_size
        known: dict[str, Any] = {"gender": examples.gender, "taught": examples.taught}
        self.labels = {name: known.get(name, examples.age_years) for name in outputs}
        self.seed, self.epoch, self.mixing = seed, epoch - 1, mixing
        self.next_epoch()

    def next_epoch(self) -> None:
        """Begin an epoch: shuffle if there is a seed."""
        self.epoch += 1
        self.order, self.view = self.rows, np.zeros(len(self.rows), int)
        self.partners, self.share = self.rows, np.ones(len(self.rows), np.float32)
        if self.seed is not None:
            generator = np.random.default_rng((self.seed, self.epoch))
            self.order = generator.permutation(self.rows)
            self.view = generator.integers(0, self.views or 1, len(self.rows))
            if self.mixing:
                self.partners = generator.permutation(self.rows)
                share = generator.beta(self.mixing, self.mixing, len(self.rows))
                self.share = np.maximum(share, 1 - share).astype("float32")

    def epochs(self, count: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Yield the batches of `count` epochs."""
        for _ in range(count):
            self.next_epoch()
            yield from (self[index] for index in range(len(self)))

    def for_fit(self, epochs: int) -> Any:
        """Return the batches of `epochs` epochs in the form that `Model.fit` takes.

        For TensorFlow, it turns off the thread that tunes tf.data's queue. That thread sleeps for
        up to 10 s at a time, and the end of an epoch would wait until it wakes.
        """
        if keras.backend.backend() != "tensorflow":
            return self.epochs(epochs)
        import tensorflow as tf  # Keras would leave that thread on.

        shapes = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), self[0]
        )
        options = tf.data.Options()
        options.autotune.enabled = False
        data = tf.data.Dataset.from_generator(lambda: self.epochs(epochs), output_signature=shapes)
        return data.prefetch(2).with_options(options)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self.order[part]
        inputs = self.inputs[rows, self.view[part]] if self.views else self.inputs[rows]
        if isinstance(self.inputs.base, mmap.mmap):
            # Pages read from a mapped file count as this process's memory until released. The
            # system keeps them cached.
            self.inputs.base.madvise(mmap.MADV_DONTNEED)
        if inputs.dtype == np.float16:  # Only stored, not computed, in half precision.
            inputs = inputs.astype("float32")
        if not self.mixing:
            labels = {name: v[rows].reshape(len(rows), -1) for name, v in self.labels.items()}
            return inputs, labels
        partners, share = self.partners[part], self.share[part]
        labels = {
            name: np.stack([values[rows], values[partners], share], axis=1)
            for name, values in self.labels.items()
            if name != "taught"
        }
        if "taught" in self.labels:  # Mixed here: its loss is linear in the teacher's answers.
            own, answers = share[:, None], self.labels["taught"]
            labels["taught"] = own * answers[rows] + (1 - own) * answers[partners]
        return self._mixed(inputs, partners, share), labels

    def _mixed(self, inputs: np.ndarray, partners: np.ndarray, share: np.ndarray) -> np.ndarray:
        if inputs.ndim == 2:  # Row numbers only: the device holds the pictures and mixes them.
            return np.column_stack([inputs, self.inputs[partners], share]).astype("float32")
        if self.seed is None:
            return inputs
        own = share[:, None, None, None]
        return np.rint(own * inputs + (1 - own) * self.inputs[partners]).astype("uint8")
