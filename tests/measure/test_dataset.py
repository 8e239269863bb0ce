"""What is counted in prepared faces is what is in them."""

import numpy as np
import pytest

from agegender.measure import dataset, evaluation


def test_quality_tells_dark_from_bright_and_smooth_from_sharp():
    flat = np.full((1, 16, 16, 3), 51, np.uint8)
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    gradient = np.repeat(np.linspace(0, 200, 16, dtype=np.uint8)[None, :, None, None], 16, 2)
    pictures = np.concatenate([flat, stripes, np.repeat(gradient, 3, 3)])
    table = dataset.quality(pictures)
    assert table.brightness[0] == pytest.approx(0.2, abs=1e-4)
    assert table.brightness[1] == pytest.approx(0.5, abs=1e-4)
    assert table.sharpness[0] == pytest.approx(0, abs=1e-3)
    assert table.sharpness[1] > 100 * table.sharpness[2]
    many = dataset.quality(np.repeat(pictures, 50, axis=0))
    assert many.brightness[149] == pytest.approx(table.brightness[2])


def test_balance_counts_and_tests_each_split(labelled_faces):
    manifest, _ = labelled_faces
    table = dataset.balance(manifest).set_index("split")
    assert table.faces.to_dict() == {"all": 120, "train": 100, "test": 20}
    assert table.share["test"] == "16.7%"
    test = manifest[manifest.split == "test"]
    assert table.female["test"] == f"{test.gender.mean():.1%}"
    assert np.isnan(table.p["train"]) and table.p["test"] > 0.05
    sorted_split = manifest.assign(split=np.where(manifest.age_years > 70, "test", "train"))
    assert dataset.balance(sorted_split).set_index("split").p["test"] < 1e-4


def test_conflicts_are_the_groups_with_several_labels_the_widest_first(labelled_faces):
    manifest, _ = labelled_faces
    assert [list(rows) for rows in dataset.conflicting_groups(manifest)] == [[0, 1]]
    wider = manifest.copy()
    wider.loc[[10, 11], "group"] = 10
    wider.loc[10, "age_years"] = 90
    assert [list(rows) for rows in dataset.conflicting_groups(wider)] == [[10, 11], [0, 1]]
    same = manifest.copy()
    same.loc[0, ["age_years", "gender"]] = same.loc[1, ["age_years", "gender"]]
    assert dataset.conflicting_groups(same) == []


def test_the_description_counts_what_is_there(labelled_faces):
    manifest, pixels = labelled_faces
    found = dataset.describe(manifest, dataset.quality(pixels))
    assert found.twins == 2 and found.twin_groups == found.conflicts == 1
    assert found.least_female[1] <= manifest.gender.mean() <= found.most_female[1]
    train = manifest[manifest.split == "train"]
    assert found.floors == evaluation.floors(train.age_years.to_numpy(), train.gender.to_numpy())
    assert found.few["male"] < evaluation.SMALL_SLICE
