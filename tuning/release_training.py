"""Train a model for release: everything is fixed beforehand, nothing is chosen."""

import dataclasses
import math
import shutil
from pathlib import Path

from agegender import config, records
from agegender.data import splits
from agegender.networks import export, fit, predict
from agegender.registry import tracking
from tuning import experiment, families, finalists, journal


def train_release(name: str, job: experiment.Job) -> Path:
    """Train a model of config.RELEASES on training and validation faces; return its folder.

    It takes the full space's defaults with the release's own changes, epochs and seed, and keeps
    the last epoch. A shorter child run without the validation faces predicts them, to calibrate age
    intervals and abstention. Its errors are larger, so the intervals are wide: in the first
    releases they held 94.7 % of the test for A, 89.8 % for B. The folder is as `train_finalists`
    leaves it, plus these predictions in records.HELD_OUT. Nothing is done if it is complete.
    """
    candidate = job.folder / records.CANDIDATE
    if (candidate / records.RECORD).exists():
        job.report(f"{name} is already trained: {candidate}.")
        return candidate
    release = config.RELEASES[name]
    settings = dataclasses.replace(
        job.settings,
        tier="full",
        seed=release.seed,
        mirror_images=True,
        views=release.views,
        head_epochs=release.head_epochs,
    )
    job = dataclasses.replace(job, settings=settings, stop_at=math.inf)
    with experiment.parent_run(
        job,
        f"release {name}",
        "release",
        handover=job.folder / "release.json",
        params={"seed": release.seed, "epochs": release.epochs},
        description=f"{job.family.title}, trained on training and validation faces for models/.",
    ) as parent_run_id:
        tracking.set_tags(parent_run_id, {"release": name})
        trained = _train_parts(name, job, parent_run_id)
    _, calibration, calibrated = trained["calibration"]
    finalists.export_networks(job, trained["final"][2], candidate)
    # Like the released network, it averages over the mirror image.
    held_out = predict.table(export.with_mirror(calibrated.network), job.faces, "validation")
    records.write_predictions(held_out, candidate / records.HELD_OUT)
    dataclasses.replace(
        experiment.candidate(job, *trained["final"]),
        val=calibration.metrics,
        history=calibrated.history.to_dict("records"),
        faces=len(job.faces.rows("train", "validation")),
    ).save(candidate)
    shutil.rmtree(job.folder / "checkpoints")
    return candidate


def _train_parts(
    name: str, job: experiment.Job, parent_run_id: str
) -> dict[str, tuple[experiment.Training, journal.Trial, fit.Trained]]:
    """Train a release without its validation faces ("calibration"), then with them ("final")."""
    release, every_row = config.RELEASES[name], job.faces.rows("train", "validation")
    values = families.defaults(job.family, job.cache) | release.changes
    parts = {
        "calibration": (release.calibration_epochs, splits.folds(job.faces.manifest, 1, 0)[0]),
        "final": (release.epochs, (every_row, every_row[:0])),
    }
    done = {}
    for part, (epochs, fold) in parts.items():
        job.report(f"Release {name}, {part}: {epochs} epochs on {len(fold[0]):,} faces.")
        training = experiment.Training(
            values,
            epochs,
            release.seed,
            f"release {name}, {part}",
            role="release",
            number=0,
            parent_run_id=parent_run_id,
            checkpoint=job.folder / "checkpoints" / part,
        )
        done[part] = (training, *experiment.train_and_log(job, training, fold))
    return done
