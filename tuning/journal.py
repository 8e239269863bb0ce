"""The journal of a search: one JSON file with its trials, which is the whole state.

Only one process at a time holds a search's folder.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agegender import disk, hyperparameters

# Added to a trial's values by an oracle with rungs.
RUNG, EPOCHS = f"{hyperparameters.OF_ORACLE}rung", f"{hyperparameters.OF_ORACLE}epochs"


class SearchError(ValueError):
    """The search cannot continue; the message says why and what to do."""


@dataclasses.dataclass
class Trial:
    """One setting and its result; `metrics` are those of its best epoch.

    status: RUNNING, COMPLETED or FAILED.
    asked_after: how many results were known when it was proposed.
    told: its place among the results, from 0; None until it has one.
    """

    number: int
    values: dict[str, Any]
    status: str = "RUNNING"
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    run_id: str = ""
    message: str = ""
    asked_after: int = 0
    told: int | None = None

    @property
    def val_score(self) -> float:
        """The score that the search minimizes; infinite if the trial failed."""
        return self.metrics.get("val_score", math.inf)

    @property
    def rung(self) -> int | None:
        """The rung that it was tried on, from 0; None if the search has no rungs."""
        return self.values.get(RUNG)

    @functools.cached_property
    def setting(self) -> dict[str, Any]:
        """The values without those that the oracle added for itself."""
        return hyperparameters.setting(self.values)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a search's folder, or raise SearchError naming the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context(disk.hold(path, wait=False))
        except BlockingIOError:
            raise SearchError(
                f"{folder} is held by {path.read_text()}, which runs the same search (data, preset "
                "and seed). Wait for it to end, or start another search with SEED=."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        yield


def read(path: Path) -> list[Trial]:
    """Return the trials of a search by number; SearchError if the file is not a journal."""
    if not path.exists():
        return []
    try:
        return [Trial(**entry) for entry in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise SearchError(
            f"{path} is not a search's journal ({error}). Move it away to start over."
        ) from error


def write(path: Path, trials: list[Trial]) -> None:
    """Write the journal atomically."""
    disk.write(path, json.dumps([dataclasses.asdict(trial) for trial in trials], indent=1))


def count_settings(trials: list[Trial]) -> int:
    """Return how many different settings were tried."""
    return len(_by_setting(trials))


def best(trials: list[Trial], count: int = 1) -> list[Trial]:
    """Return the best trials, one per setting: the longest first, then the lowest val_score.

    Shorter trials come later, as they don't show what a setting is worth in the end, and on B's
    first rung nothing about its fine-tuning. Raises SearchError if none completed.
    """
    completed = [trial for trial in trials if trial.status == "COMPLETED"]
    if not completed:
        raise SearchError("No trial of this search completed: run `make search` for more.")
    ranked = sorted(completed, key=lambda trial: (-(trial.rung or 0), trial.val_score))
    return _by_setting(ranked)[:count]


def _by_setting(trials: list[Trial]) -> list[Trial]:
    """Return the first trial of each setting."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(json.dumps(trial.setting, sort_keys=True), trial)
    return list(first.values())
