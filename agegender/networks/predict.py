"""What a network says of pictures."""

import keras
import numpy as np


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
