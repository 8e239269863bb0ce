"""Download further pretrained weights, of keras.applications; FaceRes comes with a clone.

python -m pipelines.fetch_backbones densenet169    # or several; none: says what is at hand
"""

import argparse
import sys
from pathlib import Path

from agegender.networks import backbones

CACHE = Path(__file__).parents[1] / ".cache" / "weights"


def main(arguments: list[str] | None = None) -> None:
    """Fetch the backbones named in `arguments` and print what is at hand; status 1 for failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(backbones.BACKBONES))
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the weights")
    options = parser.parse_args(arguments)
    for name in options.names:
        try:
            backbones.fetch(name, options.cache)
        except (ValueError, backbones.WeightsError) as error:
            print(f"fetch_backbones: {error}", file=sys.stderr)
            raise SystemExit(2 if isinstance(error, ValueError) else 1) from None
    print("pretrained backbones at hand:", ", ".join(backbones.available(options.cache)))


if __name__ == "__main__":
    main()
