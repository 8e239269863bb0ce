"""Train network A, the first half of the epochs on smaller pictures if the setting says so."""

import dataclasses

import keras
import pandas as pd

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import batches, fit, models, step


def train(
    network: keras.Model,
    examples: batches.Examples,
    config: hyperparameters.Scratch,
    *,
    epochs: int,
    seed: int = 0,
    hooks: fit.Hooks = fit.NO_HOOKS,
    kept: step.Kept | None = None,
) -> pd.DataFrame:
    """Train network A in place and keep the epoch named by `evaluation.kept_epoch`.

    Epochs on small pictures, see config.small_epochs, are a phase of their own with a constant
    learning rate (progressive resizing, Tan and Le 2021).

    examples: inputs uint8 (M, S, S, 3). hooks.checkpoint: a folder, for one file per phase.
    Return the history: one row per epoch, with its phase, "small" or "full".
    """
    teacher_width = 0 if examples.taught is None else examples.taught.shape[1]
    seen = network.input
    if config.architecture != "notebook":
        seen = network.get_layer(models.FIRST_LAYER).input
    trained = models.for_training(network, seen, teacher_width=teacher_width)

    def run(phase, trained, config, first_epoch, epochs) -> pd.DataFrame:
        return fit.fit(
            trained,
            examples,
            config,
            epochs=epochs,
            seed=seed + first_epoch,
            hooks=hooks.of_phase(phase, first_epoch),
            kept=kept,
        ).assign(phase=phase, epoch=lambda history: history.epoch + first_epoch)

    small_epochs = config.small_epochs(epochs)
    if not small_epochs:
        return run("full", trained, config, 0, epochs)
    small = models.at_size(trained, config.first_size_pixels)
    constant = dataclasses.replace(config, schedule="constant")
    history = run(evaluation.SMALL_PICTURES, small, constant, 0, small_epochs)
    full = run("full", trained, config, len(history), epochs - small_epochs)
    return pd.concat([history, full], ignore_index=True)
