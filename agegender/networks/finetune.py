"""Fine-tune a pretrained network: the head on cached features, then the unfrozen layers."""

import dataclasses

import keras
import numpy as np
import pandas as pd

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import batches, features, fit, models, step


def set_trainable(
    network: keras.Model, unfreeze_from: str | None, batch_normalization: str
) -> None:
    """Freeze the layers below the layer `unfreeze_from`, or the whole backbone if it is None.

    batch_normalization: "inference" freezes its statistics, scales and shifts; "update" trains
    them like the rest. Raises ValueError if there is no layer `unfreeze_from`.
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
) -> fit.Trained:
    """Train network B in place and keep the epoch named by `evaluation.kept_epoch`.

    The first phase trains the head on feature vectors, the second also the layers from
    `unfreeze_from` on. With views "cached" it uses activations at the layer `cached.cut`, which
    must not lie above `unfreeze_from`, so an epoch costs only the layers above the cut. "fresh"
    draws new views of the pixels each epoch. Without validation rows the last epoch is kept.

    examples: inputs uint8 (M, S, S, 3). hooks.checkpoint: a folder, for one file per phase.
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
            hooks=hooks.of_phase(phase, first_epoch),
            kept=kept,
        ).assign(phase=phase, epoch=lambda history: history.epoch + first_epoch)

    of_head = dataclasses.replace(computed, inputs=np.asarray(vectors, "float32"))
    history = train("head", config.of_head, 0, head_epochs, vector, of_head)
    frozen_weights = network.get_weights()
    if unfreeze_from is None or not epochs:
        return fit.Trained(network, history, frozen_weights)
    set_trainable(network, unfreeze_from, config.batch_normalization)
    tensor, fed = network.input, examples
    if config.views == "cached":
        tensor, fed = cut, dataclasses.replace(computed, inputs=at_cut)
    tuned = train("fine-tuning", config, head_epochs, epochs, tensor, fed)
    both = pd.concat([history, tuned], ignore_index=True)
    better = not len(examples.validation_rows) or evaluation.kept_epoch(both) >= len(history)
    if not better:
        network.set_weights(frozen_weights)
    return fit.Trained(network, both, frozen_weights, better)


def _of_rows(examples: batches.Examples, rows: np.ndarray) -> batches.Examples:
    """Return the examples of `rows`, with their row numbers as positions in `rows`."""
    return dataclasses.replace(
        examples,
        age_years=examples.age_years[rows],
        gender=examples.gender[rows],
        train_rows=np.searchsorted(rows, examples.train_rows),
        validation_rows=np.searchsorted(rows, examples.validation_rows),
    )
