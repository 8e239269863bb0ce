"""Drawn faces are found wherever they are, and cut out upright; nothing is found in noise."""

import keras
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from agegender.photos import detection


@pytest.fixture(scope="module")
def faces(face):
    return [face(13), face(16)]


def scene(faces):
    """Return a grey photo with the faces, and their middles."""
    photo = PIL.Image.new("RGB", (900, 500), (120, 125, 130))
    corners = [(60 + 430 * number, 150) for number in range(len(faces))]
    for corner, face in zip(corners, faces, strict=True):
        photo.paste(face, corner)
    return photo, [np.add(c, face.size[0] / 2) for c, face in zip(corners, faces, strict=True)]


def test_several_faces_are_found_where_they_are_the_largest_first(detector, faces):
    photo, middles = scene([faces[0], faces[1].resize((300, 300))])
    found = detection.find_faces(detector, photo)
    assert len(found) == 2
    for face, middle in zip(found, reversed(middles), strict=True):
        assert np.abs((face.box[:2] + face.box[2:]) / 2 - middle).max() < 40
        left_eye, right_eye, nose, left_corner, right_corner = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0] and left_corner[0] < right_corner[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_corner[1], right_corner[1])
        assert 0.7 < face.score <= 1
    assert np.ptp(found[0].box[::2]) > np.ptp(found[1].box[::2])


@pytest.mark.parametrize("enlarged", [1, 4])
def test_places_are_in_pixels_of_the_photo_whatever_its_size(detector, faces, enlarged):
    photo, _ = scene(faces[:1])
    (small,) = detection.find_faces(detector, photo)
    large = photo.resize((900 * enlarged, 500 * enlarged), PIL.Image.Resampling.BICUBIC)
    (found,) = detection.find_faces(detector, large)
    np.testing.assert_allclose(found.landmarks / enlarged, small.landmarks, atol=4)


def test_nothing_is_found_where_nothing_is(detector):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    pictures = [noise, noise[:200, :300], noise[:, :5]]
    pictures += map(sklearn.datasets.load_sample_image, ("china.jpg", "flower.jpg"))
    photos = [*map(PIL.Image.fromarray, pictures), PIL.Image.new("RGB", (1, 1), "white")]
    assert not any(detection.find_faces(detector, photo) for photo in photos)


def at_places(angle_degrees, side, middle):
    """Return the landmarks of a face in UTKFace's pose, turned, scaled and moved."""
    angle = np.radians(angle_degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (detection.UTKFACE_PLACES - 0.5) @ turn * side + middle


def test_a_face_in_the_pose_of_utkface_is_cut_out_as_it_is(faces):
    face = faces[0].resize((128, 128))
    photo = PIL.Image.new("RGB", (400, 300))
    photo.paste(face, (200, 100))
    cut = detection.cut_out(photo, at_places(0, 128, (264, 164)))
    assert cut.shape == (128, 128, 3) and cut.dtype == np.uint8
    assert np.abs(cut.astype(int) - np.asarray(face)).max() <= 1


@pytest.mark.parametrize("side", [60, 256, 900])
@pytest.mark.parametrize("angle_degrees", [-30, 15, 180])
def test_a_turned_face_of_any_size_comes_upright_in_utkfaces_size(faces, angle_degrees, side):
    face = faces[1].resize((side, side), PIL.Image.Resampling.BICUBIC)
    photo = PIL.Image.new("RGB", (2000, 1500), "grey")
    photo.paste(face, (1000 - side // 2, 750 - side // 2))
    # Pillow turns against the clock, whose y points down as here.
    turned = photo.rotate(-angle_degrees, PIL.Image.Resampling.BICUBIC)
    cut = detection.cut_out(turned, at_places(angle_degrees, side, (1000, 750)))
    wanted = np.asarray(face.resize((128, 128), PIL.Image.Resampling.BILINEAR))
    middle = slice(16, 112)
    difference = np.abs(cut[middle, middle].astype(int) - wanted[middle, middle])
    assert difference.mean() < 4


def test_outside_the_photo_is_black(faces):
    photo = PIL.Image.new("RGB", (100, 100), "white")
    cut = detection.cut_out(photo, at_places(0, 200, (100, 100)))
    assert cut[:60, :60].min() == 255 and cut[70:, 70:].max() == 0


def test_weights_that_are_others_are_not_opened(monkeypatch):
    monkeypatch.setitem(detection.WEIGHTS, "rnet", "0" * 64)
    with pytest.raises(ValueError, match="rnet.lz4 should have the SHA-256 000"):
        detection.load_detector()


def test_half_precision_elsewhere_does_not_reach_the_detector(detector, faces):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        again = detection.load_detector()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.mixed_precision.set_global_policy("float32")
    faces = [detection.find_faces(which, faces[0]) for which in (detector, again)]
    np.testing.assert_array_equal(faces[0][0].landmarks, faces[1][0].landmarks)
