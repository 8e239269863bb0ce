"""Describe and draw a network's architecture from the list of its layers."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

from agegender.show import figures

BRANCHES = ("age", "gender")


@dataclasses.dataclass(frozen=True)
class Block:
    """The layers of one map size or of one branch.

    shape: output of the last layer, without the batch axis; kinds: number of layers per kind.
    """

    name: str
    shape: tuple[int, ...]
    kinds: Mapping[str, int]
    parameters: int

    @property
    def layers(self) -> int:
        """Number of layers, without padding layers."""
        return sum(self.kinds.values())

    @property
    def convolutions(self) -> int:
        """Number of convolutional layers."""
        return sum(count for kind, count in self.kinds.items() if "Conv" in kind)


def blocks(layers: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Group the layers by map size, or by branch for the two branches, and keep their order.

    layers: from `agegender.networks.models.layers`. Padding layers are left out: their
    sizes are odd and they have no weights.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        if "Padding" not in layer["kind"]:
            shape = layer["shape"]
            branch = layer["name"].partition("_")[0]
            size = f"{shape[0]} x {shape[1]}" if len(shape) == 3 else "vector"
            groups.setdefault(branch if branch in BRANCHES else size, []).append(layer)
    return [
        Block(
            name,
            tuple(members[-1]["shape"]),
            collections.Counter(layer["kind"] for layer in members),
            sum(layer["parameters"] for layer in members),
        )
        for name, members in groups.items()
    ]


@matplotlib.rc_context(figures.STYLE)
def diagram(network: list[Block]) -> matplotlib.figure.Figure:
    """Draw the blocks from the picture to both answers: height is map size, width is channels."""
    figure, axis = figures.blank(10, 2.7)
    words = {"ha": "center", "va": "top", "fontsize": 8}
    arrow = {"arrowstyle": "->", "color": "black"}
    trunk = [block for block in network if block.name not in BRANCHES]
    largest = max(block.shape[0] for block in trunk if len(block.shape) == 3)
    x, middle = 0.0, -1.0
    for place, block in enumerate(trunk):
        is_map = len(block.shape) == 3
        height = 1.6 * np.sqrt(block.shape[0] / largest) if is_map else 1.0
        width = 0.16 + 0.09 * np.log2(block.shape[-1]) if is_map else 0.16
        label = f"{block.name}\n{block.shape[-1]} ch." if is_map else f"{block.shape[-1]}"
        label += f"\n{block.convolutions} conv." if block.convolutions else ""
        colour = figures.BLUE if block.convolutions else figures.GREY
        if place:
            # Leave enough space that the labels below do not overlap.
            start, x = x, max(x + 0.3, middle + 0.85 - width / 2)
            axis.annotate("", (x, 0), (start, 0), arrowprops=arrow)
        middle = x + width / 2
        axis.bar(middle, height, width, -height / 2, color=colour, edgecolor="black")
        axis.text(middle, -height / 2 - 0.06, label, **words)
        x += width + 0.05
    for branch in (block for block in network if block.name in BRANCHES):
        is_age = branch.name == "age"
        y, colour = (0.8, figures.ORANGE) if is_age else (-0.5, figures.GREEN)
        answer = "age in years" if is_age else "probability of female"
        axis.annotate("", (x + 0.5, y), (x, 0), arrowprops=arrow)
        axis.bar(x + 0.95, 0.35, 0.8, y - 0.17, color=colour, edgecolor="black")
        axis.text(x + 0.95, y - 0.23, f"{answer}\n{branch.kinds.get('Dense', 0)} dense", **words)
    axis.set(xlim=(-0.1, x + 1.6), ylim=(-1.7, 1.1))
    axis.axis("off")
    total = sum(block.parameters for block in network)
    axis.set_title(f"From the picture to both answers: {total:,} parameters")
    return figure
