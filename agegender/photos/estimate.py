"""Photos to answers: each face's age with its interval and its gender, or that this is not sure.

from agegender.photos import estimate

model = estimate.load_release("models/age_gender_B.h5")
print(estimate.predict("party.jpg", {"B": model}))
"""

import functools
import json
import os
import typing
import weakref
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pi_heif
import PIL.Image

from agegender import records
from agegender.data import utkface
from agegender.measure import uncertainty
from agegender.networks import export
from agegender.networks import predict as networks_predict
from agegender.photos import detection

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP")
# Of a photo: the cameras of most telephones fit in, and decoding takes 600 MB at the most.
MOST_PIXELS = 64_000_000
MOST_BYTES = 64 * 2**20
# So few faces are answered sooner without tracing the network. Only the first time: once traced it
# takes a tenth of the time.
FACES_UNTRACED = 8
_called: weakref.WeakSet[keras.Model] = weakref.WeakSet()
FACE_COLUMNS = ("face", "left", "top", "right", "bottom", "score")
COLUMNS = (*FACE_COLUMNS, "model", "age_years", "age_low", "age_high", "gender")
COLUMNS += ("gender_probability", "gender_sure")


class Model(typing.NamedTuple):
    """A network of the .h5 contract with what was fitted to its validation faces.

    title: its name and version; intervals: of `uncertainty.fit_age_intervals`; confidence: of
    `uncertainty.fit_abstention`, from which on a gender is said, None where none suffices.
    """

    title: str
    network: keras.Model
    intervals: dict
    confidence: float | None


def released(folder: Path, family: str, *, full: bool) -> Path | None:
    """Return the .h5 of a family's released model in models/, None where none is released.

    full: the one trained on all of UTKFace, where there is; the other stands in for it. Without its
    .json, which is written last, a file is no release.
    """
    names = [f"{records.PREFIX}{family}{'_full' * wanted}" for wanted in (full, not full)]
    return next((folder / f"{n}.h5" for n in names if (folder / f"{n}.json").exists()), None)


def load_release(h5_path: str | os.PathLike, passed: Path | None = None) -> Model:
    """Load a released network and, from the .json of the same name beside it, its intervals.

    The file is inspected and has to reproduce its golden predictions: see `export.load_verified`,
    also for `passed`.
    ValueError where it does not, or where the .json is not that of a release; OSError where one of
    the two files is missing.
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
    models: by the names that the table shall give them, from `load_release` or the registry's
    `champions.models_for_prediction`.

    Return the table of `answer`: a row for each face and model, no row where no face was found.
    utkface.Rejection, with the reason, where the file is no photo that can be read.
    """
    (table,) = answer(_detector(), models, [read_photo(Path(photo_path))])
    return table


_detector = functools.cache(detection.load_detector)


def list_photos(sources: Iterable[Path]) -> list[Path]:
    """Return the files named and, sorted, those in folders named and below, but no hidden ones."""
    photos = []
    for source in sources:
        if not source.is_dir():
            photos.append(source)
            continue
        for parent, folders, names in os.walk(source):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            photos += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return photos


def read_photo(path: Path) -> PIL.Image.Image:
    """Decode a photo fully to an upright RGB picture; raises utkface.Rejection with the reason."""
    if not os.path.isfile(path):
        detail = "a link, pipe or device" if os.path.exists(path) else "nothing has this name"
        raise utkface.Rejection(utkface.Reason.NOT_A_FILE, detail)
    return open_photo(utkface.read_bytes(lambda: path.open("rb"), MOST_BYTES))


def open_photo(data: bytes) -> PIL.Image.Image:
    """Decode a photo's bytes as `read_photo` does a file; its size is judged before its pixels."""
    pi_heif.register_heif_opener()
    return utkface.open_picture(data, formats=FORMATS, most_pixels=MOST_PIXELS)


def estimate_faces(model: Model, faces: np.ndarray) -> pd.DataFrame:
    """Return what a model says of faces, uint8 RGB (N, 128, 128, 3) as `detection.cut_out` gives.

    Columns, a row each: age_years, age_low, age_high; gender, "male" or "female", the likelier one;
    gender_probability, of that one (.5..1); gender_sure, whether this reaches the confidence from
    which on enough validation faces were right.
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
    # A power of two: a backend compiles, or traces, for each number of faces that it meets.
    padded = np.zeros((1 << max(len(faces) - 1, 0).bit_length(), *faces.shape[1:]), faces.dtype)
    padded[: len(faces)] = faces
    age, female = networks_predict.predict(network, padded, np.arange(len(padded)))
    return age[: len(faces)], female[: len(faces)]


def answer(
    detector: detection.Detector, models: dict[str, Model], photos: list[PIL.Image.Image]
) -> list[pd.DataFrame]:
    """Return a table a photo (upright RGB), with a row for each of its faces and each model.

    Columns: face (from 1, the largest first), its box as left, top, right and bottom in pixels, the
    detector's score, model (its name in `models`) and those of `estimate_faces`. No row where no
    face was found. All faces are estimated together: give several photos where there are more.
    """
    found = [detection.find_faces(detector, photo) for photo in photos]
    cut = [
        detection.cut_out(photo, face.landmarks)
        for photo, faces in zip(photos, found, strict=True)
        for face in faces
    ]
    rows = pd.DataFrame(
        [
            (index, number, *np.round(face.box, 1), face.score)
            for index, faces in enumerate(found)
            for number, face in enumerate(faces, start=1)
        ],
        columns=["photo", *FACE_COLUMNS],
    )
    if rows.empty:
        return [pd.DataFrame(columns=COLUMNS) for _ in photos]
    tables = [
        pd.concat([rows, estimate_faces(model, np.stack(cut))], axis=1).assign(model=name)
        for name, model in models.items()
    ]
    everything = pd.concat(tables).sort_values(["photo", "face", "model"])
    return [
        everything.loc[everything["photo"] == index, list(COLUMNS)].reset_index(drop=True)
        for index in range(len(photos))
    ]
