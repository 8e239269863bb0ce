"""Compare the best settings of a finished search over several seeds: `make compare`.

    python -m pipelines.compare [--family A|B|both] [--settings 3] [--seeds 3] [--epochs N] ...

and the flags of the search, which say where it is. Prints a table of means and standard deviations
in validation and which settings are not told apart; the same, with its picture, is in MLflow.
Starts no training that would end after --minutes; the same command goes on. Never sees the test.
"""

import argparse

from pipelines import command_line
from tuning import families, finalists


def main(argv: list[str] | None = None) -> None:
    """Train and compare each family's best settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--family", choices=(*families.FAMILIES, "both"), default="both")
    parser.add_argument("--settings", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    arguments, flags = parser.parse_known_args(argv)
    if min(arguments.settings, arguments.seeds, arguments.epochs or 1) < 1:
        parser.error("--settings, --seeds and --epochs must be 1 or more")

    def compare(work: command_line.Work) -> None:
        asked = list(families.FAMILIES) if arguments.family == "both" else [arguments.family]
        for number, family in enumerate(asked, start=1):
            finalists.leaderboard(
                family,
                work.faces,
                work.settings,
                folder=work.folder / family,
                cache=work.cache,
                count=arguments.settings,
                seeds=arguments.seeds,
                epochs=arguments.epochs,
                stop_at=work.stop_at(number / len(asked)),
            )

    command_line.run(__doc__, compare, flags)


if __name__ == "__main__":
    main()
