"""What a network is made of, read from the summary that Keras prints."""

import collections
import re

import matplotlib
import matplotlib.figure
import matplotlib.patches
import numpy as np
import pandas as pd

from agegender.evidence import figures

BRANCHES = ("age", "gender")


def layers(summary: str) -> pd.DataFrame:
    """Return a row a layer: name, kind, shape (a tuple without the batch) and parameters.

    Keras breaks what is too long for its column over several lines. ValueError where the text holds
    no layer.
    """
    rows: list[dict] = []
    cells: list[list[str]] = []
    for line in summary.splitlines():
        if line.startswith("│"):
            cells.append([cell.strip() for cell in line.split("│")[1:4]])
        elif cells:
            name, shape, parameters = ("".join(parts) for parts in zip(*cells, strict=True))
            named = re.fullmatch(r"(.+)\((\w+)\)", name)
            rows.append(
                {
                    "name": named[1].strip() if named else name,
                    "kind": named[2] if named else "",
                    "shape": tuple(int(size) for size in re.findall(r"\d+", shape)),
                    "parameters": int(re.sub(r"\D", "", parameters) or 0),
                }
            )
            cells = []
    if not rows:
        raise ValueError("Expected a summary as Keras prints it, with a line a layer; found none.")
    return pd.DataFrame(rows)


def blocks(table: pd.DataFrame) -> pd.DataFrame:
    """Put together the layers of one map size, and those of each branch, in their order.

    Paddings, of odd sizes and without weights, are left out. table: of `layers`. Columns: block,
    shape (of its last layer), kinds (a count by kind) and parameters.
    """
    groups: dict[str, list] = {}
    for layer in table[~table["kind"].str.contains("Padding")].itertuples():
        branch = [name for name in BRANCHES if re.match(f"{name}(_|$)", layer.name)]
        size = f"{layer.shape[0]} x {layer.shape[1]}" if len(layer.shape) == 3 else "vector"
        groups.setdefault(branch[0] if branch else size, []).append(layer)
    return pd.DataFrame(
        {
            "block": block,
            "shape": members[-1].shape,
            "kinds": collections.Counter(layer.kind for layer in members),
            "parameters": sum(layer.parameters for layer in members),
        }
        for block, members in groups.items()
    )


def block_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return `blocks` in words, for a reader."""
    return pd.DataFrame(
        {
            "block": row.block if row.block not in BRANCHES else f"{row.block} branch",
            "layers": ", ".join(f"{count} {kind}" for kind, count in row.kinds.items()),
            "output": " x ".join(map(str, row.shape)),
            "parameters": row.parameters,
        }
        for row in table.itertuples()
    )


@matplotlib.rc_context(figures.STYLE)
def diagram(table: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the blocks from picture to both answers: height is map size, width is channels."""
    figure, axis = figures.blank(10, 3.6)
    axis.axis("off")
    trunk = table[~table["block"].isin(BRANCHES)]
    largest = max(shape[0] for shape in trunk["shape"] if len(shape) == 3)
    x, middle = 0.0, -1.0

    def box(x, y, width, height, colour, label, note):
        axis.add_patch(
            matplotlib.patches.Rectangle((x, y - height / 2), width, height, fc=colour, ec="black")
        )
        words = {"ha": "center", "fontsize": 8}
        axis.text(x + width / 2, y - height / 2 - 0.06, label, va="top", **words)
        axis.text(x + width / 2, y + height / 2 + 0.04, note, va="bottom", **words)

    def arrow(start, end):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black"})

    for place, row in enumerate(trunk.itertuples()):
        is_map = len(row.shape) == 3
        height = 1.6 * np.sqrt(row.shape[0] / largest) if is_map else 1.0
        width = 0.16 + 0.09 * np.log2(row.shape[-1]) if is_map else 0.16
        found = sum(count for kind, count in row.kinds.items() if "Conv" in kind)
        note = f"{found} conv." if found else ""
        label = f"{row.block}\n{row.shape[-1]} ch." if is_map else f"{row.shape[-1]}"
        colour = figures.BLUE if found else figures.GREY
        if place:
            # At least so far apart that the words below do not meet.
            start, x = x, max(x + 0.3, middle + 0.85 - width / 2)
            arrow((start, 0), (x, 0))
        middle = x + width / 2
        box(x, 0, width, height, colour, label, note)
        x += width + 0.05
    for row in table[table["block"].isin(BRANCHES)].itertuples():
        is_age = row.block == "age"
        y, colour = (0.7, figures.ORANGE) if is_age else (-0.7, figures.GREEN)
        arrow((x, 0), (x + 0.5, y))
        dense = row.kinds.get("Dense", 0)
        answer = "age in years" if is_age else "probability of female"
        box(x + 0.55, y, 0.8, 0.35, colour, answer, f"{dense} dense")
    axis.set_xlim(-0.1, x + 1.6)
    axis.set_ylim(-1.5, 1.3)
    total = int(table["parameters"].sum())
    axis.set_title(f"From the picture to both answers: {total:,} parameters")
    return figure
