"""The generated faces: the same from the same seed, named rightly, telling of age and gender."""

import numpy as np
import PIL.Image
import pytest

from agegender.data import generated_faces, utkface

COUNT = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "faces"
    generated_faces.write_faces(folder, COUNT, seed=3)
    return folder


@pytest.fixture(scope="module")
def names(folder):
    return sorted(path.name for path in folder.glob("*.jpg"))


def labels(names):
    """Return age in years, gender and race as an integer array (3, N)."""
    return np.array([utkface.parse_name(name)[:3] for name in names]).T


def drawn(age_years, gender, count=40):
    """Return `count` faces as floats (count, 128, 128, 3)."""
    faces = [
        generated_faces.draw_face(age_years, gender, index % 5, np.random.default_rng(index))
        for index in range(count)
    ]
    return np.stack(faces).astype(float)


def test_the_same_seed_writes_the_same_bytes(folder, names, tmp_path):
    generated_faces.write_faces(tmp_path, 10, seed=3)
    again = {path.name: path.read_bytes() for path in tmp_path.glob("*.jpg")}
    assert len(again) == 10
    assert again == {name: (folder / name).read_bytes() for name in again}


def test_another_seed_draws_other_faces(folder, names, tmp_path):
    generated_faces.write_faces(tmp_path, 10, seed=4)
    pictures = {(folder / name).read_bytes() for name in names}
    assert not pictures & {path.read_bytes() for path in tmp_path.glob("*.jpg")}


def test_names_and_labels_are_those_of_utkface(folder, names):
    assert len(names) == COUNT
    assert (folder / utkface.GENERATED_MARKER).read_bytes() == b""
    ages, genders, races = labels(names)
    assert ages.min() >= 1 and ages.max() <= 100
    assert set(genders) == {0, 1} and set(races) == set(range(5))
    assert len({name.split("_")[3] for name in names}) == COUNT


def test_ages_cover_every_band(names):
    counts = np.histogram(labels(names)[0], [1, 10, 20, 30, 45, 60, 101])[0]
    assert counts.min() >= 0.04 * COUNT


def test_pictures_are_rgb_of_128_pixels(folder, names):
    for name in names[:20]:
        with PIL.Image.open(folder / name) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (128, 128))


def test_young_and_old_women_and_men_look_different():
    young_man, old_man, woman = drawn(25, 0), drawn(80, 0), drawn(25, 1)
    assert (young_man.std((0, 1, 2)) > 10).all()
    # The scalp greys: the top of the head is lighter in the old.
    scalp = np.s_[:, 20:36, 54:74]
    assert old_man[scalp].mean() > young_man[scalp].mean() + 25
    # Hair falls beside the cheeks of women: darker there than the rooms behind men.
    beside = np.s_[:, 70:100, 18:28]
    assert woman[beside].mean() < young_man[beside].mean() - 10


def test_the_size_is_a_choice():
    face = generated_faces.draw_face(30, 1, 2, np.random.default_rng(0), image_size_pixels=64)
    assert face.shape == (64, 64, 3) and face.dtype == np.uint8


def test_few_faces_have_a_near_twin(folder, names):
    grey = [PIL.Image.open(folder / name).convert("L").resize((24, 24)) for name in names]
    flat = np.stack([np.asarray(picture, float).ravel() for picture in grey])
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    correlation = flat @ flat.T - 2 * np.eye(COUNT)
    assert (correlation.max(1) > 0.98).mean() < 0.02


@pytest.mark.parametrize("age_years, gender, race", [(0, 0, 0), (117, 0, 0), (9, 2, 0), (9, 0, 5)])
def test_labels_out_of_range_are_refused(age_years, gender, race):
    with pytest.raises(ValueError, match="expected an age of 1 to 116"):
        generated_faces.draw_face(age_years, gender, race, np.random.default_rng(0))


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "26_1_2_20170116174525125.jpg.chip.jpg").touch()
    with pytest.raises(FileExistsError, match="empty folder"):
        generated_faces.write_faces(tmp_path, 1)
    assert not (tmp_path / utkface.GENERATED_MARKER).exists()
