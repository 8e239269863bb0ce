"""What every stage does first: flags, tracking store, faces, the folder of this search."""

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agegender import config, disk
from agegender.data import pixels
from agegender.networks import training
from agegender.registry import tracking
from tuning import families, search

HOW_TRIALS_RUN = ("workers", "trial_cpus", "trial_gpus", "features_gigabytes")


@dataclasses.dataclass(frozen=True)
class Work:
    """What the stages share; folder is where this search keeps its state, one folder a family."""

    settings: config.Settings
    faces: pixels.Faces
    root: Path
    folder: Path
    started: float

    @property
    def cache(self) -> Path:
        """The folder of fetched weights, prepared faces and activations."""
        return self.root / ".cache"

    def candidate(self, family: str) -> dict:
        """Return what is known of a family's candidate; ValueError where none was trained."""
        path = self.folder / family / "candidate" / "candidate.json"
        if not path.exists():
            raise ValueError(f"No candidate of {family} in {path.parent}: run `make train` first.")
        return json.loads(path.read_text())

    def stop_at(self, share: float) -> float:
        """When, on time.monotonic()'s clock, a share of the time for training is used up."""
        if self.settings.minutes is None:
            return float("inf")
        seconds = self.settings.minutes * 60 - self.settings.closing_seconds
        return self.started + share * seconds


def settings_from(arguments: argparse.Namespace) -> config.Settings:
    """Return the preset with what the flags override."""
    settings = config.PRESETS[arguments.preset]
    changes = {
        name: getattr(arguments, name)
        for name in ("seed", "minutes", "algorithm", "tier", "mirror_images", *HOW_TRIALS_RUN)
        if getattr(arguments, name) is not None
    }
    if arguments.trials is not None:
        for family in families.FAMILIES.values():
            changes[family] = dataclasses.replace(
                getattr(settings, family), trials=arguments.trials
            )
        # TRIALS alone asks for just so many; MINUTES beside it ends the same list earlier.
        changes.setdefault("minutes", None)
    return dataclasses.replace(settings, **changes)


def start(description: str, argv: list[str] | None) -> Work:
    """Parse the flags, open the store, prepare the faces (nothing to do where they are)."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder, .zip or .tar.gz of UTKFace pictures")
    parser.add_argument("--preset", choices=config.PRESETS, default="laptop")
    parser.add_argument("--seed", type=_at_least(int, 0))
    parser.add_argument("--minutes", type=_at_least(float, 1), help="wall time of the whole")
    parser.add_argument("--trials", type=_at_least(int, 1), help="settings to try in each search")
    parser.add_argument("--workers", type=_at_least(int, 1), help="settings to try side by side")
    parser.add_argument("--trial-cpus", type=_at_least(float, 0), help="for each, of a Ray cluster")
    parser.add_argument("--trial-gpus", type=_at_least(float, 0), help="for each, of a Ray cluster")
    parser.add_argument("--algorithm", choices=search.ALGORITHMS)
    parser.add_argument("--tier", choices=("short", "full"), help="how much of the space")
    parser.add_argument(
        "--mirror-images", action="store_true", default=None, help="average with the mirror image"
    )
    parser.add_argument(
        "--features-gigabytes", type=_at_least(float, 0), help="of B's activations kept on disk"
    )
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    root = Path.cwd()
    device = training.prepare_backend()
    store = tracking.connect(root)
    print(f"agegender: {settings.preset} preset on {device}; runs in {store}", flush=True)
    if ray := os.environ.get("RAY_ADDRESS"):
        print(f"Trials run on the Ray cluster {ray}, {settings.workers} at once (WORKERS=).")
    prepared = pixels.prepare(
        arguments.data,
        root / ".cache" / "data",
        seed=settings.seed,
        generated_faces=settings.generated_faces,
    )
    faces = pixels.open_faces(prepared)
    tracking.repair_stale_runs(families.experiment(faces))
    # What decides the list of trials names the folder; how many of them are run does not.
    identity = dataclasses.asdict(settings) | {"data": faces.digest}
    for name in (
        *("minutes", "closing_seconds", "robustness_faces", "silent_minutes"),
        *HOW_TRIALS_RUN,
    ):
        del identity[name]
    for family in families.FAMILIES.values():
        identity[family] |= {"trials": 0}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{faces.kind}-{settings.preset}-seed{settings.seed}-{digest}"
    return Work(settings, faces, root, root / ".cache" / "searches" / name, started)


def run(description: str, stage: Callable[[Work], object], argv: list[str] | None = None) -> None:
    """Run a stage, alone on its search; turn what a user can mend into a line and exit status 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        work = start(description, argv)
        with search.hold(work.folder):
            disk.remove_leftovers(work.cache / "features", work.folder)
            stage(work)
    except KeyboardInterrupt:
        print("\nStopped; finished trials are kept: the same command goes on.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        full = disk.full(error, Path.cwd())
        if not full and not isinstance(error, search.SearchError | ValueError | OSError):
            raise
        print(f"agegender: {full or error}", file=sys.stderr)
        sys.exit(2)


def _at_least(kind: type, low: float) -> Callable[[str], float]:
    def number(text):
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"must be {low} or more; got {text}")
        return value

    return number
