"""Decode, group and split the faces, and report what was rejected and why: `make prepare`."""

from pathlib import Path

from agegender.data import pixels


def prepare(*, data: Path | None = None, seed: int = 0) -> None:
    """Prepare the faces; raise ValueError or OSError if none can be used."""
    print(pixels.summary(pixels.prepare(data, Path(".cache", "data"), seed=seed)))
