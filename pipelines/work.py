"""Preparation for stages that work on a search: tracking store, faces, the search's folder."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agegender import config, disk, progress, records
from agegender.data import pixels, splits
from agegender.networks import backend
from agegender.registry import access, tracking
from tuning import experiment, journal

# Settings that do not change the list of trials. The number of trials run does not either.
IRRELEVANT: tuple[str, ...] = ("minutes", "closing_seconds", "robustness_faces", "silent_minutes")
IRRELEVANT += ("workers", "trial_cpus", "trial_gpus", "features_gigabytes")


@dataclasses.dataclass(frozen=True)
class Work:
    """State that the stages share.

    folder: the state of this search, one subfolder per family.
    started, ready: when the command started and when the faces were ready, by time.monotonic().
    """

    settings: config.Settings
    faces: pixels.Faces
    root: Path
    folder: Path
    started: float
    ready: float = dataclasses.field(default_factory=time.monotonic)
    display: progress.Display = dataclasses.field(default_factory=progress.Display)

    @property
    def cache(self) -> Path:
        """The folder of fetched weights, prepared faces and activations."""
        return self.root / ".cache"

    def job(self, letter: str, share: float = 1.0) -> experiment.Job:
        """Return a family's job, which ends when this share of the training time is used up."""
        return experiment.Job(
            letter,
            self.faces,
            self.settings,
            self.folder / letter,
            self.cache,
            self.stop_at(share),
            self.display,
        )

    def candidate_folder(self, family: str) -> Path:
        """Return the folder of a family's candidate."""
        return self.folder / family / records.CANDIDATE

    def candidate(self, family: str) -> records.Candidate:
        """Return the record of a family's candidate; raise ValueError if none was trained."""
        folder = self.candidate_folder(family)
        if found := records.Candidate.load(folder):
            return found
        raise ValueError(f"No candidate of {family} in {folder}: run `make train` first.")

    def stop_at(self, share: float) -> float:
        """Return when, by time.monotonic(), a share of the training time is used up.

        That time starts when the faces are ready, so a slow start shortens all parts equally.
        """
        if self.settings.minutes is None:
            return float("inf")
        end = self.started + self.settings.minutes * 60 - self.settings.closing_seconds
        return self.ready + share * (end - self.ready)


def start(settings: config.Settings, data: Path | None) -> Work:
    """Open the store and prepare the faces, which takes no time if that was done before."""
    started, root = time.monotonic(), Path.cwd()
    device = backend.prepare()
    store = access.shown(tracking.connect(root))
    print(f"agegender: {settings.preset} preset on {device}; runs in {store}", flush=True)
    if ray := os.environ.get("RAY_ADDRESS"):
        print(f"Trials run on the Ray cluster {ray}, {settings.workers} at once (WORKERS=).")
    faces = pixels.open_faces(
        pixels.prepare(
            data,
            root / ".cache" / "data",
            seed=settings.seed,
            generated_faces=settings.generated_faces,
        )
    )
    splits.training_floors(faces.manifest)  # Raises ValueError if a label never varies.
    tracking.repair_stale_runs(experiment.name_of(faces))
    folder = root / ".cache" / "searches" / _name(settings, faces)
    return Work(settings, faces, root, folder, started)


def _name(settings: config.Settings, faces: pixels.Faces) -> str:
    """Return a name that identifies everything that determines the list of trials."""
    identity = dataclasses.asdict(settings) | {"data": faces.digest}
    identity = {name: value for name, value in identity.items() if name not in IRRELEVANT}
    for family in ("scratch", "pretrained"):
        identity[family]["trials"] = 0
    digest = disk.checksum(json.dumps(identity, sort_keys=True))[:8]
    return f"{faces.kind}-{settings.preset}-seed{settings.seed}-{digest}"


def on_search(
    stage: Callable[..., Any],
    settings: config.Settings,
    /,
    data: Path | None = None,
    **options: object,
) -> Any:
    """Return stage(work, **options) with the search locked; raise ValueError for user errors."""
    work = start(settings, data)
    with journal.hold(work.folder), work.display:
        disk.remove_leftovers(work.cache / "features", work.folder)
        return stage(work, **options)
