"""Find the faces in any photo, aligned and cropped like UTKFace's 'aligned & cropped' pictures.

The detector is MTCNN (Zhang et al. 2016). A small network proposes boxes on a pyramid of the photo,
a second rejects most of them, and a third keeps the faces and finds eyes, nose and mouth. The three
networks are built here with Keras alone; their weights come from the package `mtcnn`.
"""

import importlib.metadata
import math
import typing
from pathlib import Path

import joblib
import keras
import numpy as np
import PIL.Image

from agegender import disk

# Left and right eye (as seen), nose, left and right corner of the mouth in a UTKFace picture: x and
# y as shares of its side. Means of what this detector finds in 492 faces outside the locked test;
# tests/photos/test_scenes.py checks them.
UTKFACE_PLACES = np.array(
    [[0.299, 0.292], [0.692, 0.292], [0.488, 0.522], [0.321, 0.693], [0.668, 0.694]]
)
WEIGHTS = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
# A photo is searched on a black square with one of these sides; a larger photo is shrunk first.
# There are few sides because a backend compiles for each shape.
SIDES_PIXELS = (256, 512, 1024)
SMALLEST_FACE_PIXELS = 20
CELL_PIXELS, STRIDE_PIXELS = 12, 2  # The first network sees squares of 12 pixels, 2 apart.
PYRAMID_STEP = 0.709
BATCH_SIZE = 32
LEAST_SCORES = 0.6, 0.7, 0.7  # to pass each network
FACE_PIXELS = 128  # side of a face that is cut out
MOST_OVERSAMPLING = 16


class Face(typing.NamedTuple):
    """A face in a photo; all positions are in pixels."""

    box: np.ndarray  # (4,): left, top, right, bottom; it may lie partly outside the photo
    score: float  # 0..1
    landmarks: np.ndarray  # (5, 2): x and y, in the order of UTKFACE_PLACES


class Detector(typing.NamedTuple):
    """The three networks; the last output of each holds the scores of 'no face' and 'face'."""

    pnet: keras.Model
    rnet: keras.Model
    onet: keras.Model


def load_detector() -> Detector:
    """Return the detector with its weights; ValueError if the package's files differ."""
    package = importlib.metadata.distribution("mtcnn")
    networks = _networks()
    for network in networks:
        path = Path(package.locate_file(f"mtcnn/assets/weights/{network.name}.lz4"))
        digest = disk.checksum(path)
        if digest != WEIGHTS[network.name]:  # It is a pickle: never open any other.
            raise ValueError(
                f"{path} should have the SHA-256 {WEIGHTS[network.name]} but has {digest}: "
                "reinstall mtcnn==1.0.0."
            )
        network.set_weights(joblib.load(path))
    return networks


def _networks() -> Detector:
    def convolve(x, filters, kernel, pool=None, padding="valid"):
        x = keras.layers.Conv2D(filters, kernel)(x)
        x = keras.layers.PReLU(shared_axes=[1, 2])(x)
        return keras.layers.MaxPooling2D(pool, 2, padding)(x) if pool else x

    def connect(x, units, *outputs):
        # The weights come from Caffe, which flattens column by column.
        x = keras.layers.Flatten()(keras.layers.Permute((2, 1, 3))(x))
        x = keras.layers.PReLU()(keras.layers.Dense(units)(x))
        measured = [keras.layers.Dense(count)(x) for count in outputs]
        return [*measured, keras.layers.Dense(2, activation="softmax")(x)]

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # Positions need subpixel precision.
    try:
        image = keras.Input((None, None, 3))
        x = convolve(convolve(convolve(image, 10, 3, 2, "same"), 16, 3), 32, 3)
        offsets = keras.layers.Conv2D(4, 1)(x)
        score = keras.layers.Conv2D(2, 1, activation="softmax")(x)
        pnet = keras.Model(image, [offsets, score], name="pnet")
        image = keras.Input((24, 24, 3))
        x = convolve(convolve(convolve(image, 28, 3, 3, "same"), 48, 3, 3), 64, 2)
        rnet = keras.Model(image, connect(x, 128, 4), name="rnet")
        image = keras.Input((48, 48, 3))
        x = convolve(convolve(image, 32, 3, 3, "same"), 64, 3, 3)
        x = convolve(convolve(x, 64, 3, 2, "same"), 128, 2)
        onet = keras.Model(image, connect(x, 256, 4, 10), name="onet")
    finally:
        keras.config.set_dtype_policy(policy)
    return Detector(pnet, rnet, onet)


