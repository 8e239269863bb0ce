"""Photos of drawn faces to tables, texts, marked pictures; all else to a named rejection."""

import base64
import json
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from agegender.data import generated_faces, utkface
from agegender.data.utkface import Reason
from agegender.networks import export
from agegender.photos import detection, estimate, output

MODELS = pathlib.Path(__file__).parents[2] / "models"
# 48 x 32 pixels, the left half red, the right half blue; as a telephone writes its photos.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAACkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAAB"
    "AAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAADFt"
    "ZGF0AAAAJSgBrwtg+tKBv+QzdPIIB8Sd84GoqdxNFMGt13w1aP/bJCKjbEA="
)


@pytest.fixture(scope="module")
def model(coloured_model):
    return coloured_model("A")


def coloured(red, green):
    face = np.zeros((128, 128, 3), np.uint8)
    face[..., 0], face[..., 1] = red, green
    return face


FACES = np.stack([coloured(51, 204), coloured(153, 102), coloured(0, 0)])


def test_an_estimate_has_its_interval_its_gender_and_whether_that_is_sure(model):
    table = estimate.estimate_faces(model, FACES)
    np.testing.assert_allclose(table["age_years"], [20, 60, 0], atol=0.01)
    np.testing.assert_allclose(table["age_low"], [15, 50, 0], atol=0.01)
    np.testing.assert_allclose(table["age_high"], [25, 70, 5], atol=0.01)
    assert table["gender"].tolist() == ["female", "male", "male"]
    np.testing.assert_allclose(table["gender_probability"], [0.8, 0.6, 1], atol=1e-3)
    assert table["gender_sure"].tolist() == [True, False, True]
    texts = [output.gender_text(row) for row in table.itertuples()]
    assert texts == ["female 80 %", "not sure (male 60 %)", "male 100 %"]


def test_where_no_confidence_suffices_no_gender_is_sure(coloured_model):
    assert not estimate.estimate_faces(coloured_model("A", None), FACES)["gender_sure"].any()


def drawn(*seeds):
    """A photo with drawn faces that the detector finds, from left to right ever smaller."""
    photo = PIL.Image.new("RGB", (900, 400), (120, 125, 130))
    for number, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        face = generated_faces.draw_face(5 + 2 * seed, seed % 2, seed % 5, generator, 192)
        side = 240 - 48 * number
        photo.paste(PIL.Image.fromarray(face).resize((side, side)), (40 + 430 * number, 60))
    return photo


@pytest.fixture(scope="module")
def detector():
    return detection.load_detector()


def test_the_first_faces_and_those_of_a_traced_network_are_answered_alike(coloured_model):
    network = coloured_model("A")
    first, traced, many = (
        estimate.estimate_faces(network, faces)["age_years"]
        for faces in (FACES, FACES, np.repeat(FACES, 5, axis=0))
    )
    np.testing.assert_allclose(traced, first, atol=1e-4)
    np.testing.assert_allclose(many, np.repeat(first, 5), atol=1e-4)


def test_each_photo_gets_a_table_of_its_own_faces(detector, model, coloured_model):
    photos = [drawn(13, 16), PIL.Image.new("RGB", (300, 200)), drawn(19)]
    tables = estimate.answer(detector, {"A": model, "B": coloured_model("B", None)}, photos)
    assert [table["face"].tolist() for table in tables] == [[1, 1, 2, 2], [], [1, 1]]
    assert all(tuple(table.columns) == estimate.COLUMNS for table in tables)
    first = tables[0]
    assert first["model"].tolist() == ["A", "B"] * 2
    assert first["right"].iloc[0] < 450 < first["left"].iloc[2]
    (face, _) = detection.find_faces(detector, photos[0])
    alone = estimate.estimate_faces(model, detection.cut_out(photos[0], face.landmarks)[None])
    np.testing.assert_allclose(first["age_years"].iloc[0], alone["age_years"].iloc[0], atol=1e-3)
    json.dumps(first.to_dict("records"))
    assert [len(table) for table in estimate.answer(detector, {"A": model}, photos[1:2])] == [0]


def test_a_marked_photo_shows_box_and_text_and_leaves_the_photo_alone(detector, model):
    photo = drawn(13, 16).resize((3600, 1600))
    before = photo.tobytes()
    (table,) = estimate.answer(detector, {"A": model, "B": model}, [photo])
    marked = output.annotate(photo, table)
    assert photo.tobytes() == before and marked.size == (1600, 711)
    changed = np.abs(np.asarray(marked.resize((900, 400))).astype(int) - drawn(13, 16)).max(2) > 60
    for _, face in table.groupby("face"):
        left, right = face.iloc[0][["left", "right"]] / 4
        assert changed[:, int(left) : int(right)].sum() > 200
    plain = output.annotate(photo, table[:0])
    assert np.abs(np.asarray(plain).astype(int) - photo.resize(plain.size)).mean() < 3


