"""Exploration: what is told of the faces is what is in them."""

import numpy as np
import pandas as pd
import pytest

from agegender.measure import dataset
from agegender.show import exploration


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
    measured = dataset.quality(pixels)
    drawn = exploration.drawings(manifest, pixels, measured, seed=0)
    table = pd.DataFrame(rejected, columns=["name", "reason"])
    arguments = {"kind": "generated", "source": "faces.zip"} | changes
    found = dataset.describe(manifest, measured)
    return found, drawn, exploration.page(found, table, drawn, **arguments)


def test_the_page_tells_what_is_there(faces):
    rejected = [("a.jpg", "empty file"), ("b.jpg", "empty file"), ("c <i>.jpg", "not an image")]
    found, drawn, text = page(faces, rejected)
    assert set(exploration.PHOTOGRAPHS) < set(drawn)
    assert text.count("<img ") == len(drawn)
    for told in (
        "holds 123 files. 120 can be used, 3 cannot",
        "<td>empty file</td>\n<td>2</td>\n<td>a.jpg, b.jpg</td>",
        "c &lt;i&gt;.jpg",
        "2 faces in 1 groups are near-duplicates",
        "differ by 48.00 [48.00, 48.00] years",
        "say nothing about people",
        "run from 1 to 90 years",
        *(f"{share:.1%} {race}" for race, share in found.races.items()),
        *(f"{name} ({count})" for name, count in found.few.items()),
        *(f"<td>{split}</td>" for split in found.balance.split),
    ):
        assert told in text, told


def test_without_rejects_twins_or_young_faces_the_page_says_so(faces):
    manifest, pixels = faces
    old = (manifest.age_years > 30) & (manifest.index > 1)
    _, drawn, text = page((manifest[old].reset_index(drop=True), pixels[old.to_numpy()]))
    assert "conflicts" not in drawn
    assert "0 cannot." in text and "cannot be measured how far" in text
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
