"""How predictions hold when pictures get worse, and where in a picture they come from.

Knows no model: `predict` takes uint8 RGB (N, S, S, 3) and returns the ages in years and the
probabilities of female, (N,) each.
"""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import PIL.Image
from scipy import ndimage

from agegender.measure import evaluation

GREY = 128
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def blur(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Blur by a Gaussian of so many pixels' standard deviation."""
    return np.stack(
        [
            _bytes(ndimage.gaussian_filter(image.astype(np.float32), strength, axes=(0, 1)))
            for image in images
        ]
    )


def noise(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Add Gaussian noise of this standard deviation, of 0..255, to each value."""
    generator = np.random.default_rng(seed)
    # A picture at a time: what is drawn is four times as large as the picture.
    return np.stack(
        [
            _bytes(image + strength * generator.standard_normal(image.shape, np.float32))
            for image in images
        ]
    )


def jpeg(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Compress as JPEG of this quality, 1..95, and decode."""
    decoded = []
    for image in images:
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, "JPEG", quality=int(strength))
        decoded.append(np.asarray(PIL.Image.open(stream)))
    return np.stack(decoded)


def darkness(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Multiply each value by this factor."""
    # A table of all 256 values makes no copy of the pictures in floating point.
    return _bytes(np.arange(256) * strength)[images]


def occlusion(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Cover by a grey square, this share of the width wide, at any place."""
    size = images.shape[1]
    side = round(strength * size)
    places = np.random.default_rng(seed).integers(0, size - side + 1, (len(images), 2))
    covered = images.copy()
    for image, (top, left) in zip(covered, places, strict=True):
        image[top : top + side, left : left + side] = GREY
    return covered


def shift(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Move to the left or right by this share of the width; the edge's pixels are repeated."""
    size = images.shape[2]
    side = np.random.default_rng(seed).choice([-1, 1], (len(images), 1))
    columns = np.clip(np.arange(size) - side * round(strength * size), 0, size - 1)
    return np.take_along_axis(images, columns[:, None, :, None], axis=2)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# Each takes images uint8 (N, S, S, 3), a strength and a seed and returns images; its strengths grow
# worse. The units are in the words that describe them.
CORRUPTIONS = {
    "blur": (blur, (1, 2, 3, 4), "standard deviation (pixels)"),
    "noise": (noise, (10, 20, 40, 60), "standard deviation (of 255)"),
    "jpeg": (jpeg, (40, 20, 10, 5), "quality"),
    "darkness": (darkness, (0.6, 0.4, 0.25, 0.1), "factor"),
    "occlusion": (occlusion, (0.2, 0.3, 0.4, 0.5), "share of the width"),
    "shift": (shift, (0.05, 0.1, 0.15, 0.2), "share of the width"),
}


def curves(
    predict: Predict,
    images: np.ndarray,
    age_years: np.ndarray,
    gender: np.ndarray,
    *,
    seed: int,
) -> pd.DataFrame:
    """Return `evaluation.summary` of the clean faces, then for each corruption and strength.

    images: uint8 (N, S, S, 3); labels (N,). Columns corruption and strength come first; the first
    row is "clean" of strength 0. The same faces, places and noise seed for all.
    """

    def row(name, strength, pictures):
        age_predicted, gender_probability = predict(pictures)
        table = pd.DataFrame(
            {
                "age_years": np.asarray(age_years),
                "gender": np.asarray(gender),
                "age_predicted": np.ravel(age_predicted),
                "gender_probability": np.ravel(gender_probability),
            }
        )
        return {"corruption": name, "strength": strength} | evaluation.summary(table, seed=seed)

    rows = [row("clean", 0.0, images)]
    for name, (corrupt, strengths, _) in CORRUPTIONS.items():
        rows += [row(name, float(each), corrupt(images, each, seed)) for each in strengths]
    return pd.DataFrame(rows)


def occlusion_map(
    predict: Predict, image: np.ndarray, *, patch_pixels: int = 32, stride_pixels: int = 16
) -> dict[str, np.ndarray]:
    """Return what covering each place by a grey patch changes (Zeiler and Fergus 2014).

    image: uint8 (S, S, 3). Keys: age_years and gender_probability, (P, P), covered minus not; and
    centres_pixels (P,), the middle of the patches in either direction. ValueError where the patch
    is larger than the image.
    """
    starts = range(0, image.shape[0] - patch_pixels + 1, stride_pixels)
    if not starts:
        raise ValueError(f"Expected an image of {patch_pixels} pixels or more; got {image.shape}.")
    covered = np.repeat(image[None], len(starts) ** 2 + 1, axis=0)
    places = ((top, left) for top in starts for left in starts)
    for picture, (top, left) in zip(covered[1:], places, strict=True):
        picture[top : top + patch_pixels, left : left + patch_pixels] = GREY
    found = zip(("age_years", "gender_probability"), predict(covered), strict=True)
    maps = {
        name: (np.ravel(values)[1:] - np.ravel(values)[0]).reshape(len(starts), len(starts))
        for name, values in found
    }
    return maps | {"centres_pixels": np.array(starts) + patch_pixels / 2}
