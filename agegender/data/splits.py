"""A leak-free, stratified split: groups of copies, UTKFace's fixed test faces, folds and a check.

UTKFace contains many photos more than once (re-encoded, resized, grey, whole and cropped). All
copies of a photo form one group, and no group lies in two splits. A group with conflicting labels
is used for training only; elsewhere it would measure label noise instead of the model.
"""

import itertools
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import scipy.sparse
import scipy.stats

from agegender import disk
from agegender.data import utkface
from agegender.measure import evaluation

# All 40 pairs above it that we checked were copies; dHash would chain thousands of aligned faces.
SAME_PHOTOGRAPH_CORRELATION = 0.98
THUMBNAIL_PIXELS = 24
BLOCK_ROWS = 1024  # compared with all others at once
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2  # of all faces
SPLITS = ("train", "validation", "test", "excluded")
TEST_NAMES_FILE = Path(__file__).with_name("utkface_test_names.txt")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Shrink uint8 (S, S, 3) to 24x24 grey: float32 (576,) of mean 0 and norm 1 (0 if flat)."""
    grey = PIL.Image.fromarray(pixels).convert("L")
    side = (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
    values = np.asarray(grey.resize(side, PIL.Image.Resampling.BOX), np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def near_duplicate_groups(thumbnails: np.ndarray, *marks: Sequence) -> np.ndarray:
    """Return each photo's number, int64 (N,), from 0 in the order of the rows; copies share one.

    thumbnails: float32 (N, 576) from `thumbnail`; rows that correlate above 0.98 are copies.
    marks: columns of N values, such as checksums; rows with equal values are copies.
    """
    count = len(thumbnails)
    pairs = []
    for mark in marks:
        _, first, same = np.unique(np.asarray(mark), return_index=True, return_inverse=True)
        pairs.append((np.arange(count), first[same]))
    for start in range(0, count, BLOCK_ROWS):
        correlation = thumbnails[start : start + BLOCK_ROWS] @ thumbnails[start:].T
        left, right = np.nonzero(correlation > SAME_PHOTOGRAPH_CORRELATION)
        pairs.append((left + start, right + start))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = scipy.sparse.coo_array((np.ones(len(left), bool), (left, right)), (count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def conflicting(manifest: pd.DataFrame) -> pd.Series:
    """Return which faces are in a group with different ages or genders: bool, one per row."""
    groups = manifest.groupby("group")[["age_years", "gender"]]
    return (groups.transform("min") != groups.transform("max")).any(axis=1)


def read_test_names() -> frozenset[str]:
    """Return the `utkface.face_key` of each of UTKFace's committed test faces."""
    lines = TEST_NAMES_FILE.read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def test_names_checksum() -> str:
    """Return the SHA-256 of the committed list of test faces."""
    return disk.checksum(TEST_NAMES_FILE)


def assign_splits(
    manifest: pd.DataFrame, *, seed: int, test_names: Set[str] = frozenset()
) -> pd.DataFrame:
    """Return the manifest with the columns `split` and `split_reason`.

    manifest: columns name, age_years, gender, group.
    seed: for drawing whole groups without conflicting labels, stratified by age and gender.
    test_names: keys of fixed test faces. If any is present, these are the test, none is drawn,
        and the other faces of their groups are excluded.
    """
    generator = np.random.default_rng(seed)
    clean = ~conflicting(manifest)
    test = manifest["name"].map(utkface.face_key).isin(test_names)
    if not test.any():
        test = draw(manifest, clean, TEST_SHARE * len(manifest), generator)
    twin = manifest["group"].isin(manifest["group"][test]) & ~test
    free = clean & ~test & ~twin
    validation = draw(manifest, free, VALIDATION_SHARE * len(manifest), generator)
    split = np.select([test, twin, validation], ["test", "excluded", "validation"], "train")
    reason = np.where(twin, "near-duplicate of a test face", "")
    return manifest.assign(split=split, split_reason=reason)


