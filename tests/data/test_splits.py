"""Groups and splits on synthetic manifests; the committed test names against the real names."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from agegender.data import pixels, splits, utkface

DATA = Path(os.environ.get("AGEGENDER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def faces(count: int = 900, seed: int = 0) -> pd.DataFrame:
    """A manifest with groups of one to three, a quarter of the larger ones with other labels."""
    generator = np.random.default_rng(seed)
    group = np.sort(generator.integers(0, int(count * 0.8), count))
    ages = generator.integers(1, 90, count)[group]
    ages += (generator.random(count) < 0.1).astype(ages.dtype)
    genders = generator.integers(0, 2, count)[group]
    names = [f"{a}_{g}_0_{i}.jpg" for i, (a, g) in enumerate(zip(ages, genders, strict=True))]
    return pd.DataFrame({"name": names, "age_years": ages, "gender": genders, "group": group})


def smooth(generator) -> np.ndarray:
    """A picture unlike any other: uint8 (128, 128, 3)."""
    small = PIL.Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((128, 128), PIL.Image.Resampling.BICUBIC))


def test_copies_of_a_photograph_form_one_group(monkeypatch):
    generator = np.random.default_rng(0)
    pictures = [smooth(generator) for _ in range(30)]
    stream = io.BytesIO()
    PIL.Image.fromarray(pictures[0]).save(stream, "JPEG", quality=30)
    again = np.asarray(PIL.Image.open(stream))
    smaller = np.asarray(PIL.Image.fromarray(pictures[1]).resize((64, 64)).resize((128, 128)))
    grey = np.asarray(PIL.Image.fromarray(pictures[2]).convert("L").convert("RGB"))
    flat = np.full((128, 128, 3), 90, np.uint8)
    pictures += [again, smaller, grey, flat, flat, flat + 20]
    thumbnails = np.stack([splits.thumbnail(picture) for picture in pictures])
    checksums = [*map(str, range(33)), "flat", "flat", "other"]
    groups = splits.near_duplicate_groups(thumbnails, checksums)
    assert groups.tolist() == [*range(30), 0, 1, 2, 30, 30, 31]
    monkeypatch.setattr(splits, "BLOCK_ROWS", 7)
    assert np.array_equal(splits.near_duplicate_groups(thumbnails, checksums), groups)


def test_groups_reach_over_a_common_neighbour():
    angles = np.float32([0.0, 0.15, 0.30])
    thumbnails = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert thumbnails[0] @ thumbnails[2] < splits.SAME_PHOTOGRAPH_CORRELATION
    assert splits.near_duplicate_groups(thumbnails, ["a", "b", "c"]).tolist() == [0, 0, 0]


def test_equal_marks_are_copies_over_every_column():
    thumbnails = np.eye(6, dtype=np.float32)
    checksums, keys = list("aabcde"), list("uvvxyx")
    groups = splits.near_duplicate_groups(thumbnails, checksums, keys)
    assert groups.tolist() == [0, 0, 0, 1, 2, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_split_is_complete_leak_free_and_stratified(seed):
    manifest, again, other = (splits.assign_splits(faces(), seed=s) for s in (seed, seed, 3))
    assert manifest.equals(again) and not manifest.equals(other)
    splits.check_split(manifest)
    shares = manifest["split"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.02)
    assert shares["validation"] == pytest.approx(0.1, abs=0.02)
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert set(manifest["split"][splits.conflicting(manifest)]) == {"train"}
    test = manifest["split"] == "test"
    clean = manifest[~splits.conflicting(manifest)]
    bands = clean.groupby([clean["age_years"] // 10, "gender"])["split"]
    in_test = bands.agg(lambda split: (split == "test").sum())
    assert (in_test - bands.size() * test.sum() / len(clean)).abs().max() < 6


def test_listed_faces_are_the_test_whatever_the_seed_and_their_twins_are_excluded():
    manifest = faces()
    sizes = manifest["group"].value_counts()
    pair = manifest[manifest["group"].isin(sizes[sizes == 2].index[:20])]
    listed = pair.drop_duplicates("group")["name"]
    keys = frozenset(map(utkface.face_key, listed))
    for seed in (0, 1):
        split = splits.assign_splits(manifest, seed=seed, test_names=keys)
        assert set(split["name"][split["split"] == "test"]) == set(listed)
        twins = split[split["split"] == "excluded"]
        assert set(twins["name"]) == set(pair["name"]) - set(listed)
        assert set(twins["split_reason"]) == {"near-duplicate of a test face"}
        used = split[split["split"] != "excluded"]
        assert used.groupby("group")["split"].nunique().max() == 1


@pytest.mark.parametrize("column", ["age_years", "gender"])
def test_a_split_of_sorted_faces_is_caught(column):
    manifest = faces().sort_values(column, kind="stable").assign(group=range(900))
    manifest["split"] = np.repeat(["train", "validation", "test"], [630, 90, 180])
    with pytest.raises(ValueError, match="shuffle before splitting"):
        splits.check_split(manifest)
    manifest["split"] = manifest["split"].sample(frac=1, random_state=0).to_numpy()
    splits.check_split(manifest)


def test_leaks_noise_and_empty_splits_are_caught():
    manifest = splits.assign_splits(faces(), seed=0)
    sizes = manifest["group"].value_counts()
    clean = manifest["group"].isin(sizes[sizes > 1].index) & ~splits.conflicting(manifest)
    leak = manifest.copy()
    leak.loc[leak.index[clean & (leak["split"] == "train")][0], "split"] = "validation"
    with pytest.raises(ValueError, match="lie in several splits"):
        splits.check_split(leak)
    noisy = manifest.copy()
    group = noisy["group"][splits.conflicting(noisy)].iloc[0]
    noisy.loc[noisy["group"] == group, "split"] = "test"
    with pytest.raises(ValueError, match="different labels"):
        splits.check_split(noisy)
    with pytest.raises(ValueError, match="empty split"):
        splits.check_split(manifest.assign(split="train"))


def test_the_first_fold_is_the_manifests_own_split():
    manifest = splits.assign_splits(faces(), seed=0)
    [(train, validation)] = splits.folds(manifest, 1, seed=0)
    assert train.tolist() == np.flatnonzero(manifest["split"] == "train").tolist()
    assert validation.tolist() == np.flatnonzero(manifest["split"] == "validation").tolist()


def test_folds_divide_training_and_validation_without_twins_or_test_faces():
    manifest = splits.assign_splits(faces(), seed=0)
    group, noisy = manifest["group"].to_numpy(), splits.conflicting(manifest).to_numpy()
    both = np.flatnonzero(manifest["split"].isin(["train", "validation"]))
    pairs = splits.folds(manifest, 4, seed=0)
    assert len(pairs) == 4
    for train, validation in pairs:
        assert np.array_equal(np.sort(np.concatenate([train, validation])), both)
        assert np.array_equal(train, np.sort(train)) and np.array_equal(
            validation, np.sort(validation)
        )
        assert not set(group[train]) & set(group[validation])
        assert not noisy[validation].any()
    later = np.concatenate([validation for _, validation in pairs[1:]])
    assert len(np.unique(later)) == len(later) > 0
    again, other = (splits.folds(manifest, 4, seed)[3][1] for seed in (0, 1))
    assert np.array_equal(again, pairs[3][1])
    assert not np.array_equal(other, pairs[3][1])


def test_floors_are_the_errors_of_the_median_and_the_majority_in_training():
    manifest = faces(5).assign(
        age_years=[10, 20, 60, 1, 99], gender=[0, 0, 1, 1, 1], split=["train"] * 3 + ["test"] * 2
    )
    floors = splits.training_floors(manifest)
    assert floors.age_mae == pytest.approx(50 / 3)
    assert floors.gender_error == pytest.approx(1 / 3)


def test_committed_names_are_sorted_keys():
    lines = splits.TEST_NAMES_FILE.read_text().splitlines()
    keys = [line for line in lines if not line.startswith("#")]
    assert keys == sorted(set(keys))
    assert frozenset(keys) == splits.read_test_names()
    assert all(utkface.face_key(f"{key}.jpg") == key for key in keys)


def choose_test_names(manifest, part, *, seed, fraction):
    """Choose the fixed test faces by age and gender: the rule that made the committed list.

    manifest: of the largest source there is, with its groups.
    part: file names of a smaller source inside it (the 5,000). The same fraction of these is
    chosen, and a group with any member among them is drawn with them.
    """
    generator = np.random.default_rng(seed)
    usable = ~splits.conflicting(manifest)
    named = manifest["name"].isin(part)
    touched = named.groupby(manifest["group"]).transform("any")
    both = touched & usable
    share = fraction * named.sum() / (named & usable).sum()
    chosen = splits.draw(manifest, both, share * both.sum(), generator)
    rest = fraction * len(manifest) - chosen.sum()
    chosen |= splits.draw(manifest, ~touched & usable, rest, generator)
    return {utkface.face_key(name) for name in manifest["name"][chosen]}


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "UTKFace.tar.gz").exists(), reason="needs UTKFace.tar.gz")
def test_the_committed_names_are_what_their_rule_chooses(tmp_path):
    manifest = pixels.open_faces(pixels.prepare(DATA / "UTKFace.tar.gz", tmp_path)).manifest
    part = set(os.listdir(DATA / "train_val"))
    assert choose_test_names(manifest, part, seed=0, fraction=0.2) == splits.read_test_names()
