"""Photos of drawn faces to tables of estimates."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from agegender.networks import inspection
from agegender.photos import detection, estimate

MODELS = pathlib.Path(__file__).parents[2] / "models"


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


def test_where_no_confidence_suffices_no_gender_is_sure(coloured_model):
    assert not estimate.estimate_faces(coloured_model("A", None), FACES)["gender_sure"].any()


def test_the_first_faces_and_those_of_a_traced_network_are_answered_alike(coloured_model):
    network = coloured_model("A")
    first, traced, many = (
        estimate.estimate_faces(network, faces)["age_years"]
        for faces in (FACES, FACES, np.repeat(FACES, 5, axis=0))
    )
    np.testing.assert_allclose(traced, first, atol=1e-4)
    np.testing.assert_allclose(many, np.repeat(first, 5), atol=1e-4)


def test_each_photo_gets_a_table_of_its_own_faces(detector, model, drawn, coloured_model):
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
    assert (first["doubtful"] == (first["score"] < estimate.DOUBTFUL_SCORE)).all()
    assert [len(table) for table in estimate.answer(detector, {"A": model}, photos[1:2])] == [0]


def test_a_released_model_answers_for_a_photo(detector, drawn, tmp_path):
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
    with pytest.raises(inspection.ExportError, match="not a readable Keras .h5 file"):
        estimate.load_release(path)
