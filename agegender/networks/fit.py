"""Fit one network: the best epoch is kept, an interrupted training goes on exactly.

Nothing here knows a search or a store. The same `fit` trains on uint8 pixels, which are augmented
in the graph, on cached activations of a frozen backbone, and on feature vectors.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import backend, batches, checkpoint, losses

# How a history is read everywhere: one row an epoch, these columns (and val_ of the first five).
METRICS = ("loss", "age_loss", "age_mae", "gender_loss", "gender_accuracy")
# What an accelerator keeps of a set's pixels, and how many steps it is sent at once.
RESIDENT_GIGABYTES = 8.0
STEPS_PER_EXECUTION = 16


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What surrounds a training.

    on_epoch: gets each epoch's row of the history as it ends.
    on_progress: gets (faces done, faces in all) while activations are computed.
    checkpoint: a path without its ending; all that the next epoch depends on is kept there.
    stop_at: on time.monotonic()'s clock; training ends after the epoch in which it passes.
    """

    on_epoch: Callable[[dict[str, Any]], None] | None = None
    on_progress: Callable[[int, int], None] | None = None
    checkpoint: Path | None = None
    stop_at: float = math.inf


NO_HOOKS = Hooks()


class ManySteps(keras.Model):
    """With JAX: a network for which what it is fed at once is several batches, a step for each.

    One dispatch for all of them (lax.scan); Keras' own `steps_per_execution` dispatches each.
    """

    batch_size: int

    def train_step(self, state: Any, data: Any) -> tuple[Any, Any]:
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


def fit(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Fitting,
    *,
    epochs: int,
    seed: int = 0,
    hooks: Hooks = NO_HOOKS,
    resident: bool | None = None,
) -> pd.DataFrame:
    """Train in place and leave the weights of the epoch with the lowest val_score.

    network: as `models.for_training` returns it.
    hooks: where the checkpoint's file is there, training goes on from it, to the same end as
        without the interruption, to the bit on the same machine; on_epoch gets the earlier rows
        again.
    resident: keep all pixels on the device and send it their rows alone, several steps at a time;
        None: where there is an accelerator and they take up to RESIDENT_GIGABYTES.

    Return the history, one row an epoch. TrainingDivergedError where a loss is no longer finite;
    CheckpointError for a checkpoint that cannot be read or that another training left.
    """
    keras.utils.set_random_seed(seed)
    if not examples.are_pictures:
        config = dataclasses.replace(config, mixing=0.0)
    if resident is None:
        resident = _fits_accelerator(examples)
    resident = resident and examples.are_pictures
    trained, inputs = _with_views(network, examples.inputs, config, seed, resident)
    steps = epochs * math.ceil(len(examples.train_rows) / config.batch_size)
    outputs = _compile(trained, network, config, steps, resident)
    keeper = _Epochs(network, examples, losses.weights(outputs, config), hooks)
    keeper.identity = _identity(network, examples, config, epochs, seed)
    first_epoch = keeper.go_on(trained)

    views = inputs.shape[1] if inputs.ndim == len(network.input.shape) + 1 else 0
    feed = functools.partial(
        batches.Batches,
        dataclasses.replace(examples, inputs=inputs),
        outputs=outputs,
        views=views,
        epoch=first_epoch,
        mixing=config.mixing,
    )
    at_once = STEPS_PER_EXECUTION if isinstance(trained, ManySteps) else 1
    if first_epoch < epochs:
        trained.fit(
            feed(examples.train_rows, batch_size=at_once * config.batch_size, seed=seed),
            validation_data=feed(examples.validation_rows, batch_size=config.batch_size)
            if keeper.validated
            else None,
            initial_epoch=first_epoch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keeper],
        )
    if keeper.validated:
        network.set_weights(keeper.best_weights)
    return pd.DataFrame(keeper.history)


def _fits_accelerator(examples: batches.Examples) -> bool:
    return backend.has_accelerator() and examples.inputs.nbytes <= RESIDENT_GIGABYTES * 1e9


def _with_views(
    network: keras.Model,
    inputs: np.ndarray,
    config: hyperparameters.Fitting,
    seed: int,
    resident: bool,
) -> tuple[keras.Model, np.ndarray]:
    """Put random views before a network that takes pictures; return it and what it is fed."""
    if inputs.dtype != np.uint8:
        return network, inputs
    fed = pixels = keras.Input(inputs.shape[1:], dtype="uint8")
    if resident:
        fed = keras.Input((3,)) if config.mixing else keras.Input((1,), dtype="int32")
        pixels = batches.ResidentPictures(inputs)(fed)
        inputs = np.arange(len(inputs), dtype="int32")[:, None]
    viewed = network(batches.RandomView(seed=seed, **config.strengths)(pixels))
    if not resident or keras.backend.backend() != "jax":
        return keras.Model(fed, viewed), inputs
    trained = ManySteps(fed, viewed)
    trained.batch_size = config.batch_size
    return trained, inputs


