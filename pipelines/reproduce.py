"""Train a registered version again and judge the result: `make reproduce MODEL=A VERSION=3`.

On the same backend and kind of machine, its own seed gives the same numbers. If it does not, four
more seeds are trained to measure how much seeds differ. The test is not used.
"""

import dataclasses
from pathlib import Path

from agegender import config
from agegender.registry import tracking, versions
from pipelines import work
from tuning import reproduction


def reproduce(
    *,
    model: str,
    version: int,
    data: Path | None = None,
    seeds: int | None = None,
    generated: bool = False,
) -> int:
    """Return 0 if a version is reproduced, else 1; raise ValueError if it cannot be trained again.

    data: the pictures that it was trained on; seeds: number of further seeds to train in any case.
    """
    registered = versions.full_name(model, generated)
    name = f"{registered}/{version}"
    tracking.connect(Path.cwd())
    tags = reproduction.needed(versions.get(registered, version), name)
    settings = dataclasses.replace(
        config.PRESETS[tags["preset"]], seed=int(tags["seed"]), tier=tags["tier"], minutes=None
    )
    found = work.on_search(
        lambda on: reproduction.reproduce(on.job(model), tags, name, seeds), settings, data
    )
    return 0 if found["verdict"] == "reproduced" else 1
