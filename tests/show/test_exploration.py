"""Exploration: what is told of the faces is what is in them."""

import numpy as np
import pandas as pd

from agegender.measure import dataset
from agegender.show import exploration, intervals


def page(faces, rejected=(), **changes):
    manifest, pixels = faces
    measured = dataset.quality(pixels)
    drawn = exploration.drawings(manifest, pixels, measured, seed=0)
    table = pd.DataFrame(rejected, columns=["name", "reason"])
    arguments = {"kind": "generated", "source": "faces.zip"} | changes
    found = dataset.describe(manifest, measured)
    return found, drawn, exploration.page(found, table, drawn, **arguments)


def test_the_page_tells_what_is_there(labelled_faces):
    rejected = [("a.jpg", "empty file"), ("b.jpg", "empty file"), ("c <i>.jpg", "not an image")]
    found, drawn, text = page(labelled_faces, rejected)
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
        *(f"{name} ({count})" for name, count in found.few.items()),
        *(f"<td>{split}</td>" for split in found.balance.split),
    ):
        assert told in text, told
    # However few faces a decade has, its share is told with their number.
    manifest = labelled_faces[0]
    decades = manifest.groupby((manifest.age_years // 10).clip(upper=8)).gender
    shares = decades.mean()
    for name, told in ((shares.idxmin(), found.least_female), (shares.idxmax(), found.most_female)):
        assert told[1:] == (shares[name], decades.size()[name])
        assert f"({intervals.percent(told[1])} of {told[2]:.0f}" in text


def test_without_rejects_twins_or_young_faces_the_page_says_so(labelled_faces):
    manifest, pixels = labelled_faces
    old = (manifest.age_years > 30) & (manifest.index > 1)
    _, drawn, text = page((manifest[old].reset_index(drop=True), pixels[old.to_numpy()]))
    assert "conflicts" not in drawn
    assert "0 cannot." in text and "reliability of the labels cannot be measured" in text
    assert "run from 31 to 90 years" in text


def test_samples_hold_each_decade_and_the_mean_is_a_mean(labelled_faces):
    manifest, pixels = labelled_faces
    figure = exploration.samples(manifest, pixels, seed=0)
    # The last decade, 80 and over, has fewer faces than its row has places.
    assert len(figure.axes[0].images) == sum(
        min(12, n) for n in (manifest.age_years // 10).clip(upper=8).value_counts()
    )
    one = exploration.mean_faces(manifest.iloc[:1], pixels[:1])
    (image,) = one.axes[0].images
    assert np.allclose(image.get_array(), pixels[0] / 255)
