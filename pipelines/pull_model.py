"""Fetch a registered model's .h5, checked before it is handed over: `make pull MODEL=B TO=B.h5`.

From the local store or the server in MLFLOW_TRACKING_URI; a registry without a champion gets the
released models first, as version 1. Checks the SHA-256, inspects the file without executing
anything, loads it with Keras and compares its golden predictions.
"""

from pathlib import Path

from agegender.registry import releases, tracking, versions


def pull(
    *,
    model: str,
    to: Path,
    alias: str = "champion",
    version: int | None = None,
    generated: bool = False,
) -> None:
    """Pull one version, or the one that an alias names, and say where it is.

    model: A, B or a registered name; to: a file, or a folder that exists.
    """
    name = versions.full_name(model, generated)
    asked = alias if version is None else version
    tracking.connect(Path.cwd())
    if not generated:
        releases.register(Path.cwd() / "models", full=True)
    path = versions.pull(name, asked, to)
    print(f"{name} ({asked}) is in {path}")
