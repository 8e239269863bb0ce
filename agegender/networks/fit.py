"""Fit one network: keep the best epoch, and resume an interrupted training run exactly.

Nothing here knows about searches or stores. The same `fit` trains on uint8 pixels, augmented in the
graph, on cached activations of a frozen backbone, and on feature vectors.
"""

import collections
import dataclasses
import functools
import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import pandas as pd

from agegender import disk, hyperparameters
from agegender.measure import evaluation
from agegender.networks import backend, batches, step

# The columns of a history, which has one row per epoch. Each also exists with the prefix val_.
METRICS = ("loss", "age_loss", "age_mae", "gender_loss", "gender_accuracy")
BEST_EPOCH = ("val_score", "val_age_mae", "val_gender_accuracy", "val_age_loss", "val_gender_loss")
# Checkpoints take at most this share of the time. Most heads of B are trained before their first.
CHECKPOINT_SHARE, HEAD_SECONDS = 0.03, 2.0


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and its history, one row per epoch.

    frozen_weights: for B, the weights before fine-tuning.
    fine_tuning_kept: False if the head alone was as good in validation, so that the network has its
        weights; None if nothing was fine-tuned.
    """

    network: keras.Model
    history: pd.DataFrame
    frozen_weights: list[np.ndarray] | None = None
    fine_tuning_kept: bool | None = None

    @property
    def best_epoch(self) -> dict[str, float]:
        """The metrics of the epoch that was kept; empty if nothing was validated."""
        if "val_score" not in self.history:
            return {}
        row = evaluation.kept_epoch(self.history)
        return self.history.loc[row, list(BEST_EPOCH)].to_dict()


class TrainingDivergedError(ValueError):
    """The loss became NaN or infinite."""


class CheckpointError(ValueError):
    """A checkpoint is damaged or from another training run; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Callbacks, checkpoint and time limit of a training run.

    on_epoch: gets each epoch's row of the history when the epoch ends.
    on_progress: gets (faces done, faces in total) while activations are computed.
    checkpoint: a file, or a folder in `fine_tune`, for all that the next epoch depends on.
    stop_at: a time.monotonic() value; training stops after the epoch in which it passes.
    """

    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    checkpoint: Path | None = None
    stop_at: float = math.inf

    def of_phase(self, phase: str, first_epoch: int = 0) -> Self:
        """Return the hooks of one phase, with continued epoch numbers and its own checkpoint."""
        return dataclasses.replace(
            self,
            on_epoch=lambda row: self.on_epoch(
                row | {"epoch": first_epoch + row["epoch"], "phase": phase}
            ),
            checkpoint=self.checkpoint and self.checkpoint / f"{phase}.npz",
        )


NO_HOOKS = Hooks()


def fit(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Fitting,
    *,
    epochs: int,
    seed: int = 0,
    hooks: Hooks = NO_HOOKS,
    resident: bool | None = None,
    kept: step.Kept | None = None,
) -> pd.DataFrame:
    """Train in place and keep the weights of the epoch with the lowest val_score.

    network: as returned by `models.for_training`.
    hooks: if the checkpoint exists, training resumes from it; on_epoch gets the earlier rows again.
        On the same machine, the result is the same to the bit as without the interruption.
    resident: keep all pixels on the device and send it only row numbers, several steps at a time.
        None does so if there is an accelerator and they take at most RESIDENT_GIGABYTES.
    kept: the steps of earlier training runs of this network; they do not change the result.

    Return the history, one row per epoch. Raises TrainingDivergedError if a loss is no longer
    finite, and CheckpointError if a checkpoint is unreadable or from another training run.
    """
    inputs, resident = examples.inputs, step.on_device(examples) if resident is None else resident
    if inputs.dtype != np.uint8:  # Activations cannot be mixed, and are not kept on the device.
        config, resident = dataclasses.replace(config, mixing=0.0), False
    made = (kept or step.Kept()).step(network, inputs, config, seed, resident)
    made.begin(config, epochs * math.ceil(len(examples.train_rows) / config.batch_size))
    keeper = _Epochs(network, examples, config, hooks, epochs=epochs, seed=seed)
    first_epoch = keeper.go_on(made.trained)
    inputs = np.arange(len(inputs), dtype="int32")[:, None] if resident else inputs
    feed = functools.partial(
        batches.Batches,
        dataclasses.replace(examples, inputs=inputs),
        outputs=sorted(network.output),
        views=inputs.shape[1] if inputs.ndim == len(network.input.shape) + 1 else 0,
        epoch=first_epoch,
        mixing=config.mixing,
    )
    at_once = config.batch_size * (step.STEPS_PER_EXECUTION if resident else 1)
    if step.takes_vectors(network):
        at_once = len(examples.train_rows)
    training = feed(examples.train_rows, batch_size=at_once, seed=seed)
    keeper.validation = feed(examples.validation_rows, batch_size=at_once)
    if step.takes_vectors(network):
        _fit_whole_epochs(made.trained, training, range(first_epoch, epochs), keeper)
    elif first_epoch < epochs:
        made.trained.fit(
            training.for_fit(epochs - first_epoch),
            steps_per_epoch=len(training),
            initial_epoch=first_epoch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keeper],
        )
    if keeper.validated:
        network.set_weights(keeper.best_weights)
    return pd.DataFrame(keeper.history)


def _fit_whole_epochs(
    trained: step.ManySteps, training: batches.Batches, epochs: range, keeper: "_Epochs"
) -> None:
    """Train like `Model.fit`, but without its 0.1 s for each epoch and 4 ms for each batch."""
    keeper.set_model(trained)
    trained.stop_training = False
    for epoch, batch in zip(epochs, training.epochs(len(epochs)), strict=True):
        logs = trained.train_on_batch(*batch, return_dict=True)
        keeper.on_train_batch_end(epoch - epochs.start)
        keeper.on_epoch_end(epoch, logs)
        if trained.stop_training:
            break


class _Epochs(keras.callbacks.Callback):
    """Record each epoch: history row, best weights so far, checkpoint and hook.

    The checkpoint holds all that the next epoch depends on, so training resumes exactly: weights,
    optimizer, random states, history and best weights. It also identifies this training run.
    """

    def __init__(
        self,
        network: keras.Model,
        examples: batches.Examples,
        config: hyperparameters.Fitting,
        hooks: Hooks,
        **identity: int,
    ):
        super().__init__()
        self.network, self.examples, self.hooks = network, examples, hooks
        self.identity = dataclasses.asdict(config) | identity
        self.identity["train"] = len(examples.train_rows)
        self.identity["validation"] = len(examples.validation_rows)
        self.identity["parameters"] = network.count_params()
        # The curves' age loss is all that the age adds to the total loss.
        ages = [name for name in sorted(network.output) if name.startswith("age")]
        self.age_weights = {name: getattr(config, f"{name}_weight", 1.0) for name in ages}
        self.validated = len(examples.validation_rows) > 0
        self.history: list[dict[str, float]] = []
        self.best_weights: list[np.ndarray] | None = None
        self.validation: batches.Batches
        self.next_save = time.monotonic() + HEAD_SECONDS * step.takes_vectors(network)

    def go_on(self, trained: keras.Model) -> int:
        """Restore a checkpoint if there is one; return the number of epochs already trained."""
        path = self.hooks.checkpoint
        if path and path.exists():
            self._restore(path, _state(trained))
        for row in self.history:
            self.hooks.on_epoch(row)
        self.started = time.monotonic()
        return len(self.history)

    def _restore(self, path: Path, state: list[keras.Variable]) -> None:
        hint = f"Remove {path} to train from the start."
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = dict(file)
            notes = json.loads(str(arrays.pop("notes")))
            history, found = notes["history"], notes["identity"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} is not a checkpoint ({error}). {hint}") from error
        kept = [arrays.pop(f"state_{n}", np.empty(0)) for n in range(len(state))]
        same_shapes = [array.shape for array in kept] == [tuple(v.shape) for v in state]
        if found != json.loads(json.dumps(self.identity)) or not same_shapes:
            raise CheckpointError(
                f"{path} was left by another run: {found}; this one is {self.identity}. {hint}"
            )
        for variable, array in zip(state, kept, strict=True):
            variable.assign(array)
        self.history = history
        self.best_weights = [arrays[f"best_{n}"] for n in range(len(arrays))] or None

    def _save(self, path: Path) -> None:
        arrays = {f"state_{n}": np.asarray(v) for n, v in enumerate(_state(self.model))}
        arrays |= {f"best_{n}": value for n, value in enumerate(self.best_weights or [])}
        notes = json.dumps({"identity": self.identity, "history": self.history})
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, notes=np.array(notes), **arrays)
        disk.write(path, file.getvalue())

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """After the first batch, undo what TensorFlow does to the C library."""
        if not batch:
            backend.keep_freed_memory()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Validate and record the epoch."""
        row = self._row(epoch, (logs or {}) | self._validate())
        if self.validated:
            best_score = min((r["val_score"] for r in self.history), default=math.inf)
            if row["val_score"] < best_score:
                self.best_weights = self.network.get_weights()
        self.history.append(row)
        if (path := self.hooks.checkpoint) and time.monotonic() > self.next_save:
            began = time.monotonic()
            self._save(path)
            saved = time.monotonic()
            self.next_save = saved + (saved - began) / CHECKPOINT_SHARE
        self.hooks.on_epoch(row)
        self.started = time.monotonic()
        self.model.stop_training = self.started > self.hooks.stop_at

    def _validate(self) -> dict[str, float]:
        # `Model.evaluate` would wait as described in `Batches.for_fit`.
        means: dict[str, float] = collections.defaultdict(float)
        for index in range(len(self.validation)):
            inputs, labels = self.validation[index]
            share = len(inputs) / len(self.validation.rows)
            found = self.model.test_on_batch(inputs, labels, return_dict=True)
            for name, value in found.items():
                means[f"val_{name}"] += share * float(value)
        return means

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


def _state(trained: keras.Model) -> list[keras.Variable]:
    # Everything except pixels kept on the device.
    variables = [variable for variable in trained.variables if variable.dtype != "uint8"]
    return [*variables, *trained.optimizer.variables]
