"""What is kept on disk, why, and what removes it: `make disk`; needs no environment."""

import argparse
from pathlib import Path

from agegender import config, disk


def main(argv: list[str] | None = None) -> None:
    """Print the listing of this clone."""
    parser = argparse.ArgumentParser(description=__doc__)
    budget = config.Settings().features_gigabytes
    parser.add_argument("--features-gigabytes", type=float, default=budget)
    print(disk.table(Path.cwd(), parser.parse_args(argv).features_gigabytes))


if __name__ == "__main__":
    main()
