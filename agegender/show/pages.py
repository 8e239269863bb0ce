"""Documents: a Jinja2 template turns facts into Markdown, which becomes one HTML file or a PDF.

In the Markdown, each picture is a separate paragraph, `![caption](name)`; its bytes are passed by
name. Values that a template prints appear literally: their Markdown marks are escaped.
"""

import base64
import io
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import markdown_it
import markupsafe
import matplotlib.figure
import numpy as np
import PIL.Image
import typst
from markdown_it.token import Token

from agegender.measure import evaluation
from agegender.show import intervals

WIDTH_PIXELS = 1400
COLOURS = 64  # Enough for a figure, and a third of the bytes.
_MARKS = re.compile(r"([\\`*|\[\]<])")


def escaped(value: object) -> object:
    """Escape a value that a template prints, unless it is already Markdown."""
    if isinstance(value, markupsafe.Markup):
        return value
    return markupsafe.Markup(_MARKS.sub(r"\\\1", str(value)))


def _code(value: object) -> markupsafe.Markup:
    return markupsafe.Markup("`" + str(value).replace("`", "'").replace("|", "\\|") + "`")


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    autoescape=True,
    finalize=escaped,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    function.__name__: lambda number, function=function: markupsafe.Markup(function(number))
    for function in (intervals.digits, intervals.percent, intervals.probability, intervals.value)
}
_templates.globals["fewest"] = evaluation.SMALL_SLICE
_templates.filters |= {"code": _code, "interval": intervals.Interval.of}
_parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")


def markdown(template: str, **facts: object) -> str:
    """Return the Markdown of a template filled with facts."""
    return _templates.get_template(template).render(facts)


def html(text: str, pictures: Mapping[str, bytes]) -> str:
    """Return Markdown as one self-contained HTML page; its table of contents stays in view."""
    tokens = _parser.parse(text)
    sections = []
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if before.type == "heading_open":
            before.attrs["id"] = re.sub(r"\W+", "-", token.content.lower()).strip("-")
            if before.tag == "h2":
                sections.append((str(before.attrs["id"]), token.content))
        for image in [child for child in token.children or [] if child.type == "image"]:
            content = pictures[str(image.attrs["src"])]
            kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
            image.attrs["src"] = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            before.tag = after.tag = "figure"
            token.children = [image, *(image.children or [])]
    body = _parser.renderer.render(tokens, _parser.options, {})
    return page(tokens[1].content, sections, body)


def page(title: str, sections: Sequence[tuple[str, str]], body: str) -> str:
    """Return an HTML page; sections: anchor and text of each entry in the table of contents."""
    escaped = [tuple(map(markupsafe.escape, section)) for section in sections]
    return markdown(
        "page.html.jinja",
        title=markupsafe.escape(title),
        sections=escaped,
        body=markupsafe.Markup(body),
    )


def pdf(text: str, pictures: Mapping[str, bytes]) -> bytes:
    """Return Markdown as a PDF of A4 pages; the same text and pictures give the same bytes."""
    style = Path(__file__).with_name("templates").joinpath("page.typ").read_text()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pictures.items():
            Path(folder, name).write_bytes(content)
        main = Path(folder, "main.typ")
        main.write_text(style + _typst(_parser.parse(text)))
        return typst.compile(main, format="pdf", ignore_system_fonts=True)


_TYPST = {
    **{"paragraph_close": "\n\n", "heading_close": "\n\n", "bullet_list_close": "\n"},
    **{"list_item_open": "\n- ", "strong_open": "#strong[", "strong_close": "]"},
    **{"em_open": "#emph[", "em_close": "]", "link_close": "]", "softbreak": " "},
    **{"th_open": "[", "th_close": "],", "td_open": "[", "td_close": "],"},
    **{"thead_open": "table.header(", "thead_close": "),", "table_close": ")\n\n"},
}


def _typst(tokens: Sequence[Token]) -> str:
    """Return parsed Markdown as Typst markup; text becomes strings, so none of it is markup."""
    parts = []
    for place, token in enumerate(tokens):
        string = json.dumps(token.content, ensure_ascii=False)
        if token.type == "inline":
            parts.append(_typst(token.children or []))
        elif token.type == "text":
            parts.append(f"#{string};")
        elif token.type == "code_inline":
            parts.append(f"#raw({string});")
        elif token.type == "fence":
            parts.append(f"#raw(block: true, {string})\n\n")
        elif token.type == "heading_open":
            parts.append("\n" + "=" * int(token.tag[1]) + " ")
        elif token.type == "link_open":
            parts.append(f"#link({json.dumps(token.attrs['href'])})[")
        elif token.type == "image":
            caption = _typst(token.children or [])
            parts.append(f"#picture({json.dumps(token.attrs['src'])})[{caption}]")
        elif token.type == "table_open":
            head = [each.type for each in tokens[place:]]
            columns = head[: head.index("thead_close")].count("th_open")
            parts.append(f"#table(columns: {columns},")
        else:
            parts.append(_TYPST.get(token.type, ""))
    return "".join(parts)


def picture(source: matplotlib.figure.Figure | bytes, *, photographs: bool = False) -> bytes:
    """Return a figure or a picture file, as bytes, small enough for a page: 1,400 pixels wide.

    photographs: store a JPEG instead of a PNG with 64 colours.
    """
    stream = io.BytesIO(source if isinstance(source, bytes) else b"")
    if isinstance(source, matplotlib.figure.Figure):
        source.savefig(stream, format="png", dpi=WIDTH_PIXELS / 10)  # Narrow figures stay small.
    image = PIL.Image.open(stream).convert("RGBA")
    image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.thumbnail((WIDTH_PIXELS, 2 * WIDTH_PIXELS))
    small = io.BytesIO()
    if photographs:
        image.save(small, "jpeg", quality=65)
    else:
        # The only Pillow method that keeps the colour of small marks: others turn them grey.
        octree = PIL.Image.Quantize.FASTOCTREE
        image = image.quantize(COLOURS, method=octree, dither=PIL.Image.Dither.NONE)
        image.save(small, "png", optimize=True)
    return small.getvalue()


def beside(pictures: Sequence[bytes]) -> bytes:
    """Return pictures side by side, scaled to the height of the first, as one PNG."""
    images = [PIL.Image.open(io.BytesIO(content)).convert("RGB") for content in pictures]
    height = images[0].height
    resized = [image.resize((image.width * height // image.height, height)) for image in images]
    stream = io.BytesIO()
    PIL.Image.fromarray(np.concatenate(resized, axis=1)).save(stream, "png")
    return stream.getvalue()
