"""Exploration: what is told of the faces is what is in them."""

import numpy as np
import pandas as pd
import pytest

from agegender.evidence import exploration, pages


@pytest.fixture(scope="module")
def faces():
    """120 faces of all decades; rows 0 and 1 are one photograph under two ages."""
    generator = np.random.default_rng(0)
    ages = np.arange(120) % 90 + 1
    manifest = pd.DataFrame(
        {
            "name": [f"{age}_face_{row}" for row, age in enumerate(ages)],
            "age_years": ages,
            "gender": np.arange(120) // 2 % 2,
            "race": np.arange(120) % 5,
            "group": [0, 0, *range(2, 120)],
            "split": np.where(np.arange(120) % 6 == 5, "test", "train"),
        }
    )
    manifest.loc[0, "age_years"] = 50
    return manifest, generator.integers(0, 256, (120, 16, 16, 3), np.uint8)


def page(faces, rejected=(), **changes):
    manifest, pixels = faces
    measured = exploration.quality(pixels)
    drawn = exploration.drawings(manifest, pixels, measured, seed=0)
    table = pd.DataFrame(rejected, columns=["name", "reason"])
    arguments = {"kind": "generated", "source": "faces.zip"} | changes
    parts = exploration.page(manifest, table, measured, drawn, **arguments)
    return drawn, parts, pages.to_html(parts)


def test_quality_tells_dark_from_bright_and_smooth_from_sharp():
    flat = np.full((1, 16, 16, 3), 51, np.uint8)
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    gradient = np.repeat(np.linspace(0, 200, 16, dtype=np.uint8)[None, :, None, None], 16, 2)
    pictures = np.concatenate([flat, stripes, np.repeat(gradient, 3, 3)])
    table = exploration.quality(pictures)
    assert table.brightness[0] == pytest.approx(0.2, abs=1e-4)
    assert table.brightness[1] == pytest.approx(0.5, abs=1e-4)
    assert table.sharpness[0] == pytest.approx(0, abs=1e-3)
    assert table.sharpness[1] > 100 * table.sharpness[2]
    # However many there are, each is measured alone.
    many = exploration.quality(np.repeat(pictures, 50, axis=0))
    assert many.brightness[149] == pytest.approx(table.brightness[2])


def test_balance_counts_and_tests_each_split(faces):
    manifest, _ = faces
    table = exploration.balance(manifest).set_index("split")
    assert table.faces.to_dict() == {"train": 100, "test": 20}
    assert table.share["test"] == "16.7%"
    test = manifest[manifest.split == "test"]
    assert table.female["test"] == f"{test.gender.mean():.1%}"
    assert np.isnan(table.p["train"]) and table.p["test"] > 0.05
    sorted_split = manifest.assign(split=np.where(manifest.age_years > 70, "test", "train"))
    assert exploration.balance(sorted_split).set_index("split").p["test"] < 1e-4


def test_conflicts_are_the_groups_with_several_labels_the_widest_first(faces):
    manifest, _ = faces
    assert [list(rows) for rows in exploration.conflicting_groups(manifest)] == [[0, 1]]
    wider = manifest.copy()
    wider.loc[[10, 11], "group"] = 10
    wider.loc[10, "age_years"] = 90
    assert [list(rows) for rows in exploration.conflicting_groups(wider)] == [[10, 11], [0, 1]]
    same = manifest.copy()
    same.loc[0, ["age_years", "gender"]] = same.loc[1, ["age_years", "gender"]]
    assert exploration.conflicting_groups(same) == []


def test_the_page_tells_what_is_there(faces):
    rejected = [("a.jpg", "empty file"), ("b.jpg", "empty file"), ("c <i>.jpg", "not an image")]
    drawn, parts, text = page(faces, rejected)
    assert set(exploration.PHOTOGRAPHS) < set(drawn)
    assert text.count("<img ") == len(drawn)
    for told in (
        "123 files in <code>faces.zip</code>: 120 can be used, 3 cannot",
        "<td>empty file</td><td>2</td><td>a.jpg, b.jpg</td>",
        "c &lt;i&gt;.jpg",
        "2 faces in 1 groups are near-duplicates",
        "Over 1 pairs the ages differ by 48.0 years",
        "say nothing about people",
        "run from 1 to 90 years",
    ):
        assert told in text, told


def test_without_rejects_twins_or_young_faces_the_page_says_so(faces):
    manifest, pixels = faces
    old = (manifest.age_years > 30) & (manifest.index > 1)
    drawn, _, text = page((manifest[old].reset_index(drop=True), pixels[old.to_numpy()]))
    assert "conflicts" not in drawn
    assert "0 cannot." in text and "cannot be measured without them" in text
    assert "0.0% are under 10" in text


def test_samples_hold_each_decade_and_the_mean_is_a_mean(faces):
    manifest, pixels = faces
    figure = exploration.samples(manifest, pixels, seed=0)
    shown = [axis for axis in figure.axes if axis.images]
    # The last decade, 80 and over, has fewer faces than its row has places.
    assert len(shown) == sum(
        min(12, n) for n in (manifest.age_years // 10).clip(upper=8).value_counts()
    )
    one = exploration.mean_faces(manifest.iloc[:1], pixels[:1])
    (axis,) = [axis for axis in one.axes if axis.images]
    assert np.allclose(axis.images[0].get_array(), pixels[0] / 255)
