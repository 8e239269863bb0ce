"""Groups and splits on synthetic manifests; the committed test names against the real names."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import scipy.stats

from agegender.data import splits, utkface

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
    manifest = splits.assign_splits(faces(), seed=seed)
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


def test_seed_decides_the_split():
    first, again, other = (
        splits.assign_splits(faces(), seed=seed)["split"].tolist() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


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


def test_age_sorted_split_is_caught():
    manifest = faces().sort_values("name").assign(group=range(900))
    manifest["split"] = np.repeat(["train", "validation", "test"], [630, 90, 180])
    with pytest.raises(ValueError, match="shuffle before splitting"):
        splits.check_split(manifest)
    manifest["split"] = manifest["split"].sample(frac=1, random_state=0).to_numpy()
    splits.check_split(manifest)


def test_split_by_gender_is_caught():
    manifest = faces().assign(group=range(900)).sort_values("gender", kind="stable")
    manifest["split"] = np.repeat(["train", "validation", "test"], [630, 90, 180])
    with pytest.raises(ValueError, match="female share"):
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
    with pytest.raises(ValueError, match="other labels"):
        splits.check_split(noisy)
    with pytest.raises(ValueError, match="empty split"):
        splits.check_split(manifest.assign(split="train"))


def test_chosen_names_are_whole_clean_groups_and_a_fifth_of_both_sources():
    manifest = faces(4000)
    part = set(manifest["name"].sample(1000, random_state=0))
    keys = splits.choose_test_names(manifest, part)
    assert keys == sorted(keys) == splits.choose_test_names(manifest, part)
    chosen = manifest["name"].map(utkface.face_key).isin(keys)
    assert chosen.groupby(manifest["group"]).nunique().max() == 1
    assert not (chosen & splits.conflicting(manifest)).any()
    assert chosen.mean() == pytest.approx(0.2, abs=0.005)
    assert chosen[manifest["name"].isin(part)].mean() == pytest.approx(0.2, abs=0.02)


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


@pytest.mark.skipif(not (DATA / "train_val").is_dir(), reason="needs the real faces: train_val")
def test_committed_names_are_a_fair_fifth_of_the_5000():
    names = pd.Series(sorted(os.listdir(DATA / "train_val")))
    labels = pd.DataFrame([utkface.parse_name(name) for name in names])
    listed = names.map(utkface.face_key).isin(splits.read_test_names())
    assert listed.mean() == pytest.approx(0.2, abs=0.002)
    assert labels["gender"][listed].mean() == pytest.approx(labels["gender"].mean(), abs=0.01)
    ages = scipy.stats.ks_2samp(labels["age_years"][listed], labels["age_years"][~listed])
    assert ages.pvalue > 0.5