@pytest.mark.parametrize("name", ["x" * 249 + ".jpg", "é" * 124 + ".jpg", "a\n" * 120 + ".jpg"])
def test_a_photo_with_a_long_name_is_marked_under_a_shorter_one(detector, model, tmp_path, name):
    path = saved(tmp_path, name, PIL.Image.new("RGB", (90, 60)))
    [record] = output.answers(detector, {"A": model}, [path], tmp_path)
    assert (tmp_path / record["marked"]).stat().st_size > 0
    assert record["marked"].startswith(f"0001_{utkface.printable(name)[:90]}")


def test_a_released_model_answers_for_a_photo(detector, tmp_path):
    drawn(13, 16).save(tmp_path / "party.png")
    released = estimate.load_release(MODELS / "age_gender_A.h5")
    table = estimate.predict(tmp_path / "party.png", {"A": released})
    assert table["face"].tolist() == [1, 2] and table["model"].tolist() == ["A", "A"]
    assert (table["age_low"] < table["age_years"]).all()
    (expected,) = estimate.answer(detector, {"A": released}, [drawn(13, 16)])
    np.testing.assert_allclose(table["age_years"], expected["age_years"], atol=1e-3)


def test_a_release_that_is_damaged_or_has_no_record_is_not_loaded(tmp_path):
    path = tmp_path / "age_gender_A.h5"
    path.write_bytes((MODELS / path.name).read_bytes()[:-1000])
    with pytest.raises(FileNotFoundError, match="age_gender_A.json"):
        estimate.load_release(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="no record of a release"):
        estimate.load_release(path)
    path.with_suffix(".json").write_text((MODELS / "age_gender_A.json").read_text())
    with pytest.raises(export.ExportError, match="no readable Keras .h5 file"):
        estimate.load_release(path)


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.webp", "p.avif", "p.bmp", "p.tiff", "p.gif"])
def test_photos_of_many_kinds_are_read(tmp_path, name):
    photo = estimate.read_photo(saved(tmp_path, name, drawn(13)))
    assert photo.mode == "RGB" and photo.size == (900, 400)
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(drawn(13))).mean() < 8


def test_photos_of_telephones_are_read(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    photo = estimate.read_photo(tmp_path / "IMG_1.HEIC")
    assert photo.size == (48, 32)
    left, right = (np.asarray(photo)[16, column].astype(int) for column in (8, 40))
    assert left[0] > left[2] + 100 and right[2] > right[0] + 100


def test_a_photo_taken_with_the_camera_turned_is_upright(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    path = saved(tmp_path, "p.jpg", drawn(13).rotate(90, expand=True), exif=exif, quality=95)
    photo = estimate.read_photo(path)
    assert photo.size == (900, 400)
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(drawn(13))).mean() < 8


def test_what_is_no_photo_is_rejected_with_the_reason(tmp_path):
    whole = saved(tmp_path, "whole.jpg", drawn(13)).read_bytes()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    PIL.Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "picture.ppm")
    for name, content in {
        "torn.jpg": whole[:3000],
        "torn.heic": HEIC[:-20],
        "empty.jpg": b"",
        "notes.txt": b"no picture",
    }.items():
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "heavy.jpg", "wb") as file:
        file.truncate(estimate.MOST_BYTES + 1)
    for name, reason in {
        "torn.jpg": Reason.DAMAGED,
        "torn.heic": Reason.DAMAGED,
        "empty.jpg": Reason.EMPTY,
        "notes.txt": Reason.NOT_AN_IMAGE,
        "picture.ppm": Reason.WRONG_CONTENT,
        "huge.png": Reason.TOO_LARGE,
        "heavy.jpg": Reason.TOO_LARGE,
        "pipe.jpg": Reason.NOT_A_FILE,
        "folder": Reason.NOT_A_FILE,
        "nowhere.jpg": Reason.NOT_A_FILE,
        "x" * 300: Reason.NOT_A_FILE,
    }.items():
        with pytest.raises(utkface.Rejection) as error:
            estimate.read_photo(tmp_path / name)
        assert error.value.reason == reason and error.value.detail or name == "empty.jpg", name


def test_folders_are_listed_sorted_with_all_below_and_without_what_is_hidden(tmp_path):
    for name in ("b.jpg", "a/c.jpg", ".hidden.jpg", ".trash/d.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = estimate.list_photos([tmp_path / "nowhere.jpg", tmp_path])
    names = [str(path.relative_to(tmp_path)) for path in listed]
    assert names == ["nowhere.jpg", "b.jpg", "a/c.jpg", "a/notes.txt"]
