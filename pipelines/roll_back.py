"""Give the previous champion its place back: `make rollback MODEL=B`.

    python -m pipelines.roll_back --model B [--generated]

Swaps the aliases champion and previous, so that a second call undoes the first. The file in
exports/ follows with the next `make promote` or `make pull`.
"""

import argparse
from pathlib import Path

from agegender.registry import promotion, tracking, versions


def main(argv: list[str] | None = None) -> None:
    """Roll one model back and say what its champion is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="A, B or a registered name")
    parser.add_argument("--generated", action="store_true", help="a model of generated faces")
    arguments = parser.parse_args(argv)
    name = versions.full_name(arguments.model, arguments.generated)
    try:
        tracking.connect(Path.cwd())
        champion, previous = promotion.roll_back(name)
    except (ValueError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")
    print(f"{name}: version {champion} is champion again, version {previous} is previous.")


if __name__ == "__main__":
    main()
