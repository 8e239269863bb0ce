"""Fit one network: schedule, losses, augmentation, best epoch kept; logging comes in as a callback.

Nothing here knows a search or a store. The same `fit` trains on uint8 pixels (augmented in the
graph), on cached activations of a frozen backbone, and on feature vectors.
"""

import ctypes
import io
import json
import math
import mmap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from agegender import disk
from agegender.evidence import evaluation
from agegender.networks import models

# How a history is read everywhere: one row an epoch, these columns (and val_ of the first five).
METRICS = ("loss", "age_loss", "age_mae", "gender_loss", "gender_accuracy")
# What an accelerator keeps of a set's pixels, and how many steps it is sent at once.
RESIDENT_GIGABYTES = 8.0
STEPS_PER_EXECUTION = 16


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class CheckpointError(RuntimeError):
    """A checkpoint is torn, or of another training; the message names the file."""


def prepare_backend() -> str:
    """Deterministic operations, GPU memory on demand, bfloat16 on a GPU; return the device's name.

    Call once before the first tensor is made. On a CPU, float32 stays: bfloat16 gained little.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Neither switch exists in Keras.

        # It warns of functions traced anew: here that is a new network for each trial.
        tf.get_logger().setLevel("ERROR")
        tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        device = f"{len(gpus)} GPU" if gpus else "CPU"
    else:
        device = str(keras.distribution.list_devices()[0]).split(":")[0].upper()
    if device != "CPU":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    return device


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc.

    TensorFlow 2.21 has it return all above 128 KB to the system from the first batch on that comes
    from Python. Every step then asks for it anew, page by page, which takes as long as the
    computing: 640 faces cost 9.6 s of processor time instead of 14 to 20.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_threshold, 2**30)


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
    """Rows int32 (N, 1) to the pictures uint8 (N, S, S, 3) of a set that stays on the device."""

    def __init__(self, pictures: np.ndarray):
        super().__init__(trainable=False)
        self.pictures = self.add_weight(
            pictures.shape, lambda shape, dtype: pictures, "uint8", trainable=False
        )

    def call(self, rows):
        """Return the pictures of these rows."""
        return keras.ops.take(self.pictures, rows[:, 0], axis=0)


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
                own = share[:, None, None, None]
                inputs = np.rint(own * inputs + (1 - own) * self.inputs[partners]).astype("uint8")
            labels = {
                name: np.stack([values[rows], values[partners], share], axis=1)
                for name, values in self.labels.items()
            }
        return inputs, labels


def mixed(loss: Callable) -> Callable:
    """Return the loss of pictures that are mixed of two, with the labels of Batches."""

    def of_both(labels, predicted):
        share = labels[:, 2]
        first, second = (loss(labels[:, k : k + 1], predicted) for k in (0, 1))
        return share * first + (1 - share) * second

    return of_both


def first_of_two(name: str, function: Callable) -> keras.metrics.Metric:
    """Return a metric by the label that a mixed picture has most of."""
    return keras.metrics.MeanMetricWrapper(lambda y, p: function(y[:, :1], p), name=name)


def age_distribution_loss(deviation_years: float) -> Callable:
    """Cross-entropy to a Gaussian around the age (label distribution learning, Gao et al. 2017)."""

    def loss(age_years, probabilities):
        years = keras.ops.arange(models.AGE_BINS, dtype="float32")
        target = keras.ops.softmax(-0.5 * ((years - age_years) / deviation_years) ** 2)
        return -keras.ops.sum(target * keras.ops.log(probabilities + 1e-7), axis=-1)

    return loss


def age_exceedance_loss(age_years, probabilities):
    """Binary cross-entropy of 'older than k years', summed over k, in tenths (OR-CNN)."""
    years = keras.ops.arange(models.AGE_BINS - 1, dtype="float32")
    older = keras.ops.cast(age_years > years, "float32")
    return keras.ops.sum(keras.ops.binary_crossentropy(older, probabilities), axis=-1) / 10


# Losses of the age itself are in units of 20 years, about the spread of UTKFace's ages.
AGE_LOSSES = {
    "mae": lambda true, predicted: keras.ops.mean(keras.ops.abs(true - predicted), -1) / 20,
    "mse": lambda true, predicted: keras.ops.mean((true - predicted) ** 2, -1) / 400,
    "huber": lambda true, predicted: keras.losses.huber(true / 20, predicted / 20, delta=0.25),
}


def make_optimizer(
    name: str, learning_rate: float, schedule: str, steps: int, warmup: float, weight_decay: float
) -> keras.Optimizer:
    """Return an optimizer whose rate rises over the share `warmup` of the steps, then falls.

    name: adamw, adam or sgd (Nesterov); schedule: cosine (to a thousandth) or constant; decay
    spares biases and normalisation. KeyError for another name.
    """
    warmup_steps = max(1, round(warmup * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        learning_rate / 100,
        decay_steps=max(1, steps - warmup_steps),
        alpha={"cosine": 1e-3, "constant": 1.0}[schedule],
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )
    optimizer = {
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=weight_decay),
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
        ),
    }[name]()
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def fit(
    network: keras.Model,
    inputs: np.ndarray,
    age_years: np.ndarray,
    gender: np.ndarray,
    *,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    floors: evaluation.Floors,
    epochs: int,
    batch_size: int = 64,
    optimizer: str = "adamw",
    learning_rate: float = 2e-3,
    schedule: str = "cosine",
    warmup: float = 0.05,
    weight_decay: float = 0.05,
    age_loss: str = "mae",
    age_weight: float = 1.0,
    age_deviation_years: float = 2.5,
    gender_weight: float = 1.0,
    augmentation: dict[str, float] | None = None,
    seed: int = 0,
    stop_at: float = math.inf,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    checkpoint: Path | None = None,
    resident: bool | None = None,
) -> pd.DataFrame:
    """Train in place and leave the weights of the epoch with the lowest val_score.

    Without validation_rows nothing is validated and the last epoch's weights are left.

    network: as `models.for_training` returns it. inputs: pixels uint8 (M, S, S, 3) with
    `augmentation` (strengths of RandomView; mixing, as of Batches), or activations (M, ...) or
    (M, views, ...); age_years and gender float32 (M,); rows index all three. floors turn MAE and
    accuracy into val_score.
    stop_at, on time.monotonic()'s clock, ends training after the epoch in which it passes. on_epoch
    gets each epoch's row as it ends. checkpoint: a file that holds all that the next epoch depends
    on, replaced after each; where it is there, training goes on from it, to the same end as without
    the interruption, to the bit on the same machine, and on_epoch gets the earlier rows again.
    resident: keep all pixels on the device and send it their rows alone, several steps at a time;
    not with mixing; None: where there is an accelerator and they take up to RESIDENT_GIGABYTES.
    Return the history, one row an epoch. TrainingDivergedError where a loss is no longer finite;
    CheckpointError for a checkpoint that cannot be read or was left by a training with other
    arguments; ValueError for resident pixels with mixing.
    """
    keras.utils.set_random_seed(seed)
    view = dict(augmentation or {})
    mixing = view.pop("mixing", 0.0)
    views = inputs.shape[1] if inputs.ndim == len(network.input.shape) + 1 else 0
    outputs = sorted(network.output)
    age_layers = set(outputs) & set(models.AGE_LAYERS.values())
    trained = network
    if resident is None:
        accelerated = not keras.distribution.list_devices()[0].lower().startswith("cpu")
        small = inputs.nbytes <= RESIDENT_GIGABYTES * 1e9
        resident = accelerated and small and augmentation is not None and not mixing
    if resident and mixing:
        raise ValueError("Pixels that stay on the device cannot be mixed: set resident or mixing.")
    if augmentation is not None:
        fed = pixels = keras.Input(inputs.shape[1:], dtype="uint8")
        if resident:
            fed = keras.Input((1,), dtype="int32")
            pixels = ResidentPictures(inputs)(fed)
            inputs = np.arange(len(inputs), dtype="int32")[:, None]
        trained = keras.Model(fed, network(RandomView(seed=seed, **view)(pixels)))
    losses = {
        "age": AGE_LOSSES[age_loss],
        "gender": keras.losses.binary_crossentropy,
        "age_distribution": age_distribution_loss(age_deviation_years),
        "age_exceedance": age_exceedance_loss,
    }
    weights = {"age": age_weight, "gender": gender_weight} | dict.fromkeys(age_layers, 1.0)
    steps = epochs * math.ceil(len(train_rows) / batch_size)
    trained.compile(
        make_optimizer(optimizer, learning_rate, schedule, steps, warmup, weight_decay),
        loss={name: mixed(losses[name]) if mixing else losses[name] for name in outputs},
        loss_weights=weights,
        metrics={
            "age": [first_of_two("mae", keras.losses.mean_absolute_error)],
            "gender": [first_of_two("accuracy", keras.metrics.binary_accuracy)],
        },
        steps_per_execution=STEPS_PER_EXECUTION if resident else 1,
    )
    # A first step that makes variables, of the optimizer, the losses or the metrics, TensorFlow
    # traces twice: that was two thirds of the time until it ended.
    trained.optimizer.build(trained.trainable_variables)
    answers = {n: keras.ops.zeros((1, *network.output[n].shape[1:])) for n in outputs}
    labels = {name: keras.ops.zeros((1, 3 if mixing else 1)) for name in outputs}
    trained.compute_loss(y=labels, y_pred=answers)
    trained.compute_metrics(None, labels, answers)
    history: list[dict[str, float]] = []
    best_weights = None
    validated = len(validation_rows) > 0
    identity = [epochs, batch_size, optimizer, learning_rate, schedule, warmup, weight_decay]
    identity += [age_loss, age_weight, age_deviation_years, gender_weight, augmentation, seed]
    identity += [len(train_rows), len(validation_rows), network.count_params()]
    if checkpoint and checkpoint.exists():
        history, best_weights = _restore(checkpoint, trained, network, identity)
        if on_epoch:
            for row in history:
                on_epoch(row)
    best = min((row["val_score"] for row in history if validated), default=math.inf)
    first_epoch, started = len(history), time.monotonic()

    def end_epoch(epoch, logs):
        nonlocal best, best_weights, started
        row = {"epoch": epoch}
        for prefix in ("", "val_") if validated else ("",):
            # What the panels call the age's loss is all that the age adds to the whole.
            age_part = sum(
                weights[name] * logs[f"{prefix}{name}_loss"] for name in {"age"} | age_layers
            )
            row |= {f"{prefix}{name}": float(logs[f"{prefix}{name}"]) for name in METRICS}
            row[f"{prefix}age_loss"] = float(age_part)
        if not all(map(math.isfinite, row.values())):
            raise TrainingDivergedError(
                f"The loss was no longer finite in epoch {epoch}: {row}. Lower the learning rate."
            )
        if validated:
            row["val_score"] = evaluation.val_score(
                row["val_age_mae"], row["val_gender_accuracy"], floors
            )
        row["learning_rate"] = float(trained.optimizer.learning_rate)
        row["seconds"] = time.monotonic() - started
        row["images_per_second"] = len(train_rows) / row["seconds"]
        history.append(row)
        if validated and row["val_score"] < best:
            best, best_weights = row["val_score"], network.get_weights()
        if checkpoint:
            _save(checkpoint, trained, history, best_weights, identity)
        if on_epoch:
            on_epoch(row)
        started = time.monotonic()
        trained.stop_training = started > stop_at

    arrays = inputs, age_years, gender

    def batches(rows, seed=None):
        return Batches(*arrays, rows, outputs, batch_size, views, seed, first_epoch, mixing)

    if first_epoch < epochs:
        trained.fit(
            batches(train_rows, seed),
            validation_data=batches(validation_rows) if validated else None,
            initial_epoch=first_epoch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_train_batch_end=lambda batch, logs: (
                        keep_freed_memory() if not batch else None
                    ),
                    on_epoch_end=end_epoch,
                )
            ],
        )
    if validated:
        network.set_weights(best_weights)
    return pd.DataFrame(history)


def _save(path, trained, history, best_weights, identity):
    """Write all that the next epoch depends on: weights, optimizer, random states, history."""
    arrays = {f"state_{n}": np.asarray(v) for n, v in enumerate(_state(trained))}
    arrays |= {f"best_{n}": value for n, value in enumerate(best_weights or [])}
    notes = json.dumps({"identity": identity, "history": history})
    file = io.BytesIO()
    np.savez(file, notes=np.array(notes), **arrays)
    disk.write(path, file.getvalue())


def _restore(path, trained, network, identity):
    """Put back what `_save` wrote; return the history and the best weights so far."""
    hint = f"Remove {path} to train from the start."
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = dict(file)
        notes = json.loads(str(arrays.pop("notes")))
        history, found = notes["history"], notes["identity"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a checkpoint ({error}). {hint}") from error
    state = _state(trained)
    if found != json.loads(json.dumps(identity)) or any(
        arrays[f"state_{n}"].shape != tuple(variable.shape) for n, variable in enumerate(state)
    ):
        raise CheckpointError(
            f"{path} was left by another training: {found}; this one is {identity}. {hint}"
        )
    for n, variable in enumerate(state):
        variable.assign(arrays[f"state_{n}"])
    best = [arrays[f"best_{n}"] for n in range(len(arrays) - len(state))]
    return history, best or None


def _state(trained):
    # All but the pixels that stay on a device.
    variables = [variable for variable in trained.variables if variable.dtype != "uint8"]
    return [*variables, *trained.optimizer.variables]


def predict(
    network: keras.Model, pixels: np.ndarray, rows: np.ndarray, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Return age in years and probability of gender 1, float64 (len(rows),), of uint8 pixels."""
    parts = [
        network.predict_on_batch(pixels[rows[start : start + batch_size]].astype("float32") / 255)
        for start in range(0, len(rows), batch_size)
    ]
    age, gender = (np.concatenate(part)[:, 0].astype(float) for part in zip(*parts, strict=True))
    return age, gender
