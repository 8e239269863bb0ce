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


@pytest.mark.parametrize("seed", [3, 4])
def test_the_seed_decides_every_byte(folder, tmp_path, seed):
    generated_faces.write_faces(tmp_path / "faces", 10, seed)
    again = {path.read_bytes() for path in tmp_path.glob("faces/*.jpg")}
    common = again & {path.read_bytes() for path in folder.glob("*.jpg")}
    assert len(again) == 10 and common == (again if seed == 3 else set())


def test_names_and_labels_are_those_of_utkface(folder, names):
    assert len(names) == COUNT
    assert (folder / utkface.GENERATED_MARKER).read_bytes() == b""
    ages, genders, races = labels(names)
    assert ages.min() >= 1 and ages.max() <= 100
    assert np.histogram(ages, [1, 10, 20, 30, 45, 60, 101])[0].min() >= 0.04 * COUNT
    assert set(genders) == {0, 1} and set(races) == set(range(5))
    assert len({name.split("_")[3] for name in names}) == COUNT


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
