"""Train a registered version again and judge the result: `make reproduce MODEL=A VERSION=3`.

Takes as long as its last training did. On the same backend and kind of machine its own seed gives
the same numbers; where it does not, four further seeds are trained, to say how much they differ.
Exit status 0: reproduced, 1: not, 2: cannot be told, with the reason. The test is not looked at.
"""

import dataclasses
from pathlib import Path

from agegender import config
from agegender.networks import backbones
from agegender.registry import tracking, versions
from pipelines.work import Work, on_search
from tuning import families, reproduction


def reproduce(
    *,
    model: str,
    version: int,
    data: Path | None = None,
    seeds: int | None = None,
    generated: bool = False,
) -> int:
    """Reproduce one version; return the exit status.

    data: the pictures that it was trained on; seeds: so many further ones in any case.
    """
    registered = versions.full_name(model, generated)
    name = f"{registered}/{version}"
    tracking.connect(Path.cwd())
    found = reproduction.needed(versions.get(registered, version), name)
    settings = dataclasses.replace(config.PRESETS[found["preset"]], seed=int(found["seed"]))
    verdicts = []

    def again(work: Work) -> None:
        backbone = found["backbone"]
        if backbone not in ("none", *backbones.available(families.weights(work.cache))):
            raise ValueError(
                f"The backbone's weights are not at hand: python -m pipelines.fetch_backbones "
                f"{backbone}"
            )
        result = reproduction.reproduce(
            model,
            work.faces,
            dataclasses.replace(work.settings, tier=found["tier"]),
            found,
            name,
            seeds=seeds,
            folder=work.folder,
            cache=work.cache,
            report=work.display,
        )
        verdicts.append(result["verdict"])

    on_search(again, settings, data)
    return 0 if verdicts == ["reproduced"] else 1
