"""Download further pretrained weights from keras.applications; a clone already holds FaceRes-deep.

python -m pipelines.fetch_backbones densenet169    # or several names; none: lists what is available
"""

import sys
from pathlib import Path

from agegender.networks import backbones

CACHE = Path(__file__).parents[1] / ".cache" / "weights"


def main(names: list[str], cache: Path = CACHE) -> int:
    """Fetch backbones, print which are available, and return the exit status."""
    try:
        for name in names:
            backbones.fetch(name, cache)
    except ValueError as error:
        print(f"fetch_backbones: {error}", file=sys.stderr)
        return 1 if isinstance(error, backbones.WeightsError) else 2
    print("pretrained backbones available:", ", ".join(backbones.available(cache)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
