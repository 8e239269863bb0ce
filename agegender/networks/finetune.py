"""Fine-tune a pretrained network: its head on features computed once, then what is unfrozen."""

import dataclasses

import keras
import numpy as np
import pandas as pd

from agegender import hyperparameters
from agegender.networks import batches, features, fit, models, step


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """The history, a row an epoch with its phase ("head" or "fine-tuning"), and what was kept.

    frozen_weights: of the whole network after the first phase.
    kept: whether the second phase was better in validation, so that its weights are the network's;
        None where there was no such phase.
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
    start = [layer.name for layer in network.layers].index(unfreeze_from or "features")
    for position, layer in enumerate(network.layers):
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        kept = normalizes and batch_normalization == "inference"
        # "age" is the fixed expected value of a distribution, or a rescaling: never trained.
        layer.trainable = position >= start and not kept and layer.name != "age"


def fine_tune(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Pretrained,
    cached: features.Cached,
    *,
    head_epochs: int,
    epochs: int,
    unfreeze_from: str | None,
    seed: int = 0,
    hooks: fit.Hooks = fit.NO_HOOKS,
    kept: step.Kept | None = None,
) -> FineTuned:
    """Train network B in place and leave the epoch with the lowest val_score of either phase.

    First the head, on feature vectors; then also the layers from `unfreeze_from` on: with views
    "cached" on activations at the layer `cached.cut`, which must not lie above `unfreeze_from`, so
    that an epoch costs only what is above it; with "fresh" on new views of the pixels each epoch.
    Without validation rows the last epoch is left.

    examples: inputs uint8 (M, S, S, 3). hooks.checkpoint: a folder, for one file a phase.
    """
    rows = np.sort(np.concatenate([examples.train_rows, examples.validation_rows]))
    cut, vector = (network.get_layer(name).output for name in (cached.cut, "features"))
    set_trainable(network, None, "inference")
    part = keras.Model(network.input, [cut, vector])
    at_cut, vectors = cached.activations(part, examples.inputs, rows, hooks.on_progress)
    computed = _of_rows(examples, rows)

    def train(phase, config, first_epoch, epochs, tensor, examples) -> pd.DataFrame:
        return fit.fit(
            models.for_training(network, tensor),
            examples,
            config,
            epochs=epochs,
            seed=seed,
            hooks=_of_phase(hooks, phase, first_epoch),
            kept=kept,
        ).assign(phase=phase, epoch=lambda history: history.epoch + first_epoch)

    of_head = dataclasses.replace(computed, inputs=np.asarray(vectors, "float32"))
    history = train("head", config.of_head, 0, head_epochs, vector, of_head)
    frozen_weights = network.get_weights()
    if unfreeze_from is None or not epochs:
        return FineTuned(history, frozen_weights, kept=None)
    set_trainable(network, unfreeze_from, config.batch_normalization)
    tensor, fed = network.input, examples
    if config.views == "cached":
        tensor, fed = cut, dataclasses.replace(computed, inputs=at_cut)
    tuned = train("fine-tuning", config, head_epochs, epochs, tensor, fed)
    better = not len(examples.validation_rows) or tuned.val_score.min() < history.val_score.min()
    if not better:
        network.set_weights(frozen_weights)
    both = pd.concat([history, tuned], ignore_index=True)
    return FineTuned(both, frozen_weights, kept=bool(better))


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
    return dataclasses.replace(
        hooks,
        on_epoch=lambda row: hooks.on_epoch(
            row | {"epoch": first_epoch + row["epoch"], "phase": phase}
        ),
        checkpoint=hooks.checkpoint and hooks.checkpoint / f"{phase}.npz",
    )
