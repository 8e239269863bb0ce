"""A page from parts: one HTML file that needs nothing else, or a PDF.

A part is a text, a table or a `Picture`. Texts know a little Markdown: "# " begins the title, "## "
and "### " headings, "- " the items of a list, **bold** and `code` lie inside; all else is shown as
it is written. Tables are pandas', shown without their index.
"""

import base64
import html
import io
import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

import matplotlib
import matplotlib.figure
import pandas as pd
import PIL.Image
from reportlab import platypus, rl_config
from reportlab.lib import colors, pagesizes, styles, units
from reportlab.pdfbase import pdfmetrics, ttfonts

WIDTH_PIXELS = 900
COLOURS = 64  # that a drawing keeps, of which it has few: a third of the bytes
STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin: 2em 0 .5em } h1 { margin-top: 0 }
h2 { border-top: 1px solid #ccc; padding-top: 1em }
nav { columns: 2 20rem; margin: 1em 0 } nav a { display: block }
figure { margin: 1.5em 0 } figcaption { color: #555; font-size: .9em }
img { max-width: 100%; height: auto; display: block; margin: 0 auto }
.table { overflow-x: auto; margin: 1em 0 }
table { border-collapse: collapse; font-size: .9em }
th, td { padding: .25em .8em .25em 0; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top }
code { background: #f3f3f3; padding: .1em .3em; overflow-wrap: anywhere }
"""


class Picture(NamedTuple):
    """A PNG or JPEG, as `picture` makes it, and what it shows."""

    content: bytes
    caption: str


Part: TypeAlias = str | pd.DataFrame | Picture


def picture(
    source: matplotlib.figure.Figure | bytes, caption: str, *, photographs: bool = False
) -> Picture:
    """Return a figure, or a picture file's bytes, small enough for a page: 900 pixels wide.

    photographs: kept as a JPEG; else as a PNG of 64 colours.
    """
    stream = io.BytesIO(source if isinstance(source, bytes) else b"")
    if isinstance(source, matplotlib.figure.Figure):
        source.savefig(stream, format="png")
    image = PIL.Image.open(stream).convert("RGBA")
    image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.thumbnail((WIDTH_PIXELS, 2 * WIDTH_PIXELS))
    small = io.BytesIO()
    if photographs:
        image.save(small, "jpeg", quality=65)
    else:
        # Of Pillow's methods the one that keeps small coloured things: others turn them grey.
        octree = PIL.Image.Quantize.FASTOCTREE
        image = image.quantize(COLOURS, method=octree, dither=PIL.Image.Dither.NONE)
        image.save(small, "png", optimize=True)
    return Picture(small.getvalue(), caption)


def to_html(parts: list[Part]) -> str:
    """Return the page as HTML, its pictures inside, its headings linked below the title."""
    title = _title(parts)
    sections = [part[3:] for part in parts if isinstance(part, str) and part.startswith("## ")]
    links = "".join(f'<a href="#{_anchor(name)}">{_inline(name)}</a>' for name in sections)
    body = [_html(part) for part in parts]
    body.insert(1, f"<nav>{links}</nav>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html(part: Part) -> str:
    if isinstance(part, Picture):
        kind = "png" if part.content.startswith(b"\x89PNG") else "jpeg"
        inside = base64.b64encode(part.content).decode()
        return (
            f'<figure><img alt="{html.escape(part.caption)}" src="data:image/{kind};base64,'
            f'{inside}"><figcaption>{_inline(part.caption)}</figcaption></figure>'
        )
    if isinstance(part, pd.DataFrame):
        head, *rows = _cells(part)
        lines = ["".join(f"<th>{cell}</th>" for cell in head)]
        lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        lines = [f"<tr>{line}</tr>" for line in lines]
        return '<div class="table"><table>' + "\n".join(lines) + "</table></div>"
    level, text = _heading(part)
    if level:
        return f'<h{level} id="{_anchor(text)}">{_inline(text)}</h{level}>'
    return "\n".join(
        "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block) + "</ul>"
        if listed
        else f"<p>{_inline(' '.join(block))}</p>"
        for listed, block in _blocks(text)
    )


def to_pdf(parts: list[Part], path: Path) -> None:
    """Write the page as a PDF of A4 pages with numbers; the same parts give the same bytes."""
    # The typeface of the figures, which matplotlib brings; the PDF keeps the letters it needs.
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for name in ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono"):
        pdfmetrics.registerFont(ttfonts.TTFont(name, folder / f"{name}.ttf"))
    pdfmetrics.registerFontFamily("DejaVuSans", normal="DejaVuSans", bold="DejaVuSans-Bold")
    rl_config.useA85 = 0  # A quarter smaller: no PDF reader needs pictures written as text.
    margin = 2 * units.cm

    def number(canvas, document):
        canvas.setFont("DejaVuSans", 8)
        canvas.drawCentredString(pagesizes.A4[0] / 2, margin / 2, str(document.page))

    document = platypus.SimpleDocTemplate(
        str(path),
        pagesize=pagesizes.A4,
        invariant=1,
        title=_title(parts),
        **dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), margin),
    )
    flowables = [flowable for part in parts for flowable in _flowables(part, document.width)]
    document.build(flowables, onFirstPage=number, onLaterPages=number)


def _flowables(part: Part, width: float) -> list[platypus.Flowable]:
    """Return what reportlab lays out for a part; width in points."""

    def style(size, **keywords):
        return styles.ParagraphStyle(
            "", fontName="DejaVuSans", fontSize=size, leading=1.4 * size, **keywords
        )

    if isinstance(part, Picture):
        pixels = PIL.Image.open(io.BytesIO(part.content)).size
        scale = min(width / WIDTH_PIXELS, width / pixels[0], 0.55 * width / pixels[1])
        image = platypus.Image(io.BytesIO(part.content), pixels[0] * scale, pixels[1] * scale)
        caption = style(8, textColor=colors.HexColor("#555555"), spaceAfter=12)
        return [
            platypus.KeepTogether([image, platypus.Paragraph(_inline(part.caption, True), caption)])
        ]
    if isinstance(part, pd.DataFrame):
        rows = _cells(part, pdf=True)
        lengths = [
            min(34, max(4, *(len(re.sub("<.*?>", "", row[column])) for row in rows)))
            for column in range(len(part.columns))
        ]
        small = style(7.5)
        rows[0] = [f"<b>{cell}</b>" for cell in rows[0]]
        cells = [[platypus.Paragraph(cell, small) for cell in row] for row in rows]
        # Half a centimetre for the padding of each column, the rest by the longest text.
        natural = sum(lengths) * 4.6 + len(lengths) * 12
        table = platypus.LongTable(
            cells,
            [(length * 4.6 + 12) * min(1, width / natural) for length in lengths],
            repeatRows=1,
            hAlign="LEFT",
            spaceAfter=10,
        )
        thin = (0.3, colors.HexColor("#bbbbbb"))
        table.setStyle(
            [
                ("LINEBELOW", (0, 0), (-1, -1), *thin),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("TOPPADDING", (0, 0), (-1, -1), 1.5),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ]
        )
        return [table]
    level, text = _heading(part)
    if level:
        size = {1: 18, 2: 14, 3: 11}[level]
        heading = style(size, spaceBefore=size, spaceAfter=size / 2, keepWithNext=1)
        heading.fontName = "DejaVuSans-Bold"
        return [platypus.Paragraph(_inline(text, True), heading)]
    paragraph, item = style(9.5, spaceAfter=7), style(9.5, spaceAfter=2, leftIndent=12)
    flowables = []
    for listed, block in _blocks(text):
        if listed:
            flowables += [platypus.Paragraph(_inline(i, True), item, bulletText="•") for i in block]
            flowables.append(platypus.Spacer(0, 5))
        else:
            flowables.append(platypus.Paragraph(_inline(" ".join(block), True), paragraph))
    return flowables


def _title(parts: list[Part]) -> str:
    if not (parts and isinstance(parts[0], str) and parts[0].startswith("# ")):
        raise ValueError("Expected a page to begin with its title, a text that starts with '# '.")
    return parts[0][2:]


def _heading(text: str) -> tuple[int, str]:
    """Return the level of a heading, 0 for other text, and the text."""
    marks = re.match("(#{1,3}) ", text)
    return (len(marks[1]), text[marks.end() :]) if marks else (0, text)


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """Return paragraphs and lists: whether it is a list, and its lines or items."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        if not line.strip():
            blocks.append((False, []))
        elif line.startswith("- "):
            if not (blocks and blocks[-1][0]):
                blocks.append((True, []))
            blocks[-1][1].append(line[2:])
        elif blocks and blocks[-1][1]:
            lines = blocks[-1][1]
            lines[-1] += " " + line.strip()
        else:
            blocks.append((False, [line]))
    return [block for block in blocks if block[1]]


def _inline(text: str, pdf: bool = False) -> str:
    """Return text with its marks as tags, all else escaped."""
    text = html.escape(text, quote=False)
    code = r'<font face="DejaVuSansMono" size="-1">\1</font>' if pdf else r"<code>\1</code>"
    return re.sub("`(.+?)`", code, re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text))


def _cells(table: pd.DataFrame, pdf: bool = False) -> list[list[str]]:
    """Return the head and the rows of a table as marked text."""
    rows = [list(table.columns), *table.itertuples(index=False)]
    return [[_inline(_cell(value), pdf) for value in row] for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
