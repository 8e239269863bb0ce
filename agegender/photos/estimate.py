"""Photos to answers: each face's age with its interval, and its gender where that is sure.

from agegender.photos import estimate

model = estimate.load_release("models/age_gender_B.h5")
print(estimate.predict("party.jpg", {"B": model}))
"""

import functools
import json
import os
import stat
import typing
import weakref
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pi_heif
import PIL.Image
import PIL.ImageOps

from agegender import records
from agegender.data import utkface
from agegender.measure import uncertainty
from agegender.networks import export
from agegender.networks import predict as networks_predict
from agegender.photos import detection

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP")
# Most phones' photos are smaller; decoding one of this size takes 600 MB.
MOST_PIXELS = 64_000_000
MOST_BYTES = 64 * 2**20
# The first time, so few faces are answered sooner without tracing the network, which then takes a
# tenth of the time.
FACES_UNTRACED = 8
_called: weakref.WeakSet[keras.Model] = weakref.WeakSet()
DOUBTFUL_SCORE = 0.9  # A detection below may be a collar or a pattern.
FACE_COLUMNS = ("face", "left", "top", "right", "bottom", "score", "doubtful")
COLUMNS: tuple[str, ...] = (*FACE_COLUMNS, "model", "age_years", "age_low", "age_high", "gender")
COLUMNS += ("gender_probability", "gender_sure")


class Model(typing.NamedTuple):
    """A network of the .h5 contract with what was fitted to its validation faces.

    title: its name and version; intervals: of `uncertainty.fit_age_intervals`; confidence: of
    `uncertainty.fit_abstention`, the least that makes a gender sure, None where none does.
    """

    title: str
    network: keras.Model
    intervals: dict
    confidence: float | None


def released(folder: Path, family: str, *, full: bool) -> Path | None:
    """Return the .h5 of a family's released model in models/, None where none is released.

    full: prefer the one trained on all of UTKFace; where one is missing, the other stands in.
    A file without its .json, which is written last, is no release.
    """
    names = [f"{records.PREFIX}{family}{'_full' * wanted}" for wanted in (full, not full)]
    return next((folder / f"{n}.h5" for n in names if (folder / f"{n}.json").exists()), None)


def load_release(h5_path: str | os.PathLike, passed: Path | None = None) -> Model:
    """Load a released network and, from the .json of the same name beside it, its intervals.

    passed: see `export.load_verified`, by which the file has to reproduce its golden predictions.

    ValueError where it does not, or where the .json is not a release's; OSError where a file is
    missing.
    """
    path = Path(h5_path)
    released = json.loads(path.with_suffix(".json").read_text())
    try:
        evidence = released["record"]["evidence"]
        intervals, confidence = evidence["intervals"], evidence["abstention"]["confidence"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path.with_suffix('.json')} holds no record of a release, and so no intervals "
            f"({error!r}): take the .h5 and the .json from the same folder models/."
        ) from error
    return Model(path.stem, export.load_verified(path, passed), intervals, confidence)


def predict(photo_path: str | os.PathLike, models: dict[str, Model]) -> pd.DataFrame:
    """Find the faces in a photo and estimate the age and the gender of each.

    photo_path: JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF, up to 64 megapixels.
    models: from `load_release` or `champions.models_for_prediction`; their keys name them in the
    table.

    Return the table of `answer`: a row for each face and model, no row where no face was found.
    utkface.Rejection, with the reason, where the file is no photo that can be read.
    """
    (table,) = answer(_detector(), models, [read_photo(Path(photo_path))])
    return table


_detector = functools.cache(detection.load_detector)


def read_photo(path: Path) -> PIL.Image.Image:
    """Decode a photo fully to an upright RGB picture; raises utkface.Rejection with the reason."""
    try:
        link = "a link to " * path.is_symlink()
        if path.is_dir():
            os.scandir(path).close()
        mode = path.stat().st_mode
    except FileNotFoundError:
        detail = link + "nothing" if link else "no such file"
        raise utkface.Rejection(utkface.Reason.NOT_A_FILE, detail) from None
    except OSError as error:
        raise utkface.Rejection(utkface.Reason.UNREADABLE, error.strerror) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise utkface.Rejection(utkface.Reason.NOT_A_FILE, link + kind)
    return open_photo(utkface.read_bytes(lambda: path.open("rb"), MOST_BYTES))


