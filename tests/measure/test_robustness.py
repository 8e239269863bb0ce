import numpy as np
import pytest

from agegender.measure import robustness


@pytest.fixture
def images():
    """Return smooth coloured pictures: what a corruption does to them can be seen."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 250, (6, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("name", robustness.CORRUPTIONS)
def test_a_stronger_corruption_changes_more_and_the_same_seed_the_same(images, name):
    corrupt, strengths, _ = robustness.CORRUPTIONS[name]
    before = images.copy()
    corrupted = [corrupt(images, strength, 3) for strength in strengths]
    changes = [np.abs(each.astype(float) - images).mean() for each in corrupted]
    assert all(each.shape == images.shape and each.dtype == np.uint8 for each in corrupted)
    assert changes[0] > 0 and np.all(np.diff(changes) > 0)
    assert (images == before).all()
    assert (corrupt(images, strengths[-1], 3) == corrupted[-1]).all()


def test_corruptions_do_what_their_names_say(images):
    size = images.shape[1]
    noisy = robustness.noise(np.full_like(images, 128), 20, 0)
    assert noisy.std() == pytest.approx(20, rel=0.05)
    assert (noisy[0] != noisy[1]).any()
    assert robustness.darkness(images, 0.5, 0).mean() == pytest.approx(images.mean() / 2, abs=0.5)
    covered = (robustness.occlusion(np.zeros_like(images), 0.25, 0) == robustness.GREY).all(axis=3)
    assert (covered.sum(axis=(1, 2)) == (size // 4) ** 2).all()
    for before, after in zip(images, robustness.shift(images, 0.125, 0), strict=True):
        left, right = np.roll(before, -8, axis=1), np.roll(before, 8, axis=1)
        left[:, -8:], right[:, :8] = before[:, -1:], before[:, :1]
        assert (after == left).all() or (after == right).all()
    # A blur has no business with colours: it goes along height and width alone.
    red = np.zeros_like(images)
    red[..., 0] = 200
    assert (robustness.blur(red, 4, 0) == red).all()


def test_curves_begin_clean_and_fall_where_the_predictor_looks(images):
    ages = np.array([20, 30, 40, 50, 60, 70])
    clean_means = images.mean(axis=(1, 2, 3))
    seen = []

    def predict(pictures):
        """Know the age as long as the picture is as bright as it was."""
        seen.append(len(pictures))
        off = clean_means - pictures.mean(axis=(1, 2, 3))
        return ages + off, np.where(off > 100, 0.1, 0.9)

    found = robustness.curves(predict, images, ages, np.ones(6), seed=0)
    strengths = sum(len(each) for _, each, _ in robustness.CORRUPTIONS.values())
    assert len(found) == len(seen) == 1 + strengths and (found.n == 6).all()
    columns = ["corruption", "strength", "mae", "gender_accuracy"]
    assert found.iloc[0][columns].tolist() == ["clean", 0, 0, 1]
    dark = found[found.corruption == "darkness"]
    assert (np.diff(dark.mae) > 0).all() and dark.gender_accuracy.iloc[-1] < 0.5
    assert found[found.corruption == "blur"].mae.max() < 3
    assert ((found.mae_low <= found.mae) & (found.mae <= found.mae_high)).all()


def test_an_occlusion_map_peaks_where_the_predictor_looks():
    image = np.full((128, 128, 3), 250, np.uint8)
    calls = []

    def predict(pictures):
        calls.append(len(pictures))
        age = pictures[:, 36:44, 84:92].mean(axis=(1, 2, 3))
        return age, 1 - pictures[:, 100:108, 20:28].mean(axis=(1, 2, 3)) / 250

    found = robustness.occlusion_map(predict, image)
    centres = found["centres_pixels"]
    assert calls == [1 + 7 * 7] and centres.tolist() == [16, 32, 48, 64, 80, 96, 112]
    # The patches over the middle of what is looked at, at (40, 88) and (104, 24).
    for name, change, middle in (
        ("age_years", robustness.GREY - 250, (40, 88)),
        ("gender_probability", 1 - robustness.GREY / 250, (104, 24)),
    ):
        rows, columns = np.nonzero(np.isclose(found[name], change))
        assert (found[name] != 0).sum() == len(rows) == 4
        assert (centres[rows].mean(), centres[columns].mean()) == middle
