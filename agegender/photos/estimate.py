"""Answers for photos: each face's age with its interval, and its gender if that is sure."""

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
# Most phone photos are smaller; decoding one of this size takes 600 MB.
MOST_PIXELS = 64_000_000
MOST_BYTES = 64 * 2**20
# On a network's first call, up to this many faces are faster without tracing. Once traced, the
# network takes a tenth of the time.
FACES_UNTRACED = 8
_called: weakref.WeakSet[keras.Model] = weakref.WeakSet()
DOUBTFUL_SCORE = 0.9  # A detection with a lower score may be a collar or a pattern.
FACE_COLUMNS = ("face", "left", "top", "right", "bottom", "score", "doubtful")
ESTIMATED = ("age_years", "age_low", "age_high", "gender", "gender_probability", "gender_sure")
COLUMNS = (*FACE_COLUMNS, "model", *ESTIMATED)


class Model(typing.NamedTuple):
    """A network that follows the .h5 contract, and the values fitted to its validation faces."""

    title: str  # its name and version
    network: keras.Model
    intervals: dict  # from `uncertainty.fit_age_intervals`
    confidence: float | None  # the least that makes a gender sure; None if none does


def released(folder: Path, family: str, *, full: bool) -> Path | None:
    """Return the .h5 of a family's released model in models/, or None if none is released.

    full: prefer the one trained on all of UTKFace. If the preferred one is missing, use the other.
    A file without its .json, which is written last, is not a release.
    """
    names = [f"{records.PREFIX}{family}{'_full' * wanted}" for wanted in (full, not full)]
    return next((folder / f"{n}.h5" for n in names if (folder / f"{n}.json").exists()), None)


def load_release(h5_path: str | os.PathLike, passed: Path | None = None) -> Model:
    """Load a released network, and its intervals from the .json of the same name beside it.

    passed: see `export.load_verified`, which checks that the file reproduces its golden
        predictions.

    Raises ValueError if it does not or the .json is not a release's, OSError if a file is missing.
    """
    path = Path(h5_path)
    record_path = path.with_suffix(".json")
    try:
        evidence = json.loads(record_path.read_text())["record"]["evidence"]
        intervals, confidence = evidence["intervals"], evidence["abstention"]["confidence"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{record_path} holds no record of a release, and so no intervals ({error!r}): use "
            "the .h5 and the .json from the same models/ folder."
        ) from error
    return Model(path.stem, export.load_verified(path, passed), intervals, confidence)


def predict(photo_path: str | os.PathLike, models: dict[str, Model]) -> pd.DataFrame:
    """Find the faces in a photo and estimate the age and gender of each.

    photo_path: JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF, up to 64 megapixels.
    models: from `load_release` or `champions.models_for_prediction`; their keys name them in the
    table.

    Return the table of `answer`: one row per face and model, none if no face was found.
    Raises utkface.Rejection, with the reason, if the file is not a readable photo.
    """
    (table,) = answer(_detector(), models, [read_photo(Path(photo_path))])
    return table


_detector = functools.cache(detection.load_detector)


def read_photo(path: Path) -> PIL.Image.Image:
    """Decode a photo fully to an upright RGB picture; raises utkface.Rejection with the reason."""
    try:
        link = "a link to " * path.is_symlink()
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
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
    """Decode a photo's bytes as `read_photo` does; the caller limits their number."""
    pi_heif.register_heif_opener()
    return utkface.open_picture(data, FORMATS, MOST_PIXELS)


def estimate_faces(model: Model, faces: np.ndarray) -> pd.DataFrame:
    """Return a model's estimates for faces, uint8 RGB (N, 128, 128, 3) from `detection.cut_out`.

    One row per face: age_years, age_low, age_high; gender, the likelier of "male" and "female";
    gender_probability, 0.5..1; gender_sure, whether that reaches the model's confidence.
    """
    age, female = _outputs(model.network, faces)
    intervals = uncertainty.age_intervals(model.intervals, age)
    gender = np.where(records.is_female(female), "female", "male")
    probability = np.maximum(female, 1 - female)
    sure = probability >= (2 if model.confidence is None else model.confidence)
    columns = (age, *intervals, gender, probability, sure)
    return pd.DataFrame(dict(zip(ESTIMATED, columns, strict=True)))


def _outputs(network: keras.Model, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return age in years and probability of female, float64 (N,), of uint8 faces."""
    if len(faces) <= FACES_UNTRACED and network not in _called:
        _called.add(network)
        images = faces.astype("float32") / 255
        age, female = map(keras.ops.convert_to_numpy, network(images, training=False))
        return age[:, 0].astype(float), female[:, 0].astype(float)
    # Padded to a power of two, because a backend compiles for each number of faces.
    padded = np.zeros((1 << max(len(faces) - 1, 0).bit_length(), *faces.shape[1:]), faces.dtype)
    padded[: len(faces)] = faces
    age, female = networks_predict.predict(network, padded)
    return age[: len(faces)], female[: len(faces)]


def answer(
    detector: detection.Detector | None,
    models: dict[str, Model],
    photos: Iterable[PIL.Image.Image],
) -> list[pd.DataFrame]:
    """Return one table per photo (upright RGB), with one row per face and model.

    detector: None if each photo is one face, aligned and cropped as in UTKFace.

    Columns: face (from 1, largest first), its box as left, top, right and bottom in pixels, the
    detector's score, doubtful (whether that is low), model (its key in `models`) and those of
    `estimate_faces`. The faces of all photos are estimated together. Photos from an iterator are
    not kept.
    """
    rows, cut, count = [], [], 0
    for count, photo in enumerate(photos, start=1):
        if detector:
            found = detection.find_faces(detector, photo)
            cut += [detection.cut_out(photo, face.landmarks) for face in found]
        else:
            found = [detection.Face(np.array([0, 0, *photo.size]), 1.0, detection.UTKFACE_PLACES)]
            size = (detection.FACE_PIXELS, detection.FACE_PIXELS)
            cut.append(np.asarray(PIL.ImageOps.fit(photo, size, PIL.Image.Resampling.BILINEAR)))
        for number, (box, score, _) in enumerate(found, start=1):
            rows.append((count, number, *np.round(box, 1), score, score < DOUBTFUL_SCORE))
    if not rows:
        return [pd.DataFrame(columns=COLUMNS) for _ in range(count)]
    faces = pd.DataFrame(rows, columns=["photo", *FACE_COLUMNS])
    tables = [
        pd.concat([faces, estimate_faces(model, np.stack(cut))], axis=1).assign(model=name)
        for name, model in models.items()
    ]
    everything = pd.concat(tables).sort_values(["photo", "face", "model"])
    return [
        everything.loc[everything["photo"] == number, list(COLUMNS)].reset_index(drop=True)
        for number in range(1, count + 1)
    ]
