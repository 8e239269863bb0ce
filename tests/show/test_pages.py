"""Pages: what goes in comes out, escaped, in HTML and in PDF; nothing outside is needed."""

import base64
import html
import io
import re

import matplotlib.figure
import numpy as np
import PIL.Image
import pytest

from agegender.show import pages


def drawing():
    figure = matplotlib.figure.Figure((14, 5), 110)
    figure.subplots().plot([1, 2, 3], [2, 1, 3])
    return figure


TEXT = """\
# A title & more

A **bold** word, `some_code <x>` and 1 < 2.
The same paragraph. See [here](#first-section), #not $a heading$, _or_ *so*.

## First section

- one
- two, \\[a\\]\\(b\\)

| name | error |
|---|---|
| a <b> \\| c | 1.23 |
| d | |

### Inside

![A line, **n** = 3.](line)

```
model["x"]  # \\ code
```
"""


@pytest.fixture(scope="module")
def pictures():
    return {"line": pages.picture(drawing())}


def test_html_holds_every_part_escaped_and_needs_nothing_else(pictures):
    text = pages.html(TEXT, pictures)
    assert "<title>A title &amp; more</title>" in text
    assert '<a href="#first-section">' in text and 'id="first-section">' in text
    assert (
        "<strong>bold</strong>" in text and "<code>some_code &lt;x&gt;</code> and 1 &lt; 2." in text
    )
    assert "<td>a &lt;b&gt; | c</td>" in text and "two, [a](b)" in text
    assert "</figure>" in text and "A line, <strong>n</strong> = 3." in text
    assert not re.search(r'(src|href)="(?!data:image/|#)', text) and "<script" not in text
    (inside,) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert PIL.Image.open(io.BytesIO(base64.b64decode(inside))).width == pages.WIDTH_PIXELS


def test_pdf_is_the_same_each_time_and_needs_no_font_of_the_system(pictures, recwarn):
    content = pages.pdf(TEXT, pictures)
    assert content == pages.pdf(TEXT, pictures) and content.startswith(b"%PDF")
    assert content.count(b"/Subtype /Image") + content.count(b"/Subtype/Image") == 1
    assert b"LibertinusSerif" in content and not recwarn.list


@pytest.mark.parametrize(
    "hostile",
    ["#", "$x$", "]", '"\\', "*a* //", '#image("/etc/passwd")', "@a<b> & `c` | d", "[e](f)"],
)
def test_what_a_template_prints_is_shown_as_it_is(hostile):
    text = f"# Title\n\n| name |\n|---|\n| {pages.escaped(hostile)} |\n"
    (shown,) = re.findall("<td>(.*)</td>", pages.html(text, {}))
    assert html.unescape(shown) == hostile
    assert pages.pdf(text, {}).startswith(b"%PDF")


def test_pictures_are_small_and_see_through_ones_lie_on_white():
    noise = np.random.default_rng(0).integers(0, 256, (1400, 2800, 4), np.uint8)
    noise[..., 3] = 0
    stream = io.BytesIO()
    PIL.Image.fromarray(noise).save(stream, "png")
    for photographs, start in ((True, b"\xff\xd8"), (False, b"\x89PNG")):
        made = pages.picture(stream.getvalue(), photographs=photographs)
        assert made.startswith(start)
        image = PIL.Image.open(io.BytesIO(made)).convert("RGB")
        assert image.size == (1400, 700) and np.asarray(image).min() > 250


def test_a_small_coloured_mark_keeps_its_colour():
    figure = matplotlib.figure.Figure((9, 6), 100)
    axis = figure.subplots()
    axis.plot(np.random.default_rng(0).normal(size=300), "0.6", lw=0.5)
    axis.plot(150, 0, "o", color="#D55E00", ms=8)
    image = PIL.Image.open(io.BytesIO(pages.picture(figure))).convert("RGB")
    distance = np.abs(np.asarray(image, int) - (0xD5, 0x5E, 0)).max(axis=2)
    assert (distance < 25).sum() > 30


def test_pictures_beside_each_other_keep_their_shape():
    contents = []
    for width, height, colour in ((40, 20, "red"), (30, 60, "blue")):
        stream = io.BytesIO()
        PIL.Image.new("RGB", (width, height), colour).save(stream, "png")
        contents.append(stream.getvalue())
    both = PIL.Image.open(io.BytesIO(pages.beside(contents)))
    assert both.size == (40 + 10, 20)
    assert both.getpixel((0, 0)) == (255, 0, 0) and both.getpixel((45, 10)) == (0, 0, 255)
