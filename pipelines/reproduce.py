"""Train a registered version again and judge the result: `make reproduce MODEL=A VERSION=3`.

On the same backend and kind of machine its own seed gives the same numbers; where it does not, four
further seeds are trained, to say how much they differ. The test is not looked at.
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
    """Return 0 where a version is reproduced, else 1; ValueError where that cannot be told.

    data: the pictures that it was trained on; seeds: so many further ones in any case.
    """
    registered = versions.full_name(model, generated)
    name = f"{registered}/{version}"
    tracking.connect(Path.cwd())
    tags = reproduction.needed(versions.get(registered, version), name)
    settings = dataclasses.replace(
        config.PRESETS[tags["preset"]], seed=int(tags["seed"]), tier=tags["tier"]
    )
    found = on_search(_again, settings, data, model=model, tags=tags, name=name, seeds=seeds)
    return 0 if found["verdict"] == "reproduced" else 1


def _again(work: Work, *, model: str, tags: dict[str, str], name: str, seeds: int | None) -> dict:
    backbone = tags["backbone"]
    if backbone not in ("none", *backbones.available(families.weights(work.cache))):
        raise ValueError(
            f"The weights of {backbone} are missing: python -m pipelines.fetch_backbones {backbone}"
        )
    where = {"folder": work.folder, "cache": work.cache, "report": work.display}
    return reproduction.reproduce(
        model, work.faces, work.settings, tags, name, seeds=seeds, **where
    )