def _compile(
    trained: keras.Model,
    network: keras.Model,
    config: hyperparameters.Fitting,
    steps: int,
    resident: bool,
) -> list[str]:
    """Give it losses, metrics and an optimizer for so many steps; return the outputs' names."""
    outputs = sorted(network.output)
    several = resident and not isinstance(trained, ManySteps)
    trained.compile(
        losses.optimizer(config, steps),
        loss=losses.for_outputs(outputs, config),
        loss_weights=losses.weights(outputs, config),
        metrics=losses.metrics(),
        steps_per_execution=STEPS_PER_EXECUTION if several else 1,
    )
    _make_variables(trained, network, mixed=config.mixing > 0)
    return outputs


def _make_variables(trained: keras.Model, network: keras.Model, *, mixed: bool) -> None:
    """Make the variables of optimizer, losses and metrics before the first step.

    TensorFlow traces a step that makes variables twice: that was two thirds of the time until it
    ended.
    """
    trained.optimizer.build(trained.trainable_variables)
    answers = {n: keras.ops.zeros((1, *output.shape[1:])) for n, output in network.output.items()}
    labels = {name: keras.ops.zeros((1, 3 if mixed else 1)) for name in network.output}
    trained.compute_loss(y=labels, y_pred=answers)
    trained.compute_metrics(None, labels, answers)


def _identity(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Fitting,
    epochs: int,
    seed: int,
) -> checkpoint.Identity:
    """Return what a checkpoint must agree in to be one of this training."""
    return dataclasses.asdict(config) | {
        "epochs": epochs,
        "seed": seed,
        "train": len(examples.train_rows),
        "validation": len(examples.validation_rows),
        "parameters": network.count_params(),
    }


class _Epochs(keras.callbacks.Callback):
    """At each epoch's end: its row, the best weights so far, the checkpoint, the hook."""

    identity: checkpoint.Identity

    def __init__(
        self,
        network: keras.Model,
        examples: batches.Examples,
        loss_weights: dict[str, float],
        hooks: Hooks,
    ):
        super().__init__()
        self.network, self.examples, self.hooks = network, examples, hooks
        # All that the age adds to the whole loss is what the curves call its loss.
        self.age_weights = {n: w for n, w in loss_weights.items() if n.startswith("age")}
        self.validated = len(examples.validation_rows) > 0
        self.history: list[dict[str, float]] = []
        self.best_weights: list[np.ndarray] | None = None
        self.best_score, self.started = math.inf, time.monotonic()

    def go_on(self, trained: keras.Model) -> int:
        """Take up what a checkpoint holds; return how many epochs have gone before."""
        path = self.hooks.checkpoint
        if path and path.exists():
            self.history, self.best_weights = checkpoint.restore(path, trained, self.identity)
        for row in self.history:
            if self.validated:
                self.best_score = min(self.best_score, row["val_score"])
            if self.hooks.on_epoch:
                self.hooks.on_epoch(row)
        self.started = time.monotonic()
        return len(self.history)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Undo, after the first batch, what TensorFlow does to the C library."""
        if not batch:
            backend.keep_freed_memory()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the epoch."""
        row = self._row(epoch, logs)
        self.history.append(row)
        if self.validated and row["val_score"] < self.best_score:
            self.best_score, self.best_weights = row["val_score"], self.network.get_weights()
        if self.hooks.checkpoint:
            checkpoint.save(
                self.hooks.checkpoint, self.model, self.history, self.best_weights, self.identity
            )
        if self.hooks.on_epoch:
            self.hooks.on_epoch(row)
        self.started = time.monotonic()
        self.model.stop_training = self.started > self.hooks.stop_at

    def _row(self, epoch: int, logs: dict[str, float]) -> dict[str, float]:
        row: dict[str, float] = {"epoch": epoch}
        for prefix in ("", "val_") if self.validated else ("",):
            row |= {f"{prefix}{name}": float(logs[f"{prefix}{name}"]) for name in METRICS}
            row[f"{prefix}age_loss"] = sum(
                weight * float(logs[f"{prefix}{name}_loss"])
                for name, weight in self.age_weights.items()
            )
        if not all(map(math.isfinite, row.values())):
            raise TrainingDivergedError(
                f"The loss was no longer finite in epoch {epoch}: {row}. Lower the learning rate."
            )
        if self.validated:
            row["val_score"] = evaluation.val_score(
                row["val_age_mae"], row["val_gender_accuracy"], self.examples.floors
            )
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = time.monotonic() - self.started
        row["images_per_second"] = len(self.examples.train_rows) / row["seconds"]
        return row
