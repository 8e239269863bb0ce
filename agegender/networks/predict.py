"""Predict age and gender from pictures."""

import keras
import numpy as np
import pandas as pd

from agegender import records
from agegender.data import pixels as data_pixels

BATCH_SIZE = 256


def predict(
    network: keras.Model, pixels: np.ndarray, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return age in years and probability of gender 1, float64 (len(rows),), of uint8 pixels.

    rows: int (n,), rows of the pixels; None for all.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    parts = [
        network.predict_on_batch(pixels[rows[start : start + BATCH_SIZE]].astype("float32") / 255)
        for start in range(0, len(rows), BATCH_SIZE)
    ]
    age, gender = (np.concatenate(part)[:, 0].astype(float) for part in zip(*parts, strict=True))
    return age, gender


def table(
    network: keras.Model, faces: data_pixels.Faces, split: str, *, mirrored: bool = False
) -> pd.DataFrame:
    """Return the labels of a split's faces and a network's predictions for them.

    Columns: records.LABELS and records.PREDICTED. mirrored: predict from their mirror images.
    """
    rows = faces.rows(split)
    pictures = faces.pixels[:, :, ::-1] if mirrored else faces.pixels
    labels = faces.manifest.iloc[rows][records.LABELS].reset_index(drop=True)
    answers = predict(network, pictures, rows)
    return labels.assign(**dict(zip(records.PREDICTED, answers, strict=True)))
