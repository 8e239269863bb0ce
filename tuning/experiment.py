"""Train one setting as an MLflow run, with its parameters, tags, live curves and result."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agegender import config, disk, progress, records
from agegender.data import pixels
from agegender.measure import evaluation
from agegender.networks import fit, step
from agegender.registry import provenance, stored_checkpoints, tracking
from agegender.show import figures
from tuning import families, journal


@dataclasses.dataclass(frozen=True)
class Job:
    """One network's part of a search: the input of each of its steps.

    letter: the network's family, "A" or "B".
    folder: holds the state of its search. cache: holds fetched weights and cached activations.
    stop_at: when the step should end, on time.monotonic()'s clock.
    """

    letter: str
    faces: pixels.Faces
    settings: config.Settings
    folder: Path
    cache: Path
    stop_at: float = math.inf
    report: progress.Report = progress.plain

    @property
    def family(self) -> families.Family:
        """The network's family."""
        return families.FAMILIES[self.letter]

    @property
    def effort(self) -> config.FamilySettings:
        """The limits on the work of its search and final training runs."""
        return self.family.settings(self.settings)

    def trial_epochs(self, values: dict[str, Any]) -> int:
        """Return the number of epochs for a trial's values; {} stands for the longest trial."""
        return families.trial_epochs(values.get(journal.EPOCHS, self.effort.rungs[-1]), self.faces)


@dataclasses.dataclass(frozen=True)
class Training:
    """One setting to train, and the run that records it.

    values: the setting, as stored in the journal.
    epochs: of A, or of B's fine-tuning.
    name, role: of the run. number: of the trial, or 0 if there was none.
    shown: the values logged as parameters of the run; None: all of them.
    checkpoint: a folder from which an interrupted call resumes, in the same run.
    keep_in_store: also keep the checkpoint as run artifacts, for a call on another machine.
    """

    values: dict[str, Any]
    epochs: int
    seed: int
    name: str
    role: str
    number: int
    parent_run_id: str
    shown: dict[str, Any] | None = None
    checkpoint: Path | None = None
    keep_in_store: bool = False


def name_of(faces: pixels.Faces) -> str:
    """Return the name of the MLflow experiment for runs on these faces."""
    return "age-gender" if faces.kind == "utkface" else f"age-gender-{faces.kind}"


def origin(job: Job) -> dict[str, str]:
    """Return the tags of a version that determine its result besides the settings."""
    return provenance.tags(job.faces.digest, job.faces.kind) | {
        "lock.sha256": disk.checksum(Path(__file__).parents[1] / "requirements.lock"),
        "preset": job.settings.preset,
        "tier": job.settings.tier,
    }


def run_tags(job: Job, role: str) -> dict[str, str]:
    """Return the tags that every run of a family has."""
    return provenance.tags(job.faces.digest, job.faces.kind) | {
        "family": job.letter,
        "role": role,
        "algorithm": job.settings.algorithm,
        "preset": job.settings.preset,
        "tier": job.settings.tier,
        "seed": str(job.settings.seed),
    }


@contextlib.contextmanager
def parent_run(
    job: Job,
    name: str,
    role: str,
    *,
    handover: Path,
    params: dict[str, Any],
    description: str,
) -> Iterator[str]:
    """Open a parent run; yield its run_id.

    handover: the file that keeps the run_id, so that a later call resumes the same run.
    """
    with tracking.run(
        name,
        experiment=name_of(job.faces),
        run_id=json.loads(handover.read_text())["run_id"] if handover.exists() else None,
        tags=run_tags(job, role),
        params=params,
        description=description,
    ) as run_id:
        disk.write(handover, json.dumps({"run_id": run_id}))
        yield run_id


def train_and_log(
    job: Job,
    training: Training,
    fold: tuple[np.ndarray, np.ndarray],
    kept: step.Kept | None = None,
) -> tuple[journal.Trial, fit.Trained]:
    """Train one setting in its own run; return its Trial and the network.

    fold: rows to train on and rows to validate on.
    kept: networks and steps of this process's earlier training runs, for reuse.
    """
    checkpoint, setting = training.checkpoint, job.family.from_values(training.values)
    with _run_of(job, training) as run_id:
        watch, started = _Watch(job, training, run_id), time.monotonic()
        hooks = fit.Hooks(
            watch.epoch, watch.activations, checkpoint and checkpoint / "fold-0", job.stop_at
        )
        context = families.Context(
            job.settings, job.cache, training.epochs, training.seed, hooks, kept or step.Kept()
        )
        trained = job.family.train(setting, job.faces, families.Fold(*fold), context)
        metrics = trained.best_epoch
        if training.epochs:
            # By the fastest, plans would be too long where speed varies: a run that the clock cuts
            # short ends before its learning rate has come down.
            epoch_seconds = trained.history.seconds.tail(training.epochs).median()
            metrics["epoch_seconds"] = float(epoch_seconds)
        # Activations are computed once for all trials, so they don't count as a trial's time.
        if watch.activation_seconds:
            metrics["activation_seconds"] = watch.activation_seconds
        seconds = time.monotonic() - started - watch.activation_seconds
        tracking.log_dataset(run_id, job.faces, training.role)
        _log_trained(run_id, job.letter, training, trained, metrics | {"seconds": seconds})
    job.report(progress.Progress(training.name, 1, 1))
    result = journal.Trial(training.number, training.values, "COMPLETED", metrics, seconds, run_id)
    return result, trained