def find_faces(detector: Detector, photo: PIL.Image.Image) -> list[Face]:
    """Return the faces in an upright RGB photo, largest first; empty if there are none.

    Faces under 20 pixels, or under 2 % of the longer side of a photo over 1,024 pixels, are not
    found.
    """
    longest = max(photo.size)
    side = next((side for side in SIDES_PIXELS if side >= longest), SIDES_PIXELS[-1])
    shrink = min(side / longest, 1)
    size = tuple(max(round(length * shrink), 1) for length in photo.size)
    canvas = PIL.Image.new("RGB", (side, side))
    canvas.paste(photo.resize(size, PIL.Image.Resampling.BOX) if shrink < 1 else photo)

    boxes = _propose(detector.pnet, canvas)
    offsets, scores = _look(detector.rnet, canvas, boxes, 24)
    likely = scores > LEAST_SCORES[1]
    boxes = _moved(boxes, offsets)[likely]
    boxes = _square(boxes[_distinct(boxes, scores[likely], 0.7)])
    offsets, landmarks, scores = _look(detector.onet, canvas, boxes, 48)
    corner, extent = boxes[:, None, :2], np.ptp(boxes.reshape(-1, 2, 2), axis=1)[:, None]
    landmarks = corner + extent * landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)
    boxes = _moved(boxes, offsets)
    sure = np.flatnonzero(scores > LEAST_SCORES[2])
    kept = sure[_distinct(boxes[sure], scores[sure], 0.7, of_smaller=True)]
    found = [Face(boxes[i] / shrink, float(scores[i]), landmarks[i] / shrink) for i in kept]
    return sorted(found, key=lambda face: face.box[0] - face.box[2])


def _propose(pnet: keras.Model, canvas: PIL.Image.Image) -> np.ndarray:
    """Return square boxes (N, 4), pixels of the canvas, that may hold faces."""
    all_boxes, all_scores = [np.empty((0, 4))], [np.empty(0)]
    scale = CELL_PIXELS / SMALLEST_FACE_PIXELS
    while (size := round(canvas.width * scale)) >= CELL_PIXELS:
        level = canvas.resize((size, size), PIL.Image.Resampling.BOX)
        offsets, scores = (output[0] for output in _run(pnet, np.asarray(level)[None]))
        rows, columns = np.nonzero(scores[..., 1] > LEAST_SCORES[0])
        corner = np.stack([columns, rows], axis=1) * STRIDE_PIXELS
        boxes = np.hstack([corner, corner + CELL_PIXELS]) * (canvas.width / size)
        boxes, scores = _moved(boxes, offsets[rows, columns]), scores[rows, columns, 1]
        kept = _distinct(boxes, scores, 0.5)
        all_boxes.append(boxes[kept])
        all_scores.append(scores[kept])
        scale *= PYRAMID_STEP
    boxes = np.concatenate(all_boxes)
    return _square(boxes[_distinct(boxes, np.concatenate(all_scores), 0.7)])


def _run(network: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Return a network's outputs for uint8 pictures as arrays."""
    return network.predict_on_batch((images.astype("float32") - 127.5) / 128)


def _look(
    network: keras.Model, canvas: PIL.Image.Image, boxes: np.ndarray, size: int
) -> tuple[np.ndarray, ...]:
    """Return a network's outputs for the contents of the boxes; the last is the face's score."""
    batches = np.zeros((len(boxes) // BATCH_SIZE + 1, BATCH_SIZE, size, size, 3), "uint8")
    for patch, box in zip(batches.reshape(-1, size, size, 3), boxes, strict=False):
        part = canvas.crop([round(value) for value in box])  # Black outside the photo.
        patch[:] = part.resize((size, size), PIL.Image.Resampling.BOX)
    parts = zip(*(_run(network, batch) for batch in batches), strict=True)
    *others, scores = (np.concatenate(part)[: len(boxes)] for part in parts)
    return *others, scores[:, 1]


def _moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) with their sides moved by fractions of the boxes' width and height."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Return squares around the boxes' centres with the length of the boxes' longer sides."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.hstack([middle - half, middle + half])


def _distinct(
    boxes: np.ndarray, scores: np.ndarray, most_overlap: float, of_smaller: bool = False
) -> np.ndarray:
    """Return the indices, best first, of boxes that overlap no better one by over most_overlap.

    Overlap: the shared area divided by the union's or, with of_smaller, by the smaller box's.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        smaller = np.minimum(areas[best], areas[left])
        whole = smaller if of_smaller else areas[best] + areas[left] - shared
        left = left[shared <= most_overlap * whole]
    return np.array(kept, int)


def cut_out(photo: PIL.Image.Image, landmarks: np.ndarray) -> np.ndarray:
    """Return a face, uint8 RGB (128, 128, 3), rotated and scaled as in UTKFace.

    The similarity transform maps UTKFACE_PLACES to the landmarks (5, 2) by least squares. Anything
    outside the photo is black, as in UTKFace.
    """
    found, places = (points[:, 0] + 1j * points[:, 1] for points in (landmarks, UTKFACE_PLACES))
    # As complex numbers: found = side * places + corner, where side is the face's upper edge.
    centred = places - places.mean()
    side = (centred.conj() @ found) / (centred.conj() @ centred).real
    corner = found.mean() - side * places.mean()
    step = side / FACE_PIXELS  # One pixel to the right in the face, measured in the photo.
    # Sample every pixel of the photo and then average, or a large face would be jagged.
    finer = min(max(math.ceil(abs(step)), 1), MOST_OVERSAMPLING)
    step /= finer
    affine = (step.real, -step.imag, corner.real, step.imag, step.real, corner.imag)
    size = (FACE_PIXELS * finer, FACE_PIXELS * finer)
    transform = PIL.Image.Transform.AFFINE
    face = photo.transform(size, transform, affine, PIL.Image.Resampling.BICUBIC)
    return np.asarray(face.resize((FACE_PIXELS, FACE_PIXELS), PIL.Image.Resampling.BILINEAR))
