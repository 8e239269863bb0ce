"""Decode, group and split the faces: `make prepare`.

Takes about 4 s for the 5,000, 20 s for all of UTKFace, 15 s for the generated faces, and nothing
the next time. Prints what was found, kept, rejected (with the reasons) and how it was split.
"""

from pathlib import Path

from agegender.data import pixels


def prepare(*, data: Path | None = None, seed: int = 0) -> None:
    """Prepare the faces; ValueError or OSError where there is nothing of use."""
    print(pixels.summary(pixels.prepare(data, Path(".cache", "data"), seed=seed)))
