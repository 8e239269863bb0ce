"""What a network is fed in training: batches of pictures or activations, views, pairs mixed."""

import math
import mmap

import keras
import numpy as np


@keras.saving.register_keras_serializable("agegender")
class RandomView(keras.layers.Layer):
    """uint8 pictures (N, S, S, 3) to float in [0, 1]; in training, each seen from a random view.

    Mirror, rotation, zoom and shift are one affine map, so pictures are resampled once; then
    contrast and brightness change and, with probability `erasing`, a random square of up to half
    the side becomes grey (Zhong et al. 2020). Strengths: rotation in turns, zoom and shift as
    fractions of the side, brightness and contrast as fractions of the range; 0 is off.
    """

    def __init__(
        self,
        rotation: float = 0.04,
        zoom: float = 0.12,
        shift: float = 0.08,
        brightness: float = 0.2,
        contrast: float = 0.3,
        erasing: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rotation, self.zoom, self.shift = rotation, zoom, shift
        self.brightness, self.contrast, self.erasing = brightness, contrast, erasing
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        """Return the pictures as float; changed only where training is true."""
        images = keras.ops.cast(images, self.compute_dtype) / 255
        if not training:
            return images
        count, size = keras.ops.shape(images)[0], images.shape[1]

        def uniform(strength, center=0.0):
            draw = keras.random.uniform((count,), -1.0, 1.0, seed=self.generator)
            return center + strength * draw

        mirror = keras.ops.sign(uniform(1.0, center=1e-6))
        angle, scale = uniform(2 * math.pi * self.rotation), uniform(self.zoom, center=1.0)
        cosine, sine = scale * keras.ops.cos(angle), scale * keras.ops.sin(angle)
        # The map runs from places in the output to places in the input, about the centre.
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

        def per_image(values):
            return keras.ops.cast(values, images.dtype)[:, None, None, None]

        mean = keras.ops.mean(images, axis=(1, 2), keepdims=True)
        images = (images - mean) * per_image(uniform(self.contrast, center=1.0)) + mean
        images = keras.ops.clip(images + per_image(uniform(self.brightness)), 0, 1)
        if self.erasing > 0:
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

    def compute_output_shape(self, input_shape):
        """Return the same shape as the input."""
        return input_shape


class ResidentPictures(keras.layers.Layer):
    """Rows (N, 1) to the pictures uint8 (N, S, S, 3) of a set that stays on the device.

    Rows float32 (N, 3) are those of two pictures and the share of the first in their mean.
    """

    def __init__(self, pictures: np.ndarray):
        # Not cast to a GPU's bfloat16, which has no row above 256 exactly.
        super().__init__(trainable=False, autocast=False)
        self.pictures = self.add_weight(
            pictures.shape, lambda shape, dtype: pictures, "uint8", trainable=False
        )

    def call(self, rows):
        """Return the pictures of these rows, mixed where they come in twos."""

        def pictures(column):
            return keras.ops.take(self.pictures, keras.ops.cast(rows[:, column], "int32"), axis=0)

        if rows.shape[1] == 1:
            return pictures(0)
        share = rows[:, 2][:, None, None, None]
        first, second = (keras.ops.cast(pictures(k), "float32") for k in (0, 1))
        return keras.ops.cast(keras.ops.round(share * first + (1 - share) * second), "uint8")


class Batches(keras.utils.PyDataset):
    """Batches of an array that may be a memory map, with labels for each of a network's outputs.

    inputs (M, ...) or, with several views of each face, (M, views, ...): training picks a view at
    random, validation takes view 0. The order depends on the seed and the epoch alone; `epoch` is
    how many have gone before. With mixing > 0 (mixup, Zhang et al. 2018), a picture of training is
    the mean of two, the first with a share of 1/2 to 1 from a Beta distribution with mixing for
    both parameters; labels are then (N, 3): the first's, the other's, the share.
    """

    def __init__(
        self,
        inputs,
        age_years,
        gender,
        rows,
        outputs,
        batch_size,
        views,
        seed=None,
        epoch=0,
        mixing=0.0,
    ):
        super().__init__()
        self.inputs, self.rows, self.views, self.batch_size = inputs, rows, views, batch_size
        self.labels = {name: gender if name == "gender" else age_years for name in outputs}
        self.seed, self.epoch, self.mixing = seed, epoch - 1, mixing
        self.on_epoch_begin()

    def on_epoch_begin(self):
        """Shuffle, where there is a seed."""
        self.epoch += 1
        self.order, self.view = self.rows, np.zeros(len(self.rows), int)
        if self.seed is not None:
            generator = np.random.default_rng((self.seed, self.epoch))
            self.order = generator.permutation(self.rows)
            self.view = generator.integers(0, self.views or 1, len(self.rows))
            if self.mixing:
                self.partners = generator.permutation(self.rows)
                share = generator.beta(self.mixing, self.mixing, len(self.rows))
                self.share = np.maximum(share, 1 - share).astype("float32")

    def __len__(self):
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self.order[part]
        inputs = self.inputs[rows, self.view[part]] if self.views else self.inputs[rows]
        if isinstance(self.inputs.base, mmap.mmap):
            # What was read of a mapped file counts as this process's memory until it is let go; the
            # system still has it cached.
            self.inputs.base.madvise(mmap.MADV_DONTNEED)
        if inputs.dtype == np.float16:  # What is stored in half is not to be computed in half.
            inputs = inputs.astype("float32")
        labels = {name: values[rows][:, None] for name, values in self.labels.items()}
        if self.mixing:
            partners, share = rows, np.ones(len(rows), np.float32)
            if self.seed is not None:
                partners, share = self.partners[part], self.share[part]
            if inputs.ndim == 2:  # Rows of pictures that stay on the device.
                inputs = np.column_stack([inputs, self.inputs[partners], share]).astype("float32")
            elif self.seed is not None:
                own = share[:, None, None, None]
                inputs = np.rint(own * inputs + (1 - own) * self.inputs[partners]).astype("uint8")
            labels = {
                name: np.stack([values[rows], values[partners], share], axis=1)
                for name, values in self.labels.items()
            }
        return inputs, labels
