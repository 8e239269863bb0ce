"""Train a registered version again and judge the result: `make reproduce MODEL=A VERSION=3`.

    python -m pipelines.reproduce --model A --version 3 [--data PATH] [--seeds 4] [--generated]

Takes as long as its last training did. On the same backend and kind of machine its own seed gives
the same numbers; where it does not, four further seeds are trained, to say how much they differ.
Exit status 0: reproduced, 1: not, 2: cannot be told, with the reason. The test is not looked at.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from agegender.networks import backbones
from agegender.registry import tracking, versions
from pipelines import command_line
from tuning import families, finalists, trials


def main(argv: list[str] | None = None) -> None:
    """Reproduce one version; the exit status says how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=families.FAMILIES, required=True)
    parser.add_argument("--version", type=int, required=True)
    parser.add_argument("--data", type=Path, help="the pictures that it was trained on")
    parser.add_argument("--seeds", type=int, help="further ones in any case, 2 or more")
    parser.add_argument("--generated", action="store_true", help="a model of generated faces")
    arguments = parser.parse_args(argv)
    if arguments.seeds is not None and arguments.seeds < 2:
        parser.error(f"--seeds must be 2 or more, to know how much they differ; {arguments.seeds}")
    model = f"age-gender-{arguments.model}" + "-generated" * arguments.generated
    name = f"{model}/{arguments.version}"
    try:
        tracking.connect(Path.cwd())
        version = finalists.needed(versions.get(model, arguments.version), name)
        if arguments.data is None and not arguments.generated:
            raise ValueError(f"{name} was trained on pictures: name them with DATA=.")
    except (ValueError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")

    def reproduce(work: command_line.Work) -> None:
        backbone = version["backbone"]
        if backbone not in ("none", *backbones.available(trials.weights(work.cache))):
            raise ValueError(
                f"The backbone's weights are not at hand: python -m pipelines.fetch_backbones "
                f"{backbone}"
            )
        result = finalists.reproduce(
            arguments.model,
            work.faces,
            dataclasses.replace(work.settings, tier=version["tier"]),
            version,
            name,
            seeds=arguments.seeds,
            folder=work.folder,
            cache=work.cache,
        )
        sys.exit(0 if result["verdict"] == "reproduced" else 1)

    flags = ["--preset", version["preset"], "--seed", version["seed"]]
    command_line.run(
        __doc__, reproduce, flags + ["--data", str(arguments.data)] * bool(arguments.data)
    )


if __name__ == "__main__":
    main()
