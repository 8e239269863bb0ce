"""The training of a released model: all of it is fixed before, and nothing is chosen."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from agegender import config, progress, records
from agegender.data import pixels, splits
from agegender.networks import export, predict
from agegender.registry import tracking
from tuning import experiment, families, finalists, journal


def train_release(
    name: str,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    folder: Path,
    cache: Path,
    report: progress.Report = progress.plain,
) -> Path:
    """Train a model of config.RELEASES on training and validation faces; return its folder.

    All is fixed before: the defaults of the full space with the release's own changes, epochs and
    seed; the last epoch is kept. A shorter training without the validation faces, in a child run,
    gives their predictions, on which age intervals and abstention are calibrated; it errs more, so
    they are wide: in the first releases 94.7 % of the test for A, 89.8 % for B. The folder is as
    `train_finalists` leaves it, with these predictions in records.HELD_OUT. Nothing is done where
    it is complete.
    """
    candidate = folder / records.CANDIDATE
    if (candidate / records.RECORD).exists():
        report(f"{name} is trained: {candidate}.")
        return candidate
    release = config.RELEASES[name]
    chosen = families.FAMILIES[release.family]
    settings = dataclasses.replace(
        settings,
        tier="full",
        seed=release.seed,
        mirror_images=True,
        views=release.views,
        head_epochs=release.head_epochs,
    )
    with experiment.parent_run(
        f"release {name}",
        chosen.letter,
        faces,
        settings,
        "release",
        handover=folder / "release.json",
        params={"seed": release.seed, "epochs": release.epochs},
        description=f"{chosen.title}, trained on training and validation faces for models/.",
    ) as parent_run_id:
        tracking.set_tags(parent_run_id, {"release": name})
        trained = _train_parts(name, faces, settings, folder, cache, parent_run_id, report)
    _, calibration, calibrated = trained["calibration"]
    finalists.export_networks(chosen.letter, trained["final"][2], candidate, True, report)
    # As the released network, it averages over the mirror image.
    held_out = predict.table(export.with_mirror(calibrated.network), faces, "validation")
    records.write_predictions(held_out, candidate / records.HELD_OUT)
    dataclasses.replace(
        experiment.candidate(*trained["final"], faces, settings),
        val=calibration.metrics,
        history=calibrated.history.to_dict("records"),
        faces=len(faces.rows("train", "validation")),
    ).save(candidate)
    shutil.rmtree(folder / "checkpoints")
    return candidate


def _train_parts(
    name: str,
    faces: pixels.Faces,
    settings: config.Settings,
    folder: Path,
    cache: Path,
    parent_run_id: str,
    report: progress.Report,
) -> dict[str, tuple[experiment.Training, journal.Trial, families.Trained]]:
    """Train a release without its validation faces ("calibration"), then with them ("final")."""
    release, every_row = config.RELEASES[name], faces.rows("train", "validation")
    parts: dict[str, tuple[int, list[tuple[np.ndarray, np.ndarray]]]] = {
        "calibration": (release.calibration_epochs, splits.folds(faces.manifest, 1, 0)),
        "final": (release.epochs, [(every_row, every_row[:0])]),
    }
    done = {}
    for part, (epochs, folds) in parts.items():
        report(f"Release {name}, {part}: {epochs} epochs on {len(folds[0][0]):,} faces.")
        training = experiment.Training(
            release.family,
            families.defaults(families.FAMILIES[release.family], cache) | release.changes,
            epochs,
            release.seed,
            f"release {name}, {part}",
            role="release",
            number=0,
            parent_run_id=parent_run_id,
            checkpoint=folder / "checkpoints" / part,
        )
        done[part] = (
            training,
            *experiment.train_and_log(training, faces, settings, folds, cache=cache, report=report),
        )
    return done
