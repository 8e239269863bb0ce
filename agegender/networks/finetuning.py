"""Fine-tune a pretrained network: its head on features computed once, then what is unfrozen."""

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from agegender.evidence import evaluation
from agegender.networks import features, models, training


def set_trainable(network: keras.Model, unfreeze_from: str, batch_normalization: str) -> None:
    """Freeze the layers below the layer `unfreeze_from`; all of the backbone where it is "none".

    batch_normalization "inference" keeps those layers' statistics, scales and shifts as they are;
    "update" trains them like the rest. ValueError where the network has no such layer.
    """
    names = [layer.name for layer in network.layers]
    if unfreeze_from not in [*names, "none"]:
        raise ValueError(f"No layer {unfreeze_from!r} in {network.name}; it has {names}.")
    start = names.index("features" if unfreeze_from == "none" else unfreeze_from)
    for position, layer in enumerate(network.layers):
        kept = isinstance(layer, keras.layers.BatchNormalization) and (
            batch_normalization == "inference"
        )
        # "age" is the fixed expected value of a distribution, or a rescaling: never trained.
        layer.trainable = position >= start and not kept and layer.name != "age"


def fine_tune(
    network: keras.Model,
    pixels: np.ndarray,
    age_years: np.ndarray,
    gender: np.ndarray,
    *,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    floors: evaluation.Floors,
    cache: Path,
    key: dict,
    cut: str,
    views: int,
    head_epochs: int,
    features_gigabytes: float = math.inf,
    head_learning_rate: float = 1e-3,
    head_weight_decay: float = 0.05,
    unfreeze_from: str = "none",
    batch_normalization: str = "inference",
    epochs: int = 0,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    augmentation: dict[str, float] | None = None,
    seed: int = 0,
    on_epoch: Callable[[dict], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
    **fit_arguments,
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Train network B in place and leave the epoch with the lowest val_score of either phase.

    Without validation_rows, the last epoch of the second.

    First the head, on feature vectors; then, for `epochs`, also the layers from `unfreeze_from`
    on. With augmentation None the second phase trains on activations at the layer `cut`, which
    must not lie above `unfreeze_from`: they are computed once for `views` views of each face, kept
    in `cache` under `key` and shared by all trials, so an epoch costs only the upper part; of all
    that `cache` keeps, features_gigabytes remain. With augmentation (strengths of RandomView) it
    trains from the pixels, each epoch from new views.
    pixels: uint8 (M, S, S, 3); checkpoint: a folder for one file a phase; the other arguments are
    those of `training.fit`. Return the histories of both phases, marked in the column `phase`, and
    all weights after the first.
    """
    rows = np.sort(np.concatenate([train_rows, validation_rows]))
    of_cut = network.get_layer(cut).output
    of_features = network.get_layer("features").output
    set_trainable(network, "none", "inference")
    at_cut, vectors = features.activations(
        keras.Model(network.input, [of_cut, of_features]),
        pixels,
        rows,
        cache=cache,
        key=key | {"cut": cut},
        views=views,
        most_gigabytes=features_gigabytes,
        on_progress=on_progress,
    )
    # From here on a face is its place among `rows`, except where training is from the pixels.
    cached = {
        "age_years": age_years[rows],
        "gender": gender[rows],
        "train_rows": np.searchsorted(rows, train_rows),
        "validation_rows": np.searchsorted(rows, validation_rows),
    }

    def phase(name, start, inputs, array, labels, **arguments):
        history = training.fit(
            models.for_training(network, inputs),
            array,
            **labels,
            **arguments,
            **fit_arguments,
            floors=floors,
            seed=seed,
            checkpoint=checkpoint and checkpoint / f"{name}.npz",
            on_epoch=on_epoch
            and (lambda row: on_epoch(row | {"epoch": start + row["epoch"], "phase": name})),
        )
        return history.assign(epoch=start + history.epoch, phase=name)

    head_history = phase(
        "head",
        0,
        of_features,
        np.asarray(vectors, "float32"),
        cached,
        epochs=head_epochs,
        learning_rate=head_learning_rate,
        weight_decay=head_weight_decay,
    )
    frozen_weights = network.get_weights()
    if unfreeze_from == "none" or not epochs:
        return head_history, frozen_weights
    set_trainable(network, unfreeze_from, batch_normalization)
    data = (of_cut, at_cut, cached)
    if augmentation is not None:
        labels = {"age_years": age_years, "gender": gender}
        labels |= {"train_rows": train_rows, "validation_rows": validation_rows}
        data = (network.input, pixels, labels)
    tuned_history = phase(
        "fine-tuning",
        head_epochs,
        *data,
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        augmentation=augmentation,
    )
    if len(validation_rows) and tuned_history.val_score.min() >= head_history.val_score.min():
        network.set_weights(frozen_weights)
    return pd.concat([head_history, tuned_history], ignore_index=True), frozen_weights
