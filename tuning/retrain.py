"""Train settings again with several seeds, to see which differ by more than chance.

Every training run uses the manifest's own split and the same number of epochs. It is saved to a
file as soon as it ends, so interrupted work can resume. The test faces are not used.
"""

import dataclasses
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from agegender import config, disk, records
from agegender.data import splits
from agegender.networks import fit
from agegender.registry import tracking
from tuning import experiment, families, journal

CONFIDENCE = 0.95
MEASURES = ("val_score", "val_age_mae", "val_gender_accuracy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings, each to be trained with each seed.

    chosen: the values of each setting, by number. names: the settings' names, by number.
    epochs: of every training run.
    counted_epochs: the best epoch is one of the first this many, for a run that was cut short;
        None: one of all.
    """

    chosen: dict[int, dict[str, Any]]
    seeds: range
    epochs: int
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    counted_epochs: int | None = None


def compare_best(
    job: experiment.Job, *, count: int, seeds: int, epochs: int | None
) -> pd.DataFrame:
    """Compare the best `count` settings of a search; return their `standing`.

    epochs: None: as many as the candidate had or, without a candidate, a trial.

    Raises SearchError if the search has no completed trial.
    """
    done = journal.read(job.folder / records.JOURNAL)
    if not done:
        raise journal.SearchError(
            f"No search in {job.folder}: run `make search` with the same options."
        )
    candidate = records.Candidate.load(job.folder / records.CANDIDATE)
    if epochs is None and candidate:
        epochs = candidate.epochs
    best, tier = journal.best(done, count), job.settings.tier
    plan = Plan(
        {t.number: job.family.for_epochs(t.values, epochs or 0, tier) for t in best},
        _seeds(job, seeds),
        epochs or job.trial_epochs({}),
        {trial.number: f"setting {trial.number}" for trial in best},
    )
    return _compare(job, plan, "leaderboard")


def ablate(job: experiment.Job, *, seeds: int, epochs: int | None) -> pd.DataFrame:
    """Compare the full space's defaults with the same after one of config.ABLATIONS each.

    epochs: None: as many as a trial. Return their `standing`.
    """
    changes = config.ABLATIONS[job.letter]
    defaults = families.defaults(job.family, job.cache)
    plan = Plan(
        dict(enumerate([defaults, *(defaults | change for change in changes.values())])),
        _seeds(job, seeds),
        epochs or job.trial_epochs({}),
        dict(enumerate(["the defaults", *changes])),
    )
    settings = dataclasses.replace(job.settings, tier="full")
    return _compare(dataclasses.replace(job, settings=settings), plan, "ablation")


def _seeds(job: experiment.Job, count: int) -> range:
    return range(job.settings.seed, job.settings.seed + count)


def _compare(job: experiment.Job, plan: Plan, role: str) -> pd.DataFrame:
    """Carry out a plan in one parent run, with tables; return the `standing`.

    role: of the parent run.
    """
    path = job.folder / f"{role}.json"
    told = f"{len(plan.chosen)} settings, {len(plan.seeds)} seeds, {plan.epochs} epochs."
    with tracking.run(
        f"{role} {job.letter} · {job.settings.preset} · seed {job.settings.seed}",
        experiment=experiment.name_of(job.faces),
        run_id=json.loads(path.read_text())[-1]["parent_run_id"] if path.exists() else None,
        tags=experiment.run_tags(job, role) | {"epochs": str(plan.epochs)},
        description=f"{job.family.title}: {told}",
    ) as run_id:
        tracking.log_dataset(run_id, job.faces, role)
        job.report(f"{job.family.title}: {told}")
        table = retrain(job, plan, path=path, parent_run_id=run_id)
        summary = standing(table)
        summary.insert(1, "setting", summary.trial.map(plan.names))
        tracking.log_table(run_id, summary, f"{role}.csv")
        tracking.log_table(run_id, table, "trainings.csv")
        tracking.set_tags(run_id, {"conclusion": conclusion(summary)})
        job.report(f"{summary.round(4).to_string(index=False)}\n{conclusion(summary)}")
    return summary


def retrain(job: experiment.Job, plan: Plan, *, path: Path, parent_run_id: str) -> pd.DataFrame:
    """Carry out a plan with one child run per training; return one row per training.

    job: a training run that would likely end after its stop_at is not started.
    path: the file of finished training runs, which are not repeated.

    Columns: trial, seed, epochs, the MEASURES (missing if it diverged), seconds, run_id and
    parent_run_id.
    """
    finished = json.loads(path.read_text()) if path.exists() else []
    rows, missing = [], []
    for seed, (number, values) in itertools.product(plan.seeds, plan.chosen.items()):
        asked = {"trial": number, "values": values, "seed": seed, "epochs": plan.epochs}
        name = f"{job.letter} setting {number:03d} · {job.settings.preset} · seed {seed}"
        row = next((row for row in finished if asked.items() <= row.items()), None)
        if row is None:
            likely_seconds = statistics.median([r["seconds"] for r in finished] or [0])
            if finished and time.monotonic() + 1.1 * likely_seconds > job.stop_at:
                missing.append(name)
                continue
            training = experiment.Training(
                values, plan.epochs, seed, name, "retraining", number, parent_run_id
            )
            row = asked | _train(job, training, plan.counted_epochs)
            finished.append(row)
            disk.write(path, json.dumps(finished, indent=1))
        if "val_score" in row:
            job.report(
                f"  {name}: val_score {row['val_score']:.4f} ({row['val_age_mae']:.3f} years, "
                f"{row['val_gender_accuracy']:.4f}) in {row['seconds']:.0f} s"
            )
        rows.append(row)
    if missing:
        job.report(f"Out of time. The same command trains the rest: {', '.join(missing)}.")
    columns = ["trial", "seed", "epochs", *MEASURES, "seconds", "run_id", "parent_run_id"]
    return pd.DataFrame(rows, columns=columns)


def _train(
    job: experiment.Job, training: experiment.Training, counted_epochs: int | None
) -> dict[str, Any]:
    """Return the record of one training run, without measures if it diverged."""
    started = time.monotonic()
    row: dict[str, Any] = {"parent_run_id": training.parent_run_id}
    try:
        (fold,) = splits.folds(job.faces.manifest, 1, training.seed)
        settings = dataclasses.replace(job.settings, seed=training.seed)
        job = dataclasses.replace(job, settings=settings, stop_at=math.inf)
        result, trained = experiment.train_and_log(job, training, fold)
        history = trained.history.iloc[:counted_epochs]
        best = dataclasses.replace(trained, history=history).best_epoch
        row |= {measure: best[measure] for measure in MEASURES} | {"run_id": result.run_id}
    except fit.TrainingDivergedError as error:
        job.report(f"  {training.name}: {error}")
    return row | {"seconds": time.monotonic() - started}


def standing(trainings: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, lowest mean val_score first, from one row per training run.

    Columns: trial, seeds (n), mean and standard deviation of each measure, and like_best: True if
    its val_score does not clearly differ from the best one's at 95 % (Tukey 1949, Kramer 1956).
    like_best is True for all if any setting has fewer than 2 seeds.
    """
    groups = trainings.dropna(subset=["val_score"]).groupby("trial")
    summary = groups.size().to_frame("seeds")
    for measure in MEASURES:
        summary[f"{measure}_mean"] = groups[measure].mean()
        summary[f"{measure}_std"] = groups[measure].std()
    summary = summary.sort_values("val_score_mean")
    summary["like_best"] = True
    if len(summary) > 1 and summary.seeds.min() > 1:
        scores = [groups.get_group(trial).val_score for trial in summary.index]
        summary["like_best"] = stats.tukey_hsd(*scores).pvalue[0] >= 1 - CONFIDENCE
    return summary.reset_index()


def conclusion(summary: pd.DataFrame) -> str:
    """Return a line naming the settings of a `standing` that could also be the best."""
    if len(summary) < 2 or summary.seeds.min() < 2:
        return "A comparison takes at least 2 settings (SETTINGS=) with 2 seeds (SEEDS=) each."
    others = ", ".join(map(str, summary[summary.like_best].trial[1:])) or "none"
    return f"Best mean: setting {summary.trial[0]}. No clear difference from it at 95 %: {others}."
