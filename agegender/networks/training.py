"""Fit one network: schedule, losses, augmentation, best epoch kept; logging comes in as a callback.

Nothing here knows a search or a store. The same `fit` trains on uint8 pixels (augmented in the
graph), on cached activations of a frozen backbone, and on feature vectors.
"""

import ctypes
import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from agegender import disk
from agegender.evidence import evaluation
from agegender.networks import batches, models

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


class ManySteps(keras.Model):
    """With JAX: a network for which what it is fed at once is several batches, a step for each.

    One dispatch for all of them (lax.scan); Keras' own `steps_per_execution` dispatches each.
    """

    batch_size: int

    def train_step(self, state, data):
        """Return the last step's logs and the state after it; the last batch may be smaller."""
        import jax  # Keras has no step that is scanned.

        count = data[0].shape[0]
        whole = count - count % self.batch_size
        logs = None
        if whole:
            batches_of = jax.tree.map(
                lambda a: a[:whole].reshape(-1, self.batch_size, *a.shape[1:]), data
            )
            step = super().train_step
            state, logs = jax.lax.scan(lambda *s: step(*s)[::-1], state, batches_of)
            logs = jax.tree.map(lambda a: a[-1], logs)
        if whole < count:
            logs, state = super().train_step(state, jax.tree.map(lambda a: a[whole:], data))
        return logs, state


def mixed(loss: Callable) -> Callable:
    """Return the loss of pictures that are mixed of two, with the labels of `batches.Batches`."""

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
    `augmentation` (strengths of `batches.RandomView`; mixing, as of `batches.Batches`), or
    activations (M, ...) or (M, views, ...); age_years and gender float32 (M,); rows index all
    three. floors turn MAE and accuracy into val_score. stop_at, on time.monotonic()'s clock, ends
    training after the epoch in which it passes. on_epoch gets each epoch's row as it ends.
    checkpoint: a file that holds all that the next epoch depends on, replaced after each; where it
    is there, training goes on from it, to the same end as without the interruption, to the bit on
    the same machine, and on_epoch gets the earlier rows again. resident: keep all pixels on the
    device and send it their rows alone, several steps at a time; None: where there is an
    accelerator and they take up to RESIDENT_GIGABYTES.
    Return the history, one row an epoch. TrainingDivergedError where a loss is no longer finite;
    CheckpointError for a checkpoint that cannot be read or was left by a training with other
    arguments.
    """
    keras.utils.set_random_seed(seed)
    view = dict(augmentation or {})
    mixing = view.pop("mixing", 0.0)
    views = inputs.shape[1] if inputs.ndim == len(network.input.shape) + 1 else 0
    outputs = sorted(network.output)
    age_layers = set(outputs) & set(models.AGE_LAYERS.values())
    trained, at_once = network, batch_size
    if resident is None:
        accelerated = not keras.distribution.list_devices()[0].lower().startswith("cpu")
        small = inputs.nbytes <= RESIDENT_GIGABYTES * 1e9
        resident = accelerated and small and augmentation is not None
    if augmentation is not None:
        fed = pixels = keras.Input(inputs.shape[1:], dtype="uint8")
        if resident:
            fed = keras.Input((3,)) if mixing else keras.Input((1,), dtype="int32")
            pixels = batches.ResidentPictures(inputs)(fed)
            inputs = np.arange(len(inputs), dtype="int32")[:, None]
        viewed = network(batches.RandomView(seed=seed, **view)(pixels))
        trained = keras.Model(fed, viewed)
        if resident and keras.backend.backend() == "jax":
            trained, at_once = ManySteps(fed, viewed), STEPS_PER_EXECUTION * batch_size
            trained.batch_size = batch_size
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
        steps_per_execution=STEPS_PER_EXECUTION if resident and at_once == batch_size else 1,
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

    def fed_with(rows, size, seed=None):
        return batches.Batches(*arrays, rows, outputs, size, views, seed, first_epoch, mixing)

    if first_epoch < epochs:
        trained.fit(
            fed_with(train_rows, at_once, seed),
            validation_data=fed_with(validation_rows, batch_size) if validated else None,
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