def open_photo(data: bytes) -> PIL.Image.Image:
    """Decode a photo's bytes as `read_photo` does a file, its size being checked first."""
    pi_heif.register_heif_opener()
    return utkface.open_picture(data, formats=FORMATS, most_pixels=MOST_PIXELS)


def estimate_faces(model: Model, faces: np.ndarray) -> pd.DataFrame:
    """Return what a model says of faces, uint8 RGB (N, 128, 128, 3) as `detection.cut_out` gives.

    Columns, a row each: age_years, age_low, age_high; gender, "male" or "female", the likelier one;
    gender_probability, 0.5..1; gender_sure, whether that reaches the model's confidence.
    """
    age, female = _outputs(model.network, faces)
    low, high = uncertainty.age_intervals(model.intervals, age)
    probability = np.maximum(female, 1 - female)
    return pd.DataFrame(
        {
            "age_years": age,
            "age_low": low,
            "age_high": high,
            "gender": np.where(records.is_female(female), "female", "male"),
            "gender_probability": probability,
            "gender_sure": probability >= (2 if model.confidence is None else model.confidence),
        }
    )


def _outputs(network: keras.Model, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return age in years and probability of female, float64 (N,), of uint8 faces."""
    if len(faces) <= FACES_UNTRACED and network not in _called:
        _called.add(network)
        images = faces.astype("float32") / 255
        age, female = map(keras.ops.convert_to_numpy, network(images, training=False))
        return age[:, 0].astype(float), female[:, 0].astype(float)
    # Padded to a power of two, since a backend compiles for each number of faces.
    padded = np.zeros((1 << max(len(faces) - 1, 0).bit_length(), *faces.shape[1:]), faces.dtype)
    padded[: len(faces)] = faces
    age, female = networks_predict.predict(network, padded)
    return age[: len(faces)], female[: len(faces)]


def answer(
    detector: detection.Detector | None,
    models: dict[str, Model],
    photos: Iterable[PIL.Image.Image],
) -> list[pd.DataFrame]:
    """Return a table a photo (upright RGB), with a row for each of its faces and each model.

    detector: None where each photo is a face, aligned and cropped as in UTKFace.

    Columns: face (from 1, the largest first), its box as left, top, right and bottom in pixels, the
    detector's score, whether that is doubtful, model (its key in `models`) and those of
    `estimate_faces`. No row where no face was found. The faces of all photos are estimated
    together, and a photo from an iterator is not kept.
    """
    rows, cut, count = [], [], 0
    for index, photo in enumerate(photos):
        count += 1
        for number, (box, score, face) in enumerate(_cut_faces(detector, photo), start=1):
            rows.append((index, number, *np.round(box, 1), score, score < DOUBTFUL_SCORE))
            cut.append(face)
    if not rows:
        return [pd.DataFrame(columns=COLUMNS) for _ in range(count)]
    faces = pd.DataFrame(rows, columns=["photo", *FACE_COLUMNS])
    tables = [
        pd.concat([faces, estimate_faces(model, np.stack(cut))], axis=1).assign(model=name)
        for name, model in models.items()
    ]
    everything = pd.concat(tables).sort_values(["photo", "face", "model"])
    return [
        everything.loc[everything["photo"] == index, list(COLUMNS)].reset_index(drop=True)
        for index in range(count)
    ]


def _cut_faces(
    detector: detection.Detector | None, photo: PIL.Image.Image
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Return box, score and pixels (128, 128, 3) of each face."""
    if detector is None:
        size = (detection.FACE_PIXELS, detection.FACE_PIXELS)
        face = PIL.ImageOps.fit(photo, size, PIL.Image.Resampling.BILINEAR)
        return [(np.array([0, 0, *photo.size]), 1.0, np.asarray(face))]
    return [
        (face.box, face.score, detection.cut_out(photo, face.landmarks))
        for face in detection.find_faces(detector, photo)
    ]
