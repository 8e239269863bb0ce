"""Pages: what goes in comes out, escaped, in HTML and in PDF; nothing outside is needed."""

import base64
import io
import re

import matplotlib.figure
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from reportlab import rl_config

from agegender.evidence import pages


def drawing():
    figure = matplotlib.figure.Figure((14, 5), 110)
    figure.subplots().plot([1, 2, 3], [2, 1, 3])
    return figure


@pytest.fixture(scope="module")
def parts():
    table = pd.DataFrame(
        {"name": ["a <b> & c", "d"], "faces": [1234, 5], "error": [1.23456, np.nan]}
    )
    return [
        "# A title & more",
        "A **bold** word, `some_code <x>` and 1 < 2.\nThe same paragraph.\n\nAnother one.",
        "## First section",
        "Introduced:\n\n- one\n- two,\n  continued\n\nAfter.",
        table,
        "### Inside",
        pages.picture(drawing(), "A line, n = 3."),
    ]


def test_html_holds_every_part_escaped_and_needs_nothing_else(parts):
    text = pages.to_html(parts)
    assert "<title>A title &amp; more</title>" in text
    assert '<a href="#first-section">' in text and '<h2 id="first-section">' in text
    assert "<b>bold</b>" in text and "<code>some_code &lt;x&gt;</code> and 1 &lt; 2. The" in text
    assert "<p>Another one.</p>" in text and "<li>two, continued</li>" in text
    assert "<td>a &lt;b&gt; &amp; c</td><td>1,234</td><td>1.23</td>" in text
    assert "<td>d</td><td>5</td><td></td>" in text
    assert not re.search(r'(src|href)="(?!data:image/|#)', text) and "<script" not in text
    (inside,) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert PIL.Image.open(io.BytesIO(base64.b64decode(inside))).width == pages.WIDTH_PIXELS


def test_pdf_holds_every_part_and_is_the_same_each_time(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(rl_config, "pageCompression", 0)
    first, second = tmp_path / "1.pdf", tmp_path / "2.pdf"
    pages.to_pdf(parts, first)
    pages.to_pdf(parts, second)
    content = first.read_bytes()
    assert content == second.read_bytes() and content.startswith(b"%PDF")
    assert content.count(b"/Subtype /Image") == 1
    assert re.search(rb"/Type /Pages", content)


def test_a_long_page_runs_over_and_a_tall_picture_fits(tmp_path):
    tall = PIL.Image.new("RGB", (300, 3000), "red")
    stream = io.BytesIO()
    tall.save(stream, "png")
    wide = pd.DataFrame({f"column {n}": ["word " * 20] * 80 for n in range(9)})
    parts = ["# Long", "paragraph " * 3000, wide, pages.picture(stream.getvalue(), "tall")]
    pages.to_pdf(parts, tmp_path / "long.pdf")
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "long.pdf").read_bytes())) > 5


def test_pictures_are_small_and_see_through_ones_lie_on_white():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1800, 4), np.uint8)
    noise[..., 3] = 0
    stream = io.BytesIO()
    PIL.Image.fromarray(noise).save(stream, "png")
    for photographs, start in ((True, b"\xff\xd8"), (False, b"\x89PNG")):
        made = pages.picture(stream.getvalue(), "", photographs=photographs)
        assert made.content.startswith(start)
        image = PIL.Image.open(io.BytesIO(made.content)).convert("RGB")
        assert image.size == (900, 450) and np.asarray(image).min() > 250


def test_a_small_coloured_mark_keeps_its_colour():
    figure = matplotlib.figure.Figure((9, 6), 100)
    axis = figure.subplots()
    axis.plot(np.random.default_rng(0).normal(size=300), "0.6", lw=0.5)
    axis.plot(150, 0, "o", color="#D55E00", ms=8)
    image = PIL.Image.open(io.BytesIO(pages.picture(figure, "").content)).convert("RGB")
    distance = np.abs(np.asarray(image, int) - (0xD5, 0x5E, 0)).max(axis=2)
    assert (distance < 25).sum() > 30


def test_a_page_without_a_title_is_refused():
    for parts in ([], ["No title."], [pages.picture(drawing(), "")]):
        with pytest.raises(ValueError, match="begin with its title"):
            pages.to_html(parts)
