"""One setting, trained: from the space's arguments to a network, its history and its record."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from agegender import config
from agegender.data import pixels
from agegender.evidence import evaluation
from agegender.networks import backbones, finetuning, models, notebook, training
from tuning import spaces

BEST_EPOCH = ("val_score", "val_age_mae", "val_gender_accuracy", "val_age_loss", "val_gender_loss")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, its history (a row an epoch) and, of B, the head's weights alone."""

    network: keras.Model
    history: pd.DataFrame
    frozen_weights: list[np.ndarray] | None = None

    @property
    def best_epoch(self) -> dict[str, float]:
        """The metrics of the epoch that was kept; none where nothing was validated."""
        if "val_score" not in self.history:
            return {}
        return self.history.loc[self.history.val_score.idxmin(), list(BEST_EPOCH)].to_dict()

    @property
    def fine_tuning_kept(self) -> bool | None:
        """Whether the weights are fine-tuned: False where the head alone was as good in validation.

        None where nothing was fine-tuned.
        """
        if "phase" not in self.history or "fine-tuning" not in set(self.history.phase):
            return None
        if "val_score" not in self.history:
            return True
        return bool(self.history.phase[self.history.val_score.idxmin()] == "fine-tuning")


def folds(faces: pixels.Faces, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `count` pairs of training and validation rows: the manifest's, then others.

    The others divide training and validation anew, in the same proportion, by age and gender, twins
    together; groups whose labels disagree stay in training, as in the manifest.
    """
    pairs = [(faces.rows("train"), faces.rows("validation"))]
    if count == 1:
        return pairs
    rows = faces.rows("train", "validation")
    table = faces.manifest.iloc[rows]
    labels = table.groupby("group")[["age_years", "gender"]].transform("nunique")
    clean = (labels == 1).all(axis=1).to_numpy()
    strata = np.minimum(table.age_years // 10, 8) * 2 + table.gender
    parts = round(len(rows) / len(pairs[0][1]))
    splitter = StratifiedGroupKFold(max(parts, count), shuffle=True, random_state=seed)
    for train, validation in list(splitter.split(rows, strata, table.group))[: count - 1]:
        disagreeing = validation[~clean[validation]]
        pairs.append(
            (
                rows[np.sort(np.concatenate([train, disagreeing]))],
                rows[validation[clean[validation]]],
            )
        )
    return pairs


def training_floors(faces: pixels.Faces) -> evaluation.Floors:
    """Return the trivial predictor's errors, from the training split alone."""
    rows = faces.rows("train")
    return evaluation.floors(faces.age_years[rows], faces.gender[rows])


def train(
    family: str,
    faces: pixels.Faces,
    values: dict,
    settings: config.Settings,
    *,
    cache: Path,
    fold: tuple[np.ndarray, np.ndarray],
    epochs: int,
    seed: int,
    stop_at: float = math.inf,
    on_epoch: Callable[[dict], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Build and train a network of family "A" or "B" with a search's values on a fold's rows.

    cache: the folder that holds fetched weights and cached activations. checkpoint: a folder in
    which each epoch's end is kept, and from which an interrupted training goes on.
    """
    keras.utils.set_random_seed(seed)
    arguments = spaces.arguments(family, values, settings.tier, backbones.available(weights(cache)))
    shared = {
        "age_years": faces.age_years,
        "gender": faces.gender,
        "train_rows": fold[0],
        "validation_rows": fold[1],
        "floors": training_floors(faces),
        "epochs": epochs,
        "seed": seed,
        "augmentation": arguments["augmentation"],
        "stop_at": stop_at,
        "on_epoch": on_epoch,
        **arguments["fit"],
    }
    as_in_notebook = settings.tier == "notebook"
    if family == "A":
        network = (
            notebook.build_scratch()
            if as_in_notebook
            else models.build_scratch(**arguments["build"])
        )
        history = training.fit(
            models.for_training(network),
            faces.pixels,
            **shared,
            checkpoint=checkpoint and checkpoint / "scratch.npz",
        )
        return Trained(network, history)

    wanted = arguments["backbone"]
    backbone = backbones.load(
        wanted["name"],
        faces.pixels.shape[1],
        weights(cache),
        internal_size_pixels=wanted["internal_size_pixels"],
    )
    if backbones.BACKBONES[wanted["name"]].folded:
        rows = faces.rows("train")
        sample = faces.pixels[rows[:: max(1, len(rows) // 256)]]
        backbones.unfold_batch_normalization(backbone, sample.astype("float32") / 255)
    cuts = backbones.BACKBONES[wanted["name"]].cut_layers
    unfrozen = wanted["unfrozen_share"]
    if arguments["augmentation"] is None:
        unfrozen = min(unfrozen, 1 - settings.cut_share)

    def cut_at(share):
        return cuts[min(round(share * len(cuts)), len(cuts) - 1)]

    network = (
        notebook.build_pretrained(backbone)
        if as_in_notebook
        else models.build_pretrained(backbone, **arguments["build"])
    )
    history, frozen_weights = finetuning.fine_tune(
        network,
        faces.pixels,
        **shared,
        cache=cache / "features",
        features_gigabytes=settings.features_gigabytes,
        key={
            "backbone": wanted["name"],
            "internal_size_pixels": wanted["internal_size_pixels"],
            "data": faces.digest,
        },
        cut=cut_at(settings.cut_share),
        views=min(settings.views, max(2, settings.most_views // len(faces.manifest))),
        head_epochs=settings.head_epochs,
        unfreeze_from=cut_at(1 - unfrozen) if unfrozen else "none",
        on_progress=on_progress,
        checkpoint=checkpoint,
    )
    return Trained(network, history, frozen_weights)


def weights(cache: Path) -> Path:
    """Return the folder of fetched backbone weights."""
    return cache / "weights"
