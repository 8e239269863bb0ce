"""Folds are as leak-free as the split that they divide anew."""

import numpy as np
import pandas as pd
import pytest

from agegender.data import pixels
from tuning import trials


def faces_of(count=600, seed=0):
    """A manifest with twins, some of whose labels disagree, none of these in validation or test."""
    generator = np.random.default_rng(seed)
    manifest = pd.DataFrame(
        {
            "age_years": generator.integers(1, 90, count),
            "gender": generator.integers(0, 2, count),
            "group": np.where(generator.random(count) < 0.2, np.arange(count) // 4, 0)
            + np.arange(count) * 1000,
        }
    )
    twins = np.arange(0, count - 1, 15)
    manifest.loc[twins + 1, "group"] = manifest.loc[twins, "group"].to_numpy()
    agreeing = twins[::2]
    manifest.loc[agreeing + 1, ["age_years", "gender"]] = manifest.loc[
        agreeing, ["age_years", "gender"]
    ].to_numpy()
    labels = manifest.groupby("group")[["age_years", "gender"]].transform("nunique")
    conflicting = (labels > 1).any(axis=1)
    draw = manifest["group"].map(
        dict(zip(manifest["group"].unique(), generator.random(count), strict=False))
    )
    split = np.select(
        [conflicting, draw < 0.7, draw < 0.8], ["train", "train", "validation"], "test"
    )
    manifest["split"] = split
    return pixels.Faces(None, manifest, None, "digest", "generated", {}), conflicting


def test_the_first_fold_is_the_manifests_own_split():
    faces, _ = faces_of()
    [(train, validation)] = trials.folds(faces, 1, seed=0)
    assert np.array_equal(train, faces.rows("train"))
    assert np.array_equal(validation, faces.rows("validation"))


def test_folds_divide_training_and_validation_without_twins_or_test_faces():
    faces, conflicting = faces_of()
    groups = faces.manifest["group"].to_numpy()
    both = faces.rows("train", "validation")
    validations = []
    for train, validation in trials.folds(faces, 4, seed=0):
        assert np.array_equal(np.sort(np.concatenate([train, validation])), both)
        assert not set(groups[train]) & set(groups[validation])
        assert not conflicting.to_numpy()[validation].any()
        validations.append(validation)
    later = np.concatenate(validations[1:])
    assert len(np.unique(later)) == len(later) > 0


def test_same_seed_same_folds_another_seed_others():
    faces, _ = faces_of()
    first, again, other = (trials.folds(faces, 3, seed)[2][1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("phases", "scores", "kept"),
    [
        (["head", "fine-tuning"], [0.5, 0.4], True),
        (["head", "fine-tuning"], [0.4, 0.4], False),
        (["head", "head"], [0.5, 0.4], None),
        (["head", "fine-tuning"], None, True),  # a release, without validation
        (None, [0.5, 0.4], None),  # network A
    ],
)
def test_it_is_known_whether_fine_tuning_was_kept(phases, scores, kept):
    history = pd.DataFrame({"epoch": [0, 1]})
    if phases:
        history["phase"] = phases
    if scores:
        history["val_score"] = scores
    assert trials.Trained(None, history).fine_tuning_kept is kept
