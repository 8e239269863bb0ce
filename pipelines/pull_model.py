"""Fetch a registered model's .h5, checked before it is handed over: `make pull MODEL=B TO=B.h5`.

    python -m pipelines.pull_model --model B [--alias previous | --version 3] [--generated] --to X

From the local store or the server in MLFLOW_TRACKING_URI. Checks the SHA-256, inspects the file
without executing anything, loads it with Keras and compares its golden predictions.
"""

import argparse
from pathlib import Path

from agegender.registry import tracking, versions


def main(argv: list[str] | None = None) -> None:
    """Pull one version and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="A, B or a registered name")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--alias", default="champion")
    which.add_argument("--version", type=int)
    parser.add_argument("--generated", action="store_true", help="a model of generated faces")
    parser.add_argument("--to", type=Path, required=True, help="a file, or a folder that exists")
    arguments = parser.parse_args(argv)
    name = versions.full_name(arguments.model, arguments.generated)
    try:
        tracking.connect(Path.cwd())
        asked = arguments.version or arguments.alias
        to = versions.pull(name, asked, arguments.to.expanduser())
    except (ValueError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")
    print(f"{name} ({asked}) is in {to}")


if __name__ == "__main__":
    main()
