"""How predictions suffer when pictures get worse, and which parts of a picture they depend on.

Independent of models: `predict` takes uint8 RGB (N, S, S, 3) and returns the ages in years and the
probabilities of female, (N,) each.
"""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import PIL.Image
from scipy import ndimage

from agegender import records
from agegender.measure import evaluation

GREY = 128
PATCH_PIXELS, STRIDE_PIXELS = 32, 16  # of an occlusion map
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def blur(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Blur with a Gaussian of this standard deviation, in pixels."""
    return _bytes(ndimage.gaussian_filter(images.astype(np.float32), strength, axes=(1, 2)))


def noise(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Add Gaussian noise of this standard deviation to each value (0 to 255)."""
    drawn = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    return _bytes(images + strength * drawn)


def jpeg(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Compress to a JPEG of this quality, 1 to 95, and decode."""
    decoded = []
    for image in images:
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, "JPEG", quality=int(strength))
        decoded.append(np.asarray(PIL.Image.open(stream)))
    return np.stack(decoded)


def darkness(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Multiply each value by this factor."""
    # A lookup table of all 256 values avoids a floating-point copy of the pictures.
    return _bytes(np.arange(256) * strength)[images]


def occlusion(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Cover a random place with a grey square whose side is this share of the width."""
    size = images.shape[1]
    side = round(strength * size)
    places = np.random.default_rng(seed).integers(0, size - side + 1, (len(images), 2))
    covered = images.copy()
    for image, (top, left) in zip(covered, places, strict=True):
        image[top : top + side, left : left + side] = GREY
    return covered


def shift(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Shift to the left or right by this share of the width and repeat the pixels of the edge."""
    size = images.shape[2]
    side = np.random.default_rng(seed).choice([-1, 1], (len(images), 1))
    columns = np.clip(np.arange(size) - side * round(strength * size), 0, size - 1)
    return np.take_along_axis(images, columns[:, None, :, None], axis=2)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# Function of images, uint8 (N, S, S, 3), a strength and a seed that returns images; its strengths,
# from mild to severe; their unit.
CORRUPTIONS = {
    "blur": (blur, (1, 2, 3, 4), "standard deviation (pixels)"),
    "noise": (noise, (10, 20, 40, 60), "standard deviation (of 255)"),
    "jpeg": (jpeg, (40, 20, 10, 5), "quality"),
    "darkness": (darkness, (0.6, 0.4, 0.25, 0.1), "factor"),
    "occlusion": (occlusion, (0.2, 0.3, 0.4, 0.5), "share of the width"),
    "shift": (shift, (0.05, 0.1, 0.15, 0.2), "share of the width"),
}


def curves(
    predict: Predict, images: np.ndarray, age_years: np.ndarray, gender: np.ndarray, *, seed: int
) -> pd.DataFrame:
    """Return `evaluation.summary` of the clean faces, then of each corruption and strength.

    images: uint8 (N, S, S, 3); labels (N,). Columns corruption and strength come first; the first
    row is "clean" with strength 0. All rows use the same seed.
    """
    labels = pd.DataFrame({"age_years": age_years, "gender": gender})

    def row(name, strength, pictures):
        table = labels.assign(**dict(zip(records.PREDICTED, predict(pictures), strict=True)))
        return {"corruption": name, "strength": strength} | evaluation.summary(table, seed=seed)

    rows = [row("clean", 0.0, images)]
    for name, (corrupt, strengths, _) in CORRUPTIONS.items():
        rows += [row(name, float(each), corrupt(images, each, seed)) for each in strengths]
    return pd.DataFrame(rows)


def occlusion_map(predict: Predict, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what covering each place with a grey patch changes (Zeiler and Fergus 2014).

    image: uint8 (S, S, 3). Keys: age_years and gender_probability, (P, P), covered minus uncovered;
    and centres_pixels, (P,), the centres of the patches along either side.
    """
    starts = range(0, image.shape[0] - PATCH_PIXELS + 1, STRIDE_PIXELS)
    covered = np.repeat(image[None], len(starts) ** 2 + 1, axis=0)
    for picture, (top, left) in zip(covered[1:], itertools.product(starts, starts), strict=True):
        picture[top : top + PATCH_PIXELS, left : left + PATCH_PIXELS] = GREY
    maps = {
        name: (values[1:] - values[0]).reshape(len(starts), len(starts))
        for name, values in zip(("age_years", "gender_probability"), predict(covered), strict=True)
    }
    return maps | {"centres_pixels": np.array(starts) + PATCH_PIXELS / 2}