@contextlib.contextmanager
def _run_of(job: Job, training: Training) -> Iterator[str]:
    """Open a new run, or an interrupted one with its checkpoint; yield its run_id."""
    checkpoint, run_id = training.checkpoint, None
    if checkpoint:
        if training.keep_in_store or checkpoint.exists():
            run_id = tracking.find_child(training.parent_run_id, training.name)
        checkpoint.mkdir(parents=True, exist_ok=True)
    with (
        tracking.run(
            training.name,
            experiment=name_of(job.faces),
            run_id=run_id,
            parent_run_id=training.parent_run_id,
            tags=run_tags(job, training.role) | {"trial": str(training.number)},
            params=training.values if training.shown is None else training.shown,
        ) as run_id,
        # A head alone is trained in a second, in which no sample is taken.
        tracking.system_metrics(run_id) if training.epochs else contextlib.nullcontext(),
    ):
        if checkpoint and training.keep_in_store:
            stored_checkpoints.download(run_id, checkpoint)
        yield run_id


def _log_trained(
    run_id: str,
    letter: str,
    training: Training,
    trained: fit.Trained,
    metrics: dict[str, float],
) -> None:
    """Log a training run's metrics, layers and learning curves."""
    history = trained.history
    metrics = metrics | {"images_per_second": history.images_per_second.median()}
    if "val_score" in history:
        metrics["best_epoch"] = evaluation.kept_epoch(history) + 1  # from 1, like the steps
    if training.epochs:
        tracking.log_network(run_id, trained.network, metrics)
    else:  # A head alone has the layers of the first trial.
        tracking.log_metrics(run_id, metrics)
    # The curves of trials are drawn when the search has ended.
    if "val_score" in history and training.role != "trial":
        curves = figures.learning_curves({letter: history})
        tracking.log_figure(run_id, curves, records.CURVES)


def candidate(
    job: Job, training: Training, result: journal.Trial, trained: fit.Trained
) -> records.Candidate:
    """Return the record of a trained network that has not been evaluated yet."""
    return records.Candidate(
        family=job.letter,
        run_id=result.run_id,
        values=training.values,
        epochs=training.epochs,
        seed=training.seed,
        data=job.faces.digest,
        backbone=job.family.backbone(training.values),
        val=result.metrics,
        origin=origin(job) | {"epochs_trained": str(len(trained.history))},
        fine_tuning_kept=trained.fine_tuning_kept,
    )


class _Watch:
    """Follows a training run: sends epochs and checkpoints to the store, progress to the user."""

    def __init__(self, job: Job, training: Training, run_id: str):
        self.job, self.training, self.run_id = job, training, run_id
        # The maximum of both phases together.
        self.epochs = job.family.first_epochs(job.settings) + training.epochs
        self.costs = job.family.epoch_costs(training.values, self.epochs)
        self.paces: dict[str | None, progress.Pace] = {}
        self.uploaded, self.upload_seconds = time.monotonic(), 0.0
        self.activations_began: float | None = None
        self.activation_seconds = 0.0

    def activations(self, done: int, total: int) -> None:
        """Report the progress of computing the backbone's activations."""
        now = time.monotonic()
        self.activations_began = self.activations_began or now
        self.activation_seconds = now - self.activations_began
        note = f"activations, {done:,} of {total:,} faces"
        self._show(done, total, note, self._left("activations", done, total))

    def epoch(self, row: dict[str, Any]) -> None:
        """Log an epoch and report it."""
        tracking.log_epoch(self.run_id, row)
        self._upload()
        done, prefix = row["epoch"] + 1, "val_" if "val_score" in row else ""
        note = (
            f"epoch {done} of {self.epochs}, {row[f'{prefix}age_mae']:.2f} years, "
            f"{row[f'{prefix}gender_accuracy']:.3f}"
        )
        left = self._left(row.get("phase"), sum(self.costs[:done]), sum(self.costs))
        if row.get("phase") == "head":
            left = None  # The head's pace says nothing about fine-tuning's.
        elif left is not None:
            left = min(left, max(0.0, self.job.stop_at - time.monotonic()))
        self._show(done, self.epochs, note, left)

    def _upload(self) -> None:
        """Upload the checkpoint to the store, spending at most a tenth of the time on it."""
        began = time.monotonic()
        if self.training.keep_in_store and began - self.uploaded > 10 * self.upload_seconds:
            stored_checkpoints.upload(self.run_id, self.training.checkpoint)
            self.uploaded = time.monotonic()
            self.upload_seconds = self.uploaded - began

    def _left(self, phase: str | None, done: float, total: float) -> float | None:
        return self.paces.setdefault(phase, progress.Pace()).seconds_left(done, total)

    def _show(self, done: int, total: int, note: str, seconds_left: float | None) -> None:
        self.job.report(progress.Progress(self.training.name, done, total, note, seconds_left))
