"""Fetch and check a registered model: `make pull MODEL=B TO=B.h5`.

It comes from the local store or the server in MLFLOW_TRACKING_URI. A registry without a champion
first gets the released models as version 1. Checks the SHA-256, inspects the file without running
anything, loads it with Keras and compares its golden predictions. FORMAT=onnx, litert or
saved_model converts it for use without Keras and repeats the comparison in that format's runtime.
"""

import tempfile
from pathlib import Path

from agegender.networks import formats
from agegender.registry import releases, tracking, versions


def pull(
    *,
    model: str,
    to: Path,
    alias: str = "champion",
    version: int | None = None,
    generated: bool = False,
    format: str = "h5",
) -> None:
    """Pull one version, or the one with an alias, and print where it is.

    model: A, B or a registered name; to: a file or an existing folder; for saved_model a folder.
    format: "h5" or one of formats.FORMATS.
    """
    name = versions.full_name(model, generated)
    asked = alias if version is None else version
    if format != "h5":
        formats.check(format)
    tracking.connect(Path.cwd())
    if not generated:
        releases.register(Path.cwd() / "models", full=True)
    if format == "h5":
        path = versions.pull(name, asked, to)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = formats.convert(versions.pull(name, asked, Path(folder)), to, format)
    print(f"{name} ({asked}) is in {path}")
