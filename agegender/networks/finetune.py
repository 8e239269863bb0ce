"""Fine-tune a pretrained network: its head on features computed once, then what is unfrozen."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from agegender import hyperparameters
from agegender.networks import batches, features, fit, models, step

HEAD, FINE_TUNING = "head", "fine-tuning"  # the phases of a history


@dataclasses.dataclass(frozen=True)
class Cached:
    """Which activations all trials share, and where they are kept.

    folder: holds the sets of activations; gigabytes: so much of them stays there.
    key: whatever they depend on besides the layer, as JSON: backbone, size, digest of the data.
    cut: name of the layer whose activations are computed once; nothing below it is trained on them.
    views: of each face.
    """

    folder: Path
    key: dict[str, Any]
    cut: str
    views: int
    gigabytes: float

    def activations(
        self,
        part: keras.Model,
        pictures: np.ndarray,
        rows: np.ndarray,
        on_progress: Callable[[int, int], None] | None,
    ) -> list[np.ndarray]:
        """Return what a part of the network answers to these rows, as `features.activations`."""
        return features.activations(
            part,
            pictures,
            rows,
            cache=self.folder,
            key=self.key | {"cut": self.cut},
            views=self.views,
            most_gigabytes=self.gigabytes,
            on_progress=on_progress,
        )


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """What came of it: a row an epoch of both phases (column `phase`) and the head's weights.

    frozen_weights: of the whole network after the first phase. kept: whether the second phase was
    better in validation, so that its weights are the network's; None where there was no such phase.
    """

    history: pd.DataFrame
    frozen_weights: list[np.ndarray]
    kept: bool | None


def set_trainable(
    network: keras.Model, unfreeze_from: str | None, batch_normalization: str
) -> None:
    """Freeze the layers below the layer `unfreeze_from`; where it is None, the whole backbone.

    batch_normalization: "inference" keeps those layers' statistics, scales and shifts as they are;
    "update" trains them like the rest. ValueError where the network has no such layer.
    """
    names = [layer.name for layer in network.layers]
    if unfreeze_from not in [*names, None]:
        raise ValueError(f"No layer {unfreeze_from!r} in {network.name}; it has {names}.")
    start = names.index(unfreeze_from or "features")
    for position, layer in enumerate(network.layers):
        kept = isinstance(layer, keras.layers.BatchNormalization) and (
            batch_normalization == "inference"
        )
        # "age" is the fixed expected value of a distribution, or a rescaling: never trained.
        layer.trainable = position >= start and not kept and layer.name != "age"


def fine_tune(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Pretrained,
    cached: Cached,
    *,
    head_epochs: int,
    epochs: int,
    unfreeze_from: str | None,
    seed: int = 0,
    hooks: fit.Hooks = fit.NO_HOOKS,
    kept: step.Kept | None = None,
) -> FineTuned:
    """Train network B in place and leave the epoch with the lowest val_score of either phase.

    First the head, on feature vectors, for `head_epochs`; then, for `epochs`, also the layers from
    `unfreeze_from` on. With views "cached" the second phase trains on activations at the layer
    `cached.cut`, which must not lie above `unfreeze_from`, so that an epoch costs only what is
    above it; with "fresh" it trains from the pixels, each epoch on new views. Without validation
    rows the last epoch of the second phase is left.

    examples: inputs uint8 (M, S, S, 3). hooks.checkpoint: a folder, for one file a phase.
    """
    rows = np.sort(np.concatenate([examples.train_rows, examples.validation_rows]))
    of_cut = network.get_layer(cached.cut).output
    of_features = network.get_layer("features").output
    set_trainable(network, None, "inference")
    part = keras.Model(network.input, [of_cut, of_features])
    at_cut, vectors = cached.activations(part, examples.inputs, rows, hooks.on_progress)
    of_rows = _of_rows(examples, rows)
    head_history = fit.fit(
        models.for_training(network, of_features),
        dataclasses.replace(of_rows, inputs=np.asarray(vectors, "float32")),
        config.of_head,
        epochs=head_epochs,
        seed=seed,
        hooks=_of_phase(hooks, HEAD, 0),
        kept=kept,
    ).assign(phase=HEAD)
    frozen_weights = network.get_weights()
    if unfreeze_from is None or not epochs:
        return FineTuned(head_history, frozen_weights, kept=None)
    set_trainable(network, unfreeze_from, config.batch_normalization)
    fresh = config.views == "fresh"
    history = fit.fit(
        models.for_training(network, network.input if fresh else of_cut),
        examples if fresh else dataclasses.replace(of_rows, inputs=at_cut),
        config,
        epochs=epochs,
        seed=seed,
        hooks=_of_phase(hooks, FINE_TUNING, head_epochs),
        kept=kept,
    ).assign(phase=FINE_TUNING, epoch=lambda rows: rows.epoch + head_epochs)
    better = (
        not len(examples.validation_rows) or history.val_score.min() < head_history.val_score.min()
    )
    if not better:
        network.set_weights(frozen_weights)
    whole = pd.concat([head_history, history], ignore_index=True)
    return FineTuned(whole, frozen_weights, kept=bool(better))


def _of_rows(examples: batches.Examples, rows: np.ndarray) -> batches.Examples:
    """Return the examples whose activations were computed: a face is its place among the rows."""
    return dataclasses.replace(
        examples,
        age_years=examples.age_years[rows],
        gender=examples.gender[rows],
        train_rows=np.searchsorted(rows, examples.train_rows),
        validation_rows=np.searchsorted(rows, examples.validation_rows),
    )


def _of_phase(hooks: fit.Hooks, phase: str, first_epoch: int) -> fit.Hooks:
    """Return the hooks of one phase: its epochs counted on, a checkpoint of its own."""

    def on_epoch(row: dict[str, Any]) -> None:
        if hooks.on_epoch:
            hooks.on_epoch(row | {"epoch": first_epoch + row["epoch"], "phase": phase})

    path = hooks.checkpoint and hooks.checkpoint / f"{phase}.npz"
    return dataclasses.replace(hooks, on_epoch=on_epoch, checkpoint=path)
