"""Real faces in larger made-up scenes: found, cut out again, and estimated as from the originals.

AGEGENDER_DATA=folder python -m pytest tests/photos/test_scenes.py -m slow -s    # 5 minutes

Prints the share that is found and the mean absolute errors in years. No face of the locked test is
used. The estimates are those of models/age_gender_B.h5.
"""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from agegender.data import sources, splits, utkface
from agegender.networks import export, predict
from agegender.photos import detection

ROOT = Path(__file__).parents[2]
FACES = Path(os.environ.get("AGEGENDER_DATA", ROOT / ".." / "shared" / "data")) / "train_val"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FACES.is_dir(), reason=f"no real faces at {FACES}"),
]
COUNT = 500


@pytest.fixture(scope="module")
def faces():
    """Labels in years, (N,), and pictures, (N, 128, 128, 3), of faces outside the locked test."""
    locked = splits.read_test_names()
    with sources.open_source(FACES) as files:
        usable = [file for file in files if utkface.face_key(file.name) not in locked]
        drawn = np.random.default_rng(0).permutation(len(usable))[:COUNT]
        chosen = [usable[index] for index in drawn]
        ages = [utkface.parse_name(file.name).age_years for file in chosen]
        return np.array(ages), np.stack(
            [utkface.decode(file.read(), file.name, 128) for file in chosen]
        )


def scene(face, generator):
    """Return a made-up scene with the face at a random scale and place, and its box in it."""
    size = generator.integers(600, 1600, 2)
    side = int(np.exp(generator.uniform(np.log(96), np.log(400))))
    low, high = generator.integers(0, 256, (2, 3))
    along = np.linspace(0, 1, size[1])[:, None, None]
    slope = np.broadcast_to(low + (high - low) * along, (size[1], size[0], 3))
    noise = generator.normal(0, 6, slope.shape)
    picture = PIL.Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8))
    draw = PIL.ImageDraw.Draw(picture)
    for number in range(30):
        corner = generator.integers(-100, size)
        box = (*corner, *(corner + generator.integers(20, 400, 2)))
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape(box, fill=tuple(generator.integers(0, 256, 3).tolist()))
    left, top = (int(generator.integers(0, length - side)) for length in size)
    chip = PIL.Image.fromarray(face).resize((side, side), PIL.Image.Resampling.BICUBIC)
    picture.paste(chip, (left, top))
    return picture, (left, top, side)


@pytest.fixture(scope="module")
def predict_age():
    path = ROOT / "models" / "age_gender_B.h5"
    network = export.load_h5(path)
    return path.name, lambda images: predict.predict(network, images, np.arange(len(images)))[0]


def test_faces_in_scenes_are_found_and_estimated_as_the_originals(faces, predict_age):
    ages, originals = faces
    name, predict = predict_age
    detector = detection.load_detector()
    found, again, others, places = [], [], 0, []
    for index, face in enumerate(originals):
        picture, (left, top, side) = scene(face, np.random.default_rng([1, index]))
        detected = detection.find_faces(detector, picture)
        # Some pictures show several people: the one in the middle is meant.
        middle = np.array([left, top]) + side / 2
        inside = [
            one for one in detected if (np.abs(one.landmarks.mean(0) - middle) < side / 5).all()
        ]
        others += len(detected) - len(inside)
        if inside:
            found.append(index)
            again.append(detection.cut_out(picture, inside[0].landmarks))
            places.append((inside[0].landmarks - [left, top]) / side)
    again, originals, ages = np.stack(again), originals[found], ages[found]
    errors = [np.abs(predict(images) - ages) for images in (originals, again)]
    correlation = np.mean(
        [
            np.corrcoef(*(image.ravel().astype(float) for image in pair))[0, 1]
            for pair in zip(originals, again, strict=True)
        ]
    )
    print(
        f"\n{len(found)} of {COUNT} found ({len(found) / COUNT:.1%}), {others} other detections; "
        f"MAE by {name}: {errors[0].mean():.2f} years of the originals, {errors[1].mean():.2f} as "
        f"cut out of the scenes ({errors[1].mean() - errors[0].mean():+.2f}); correlation with the "
        f"originals {correlation:.3f}; places {np.mean(places, axis=0).round(3).tolist()}"
    )
    assert len(found) >= 0.95 * COUNT
    assert errors[1].mean() - errors[0].mean() <= 0.3
    assert np.abs(np.mean(places, axis=0) - detection.UTKFACE_PLACES).max() < 0.02
