"""What single choices behind the defaults are worth: `make ablate MODEL=A DATA=train_val`.

    python -m pipelines.ablate --model A|B [--seeds 2] [--epochs N] ...

and the flags of every stage. Trains the defaults, and these with one of config.ABLATIONS undone at
a time, and prints means and standard deviations in validation; the same, with its picture, is in
MLflow. Starts no training that would end after --minutes; the same command goes on. Never sees the
test.
"""

import argparse

from agegender import config
from pipelines import command_line
from tuning import families, finalists


def main(argv: list[str] | None = None) -> None:
    """Train and compare the defaults of one network and their variants."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", choices=families.FAMILIES, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int)
    arguments, flags = parser.parse_known_args(argv)
    if min(arguments.seeds, arguments.epochs or 1) < 1:
        parser.error("--seeds and --epochs must be 1 or more")

    def ablate(work: command_line.Work) -> None:
        folder = work.folder / f"ablation-{arguments.model}"
        folder.mkdir(exist_ok=True)
        finalists.ablation(
            arguments.model,
            work.faces,
            work.settings,
            config.ABLATIONS[arguments.model],
            folder=folder,
            cache=work.cache,
            seeds=arguments.seeds,
            epochs=arguments.epochs,
            stop_at=work.stop_at(1.0),
        )

    command_line.run(__doc__, ablate, flags)


if __name__ == "__main__":
    main()