def check_split(manifest: pd.DataFrame) -> None:
    """Raise ValueError unless the split is complete, free of leaks and looks like a random draw.

    The last check is a two-sample Kolmogorov-Smirnov test of the ages and a chi-square test of the
    genders, training against validation and test; p < 0.0001 fails. An unshuffled split of files
    sorted by name, and so by age, fails by far.
    """
    used = manifest[manifest["split"] != "excluded"]
    sizes = used["split"].value_counts().reindex(SPLITS[:3], fill_value=0)
    if sizes.min() == 0:
        raise ValueError(
            f"empty split in {sizes.to_dict()} of {len(manifest)} faces: expected faces in each; "
            "give more pictures"
        )
    leaks = used[used.groupby("group")["split"].transform("nunique") > 1]
    if len(leaks):
        raise ValueError(f"copies of {leaks['name'].iloc[0]} lie in several splits: expected one")
    noisy = used[conflicting(used) & (used["split"] != "train")]
    if len(noisy):
        name = noisy["name"].iloc[0]
        raise ValueError(f"copies of {name} have different labels: expected them in training only")
    train = used[used["split"] == "train"]
    for split in SPLITS[1:3]:
        part = used[used["split"] == split]
        ages = scipy.stats.ks_2samp(train["age_years"], part["age_years"], method="asymp")
        genders = pd.crosstab(used["gender"], used["split"])[["train", split]]
        # With only one gender there is nothing to compare.
        by_gender = scipy.stats.chi2_contingency(genders).pvalue if len(genders) > 1 else 1.0
        if min(ages.pvalue, by_gender) < 1e-4:
            raise ValueError(
                f"training and {split} are not random draws from the same faces (median age "
                f"{train['age_years'].median():g} and {part['age_years'].median():g}, female share "
                f"{train['gender'].mean():.2f} and {part['gender'].mean():.2f}; "
                f"p = {ages.pvalue:.0e} and {by_gender:.0e}): shuffle before splitting"
            )


def draw(
    manifest: pd.DataFrame, eligible: pd.Series, count: float, generator: np.random.Generator
) -> pd.Series:
    """Draw about `count` of the eligible faces in whole groups: bool, one per row.

    Systematic sampling of the groups in order of gender and age (equals shuffled, random start)
    stratifies by every age and gender at once, including rare ones.
    """
    groups = manifest[eligible].groupby("group")[["gender", "age_years"]].first()
    shuffled = groups.iloc[generator.permutation(len(groups))]
    ordered = shuffled.sort_values(["gender", "age_years"], kind="stable")
    share = min(count / max(1, eligible.sum()), 1.0)
    steps = np.floor(np.arange(len(ordered) + 1) * share + generator.random())
    return manifest["group"].isin(ordered.index[np.diff(steps) > 0]) & eligible


def folds(manifest: pd.DataFrame, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `count` pairs of training and validation rows: the manifest's own, then others.

    The others split the same faces again in the same proportion, stratified by age and gender. Each
    group stays in one part; groups with conflicting labels stay in training.
    """
    train, validation = (np.flatnonzero(manifest["split"] == split) for split in SPLITS[:2])
    pairs = [(train, validation)]
    if count == 1:
        return pairs
    from sklearn.model_selection import StratifiedGroupKFold  # half a second that most callers save

    rows = np.sort(np.concatenate([train, validation]))
    table = manifest.iloc[rows]
    noisy = conflicting(table).to_numpy()
    strata = np.minimum(table["age_years"] // 10, 8) * 2 + table["gender"]
    parts = max(round(len(rows) / len(validation)), count)
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    for _, chosen in itertools.islice(splitter.split(rows, strata, table["group"]), count - 1):
        held_out = np.isin(np.arange(len(rows)), chosen) & ~noisy
        pairs.append((rows[~held_out], rows[held_out]))
    return pairs


def training_floors(manifest: pd.DataFrame) -> evaluation.Floors:
    """Return the trivial predictor's errors on the training split; they give a `val_score` of 1."""
    train = manifest[manifest["split"] == "train"]
    return evaluation.floors(
        train["age_years"].to_numpy(np.float32), train["gender"].to_numpy(np.float32)
    )
