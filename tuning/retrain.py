"""The best settings trained again with several seeds, to see which differ by more than chance.

Every training is on the manifest's own split, for the same number of epochs, and kept in a file as
soon as it ends, so that interrupted work goes on. The test is not looked at.
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

from agegender import config, disk, progress, records
from agegender.data import pixels, splits
from agegender.networks import fit
from agegender.registry import tracking
from tuning import experiment, families, journal

CONFIDENCE = 0.95
MEASURES = ("val_score", "val_age_mae", "val_gender_accuracy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of one family, each to be trained with each seed.

    chosen: the values of each setting, by its number.
    epochs: of every training.
    names: what the settings are called, by number.
    counted_epochs: the best epoch is taken among so many, for a training that was cut short; None:
        among all.
    """

    letter: str
    settings: config.Settings
    chosen: dict[int, dict[str, Any]]
    seeds: range
    epochs: int
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    counted_epochs: int | None = None


def retrain(
    plan: Plan,
    faces: pixels.Faces,
    *,
    path: Path,
    parent_run_id: str,
    cache: Path,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> pd.DataFrame:
    """Carry out a plan, a child run a training; return one row a training.

    path: the finished trainings; what is there is not repeated.
    cache: the folder of fetched weights and cached activations.
    stop_at: on time.monotonic()'s clock; a training that would likely end later is not started.

    Columns: trial, seed, epochs, the MEASURES (missing where it diverged), seconds, run_id and
    parent_run_id.
    """
    finished = json.loads(path.read_text()) if path.exists() else []
    rows, missing = [], []
    for seed, (number, values) in itertools.product(plan.seeds, plan.chosen.items()):
        asked = {"trial": number, "values": values, "seed": seed, "epochs": plan.epochs}
        name = f"{plan.letter} setting {number:03d} · {plan.settings.preset} · seed {seed}"
        row = next((row for row in finished if asked.items() <= row.items()), None)
        if row is None:
            likely_seconds = statistics.median([r["seconds"] for r in finished] or [0])
            if finished and time.monotonic() + 1.1 * likely_seconds > stop_at:
                missing.append(name)
                continue
            training = experiment.Training(
                plan.letter, values, plan.epochs, seed, name, "retraining", number, parent_run_id
            )
            row = asked | _train(plan, training, faces, cache, report)
            finished.append(row)
            disk.write(path, json.dumps(finished, indent=1))
        if "val_score" in row:
            report(
                f"  {name}: val_score {row['val_score']:.4f} ({row['val_age_mae']:.3f} years, "
                f"{row['val_gender_accuracy']:.4f}) in {row['seconds']:.0f} s"
            )
        rows.append(row)
    if missing:
        report(f"Out of time; the same command trains what is missing: {', '.join(missing)}.")
    columns = ["trial", "seed", "epochs", *MEASURES, "seconds", "run_id", "parent_run_id"]
    return pd.DataFrame(rows, columns=columns)


def _train(
    plan: Plan,
    training: experiment.Training,
    faces: pixels.Faces,
    cache: Path,
    report: progress.Report,
) -> dict[str, Any]:
    """Return what is kept of one training: no measure where it diverged."""
    started = time.monotonic()
    row: dict[str, Any] = {"parent_run_id": training.parent_run_id}
    try:
        result, trained = experiment.train_and_log(
            training,
            faces,
            dataclasses.replace(plan.settings, seed=training.seed),
            splits.folds(faces.manifest, 1, training.seed),
            cache=cache,
            report=report,
        )
        history = trained.history.iloc[: plan.counted_epochs]
        best = dataclasses.replace(trained, history=history).best_epoch
        row |= {measure: best[measure] for measure in MEASURES} | {"run_id": result.run_id}
    except fit.TrainingDivergedError as error:
        report(f"  {training.name}: {error}")
    return row | {"seconds": time.monotonic() - started}


def best_settings(
    letter: str,
    faces: pixels.Faces,
    settings: config.Settings,
    folder: Path,
    *,
    count: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
) -> Plan:
    """Return the best `count` settings of the search in a folder, to be trained over seeds.

    epochs: None for as many as the candidate had, or a trial where there is no candidate.

    SearchError where the search has no completed trial.
    """
    done, chosen = journal.read(folder / records.JOURNAL), families.FAMILIES[letter]
    if not done:
        raise journal.SearchError(f"No search in {folder}: run `make search` with the same flags.")
    candidate = records.Candidate.load(folder / records.CANDIDATE)
    if epochs is None and candidate:
        epochs = candidate.epochs
    best = journal.best(done, count)
    return Plan(
        letter,
        settings,
        {t.number: chosen.for_epochs(t.values, epochs or 0, settings.tier) for t in best},
        range(settings.seed, settings.seed + seeds),
        epochs or families.trial_epochs(chosen.settings(settings).rungs[-1], faces),
        {trial.number: f"setting {trial.number}" for trial in best},
    )


def changed_defaults(
    letter: str,
    faces: pixels.Faces,
    settings: config.Settings,
    cache: Path,
    *,
    seeds: int = 2,
    epochs: int | None = None,
) -> Plan:
    """Return the full space's defaults, and these with one of config.ABLATIONS at a time.

    epochs: None for those of a trial.
    """
    chosen, changes = families.FAMILIES[letter], config.ABLATIONS[letter]
    defaults = families.defaults(chosen, cache)
    return Plan(
        letter,
        dataclasses.replace(settings, tier="full"),
        dict(enumerate([defaults, *(defaults | change for change in changes.values())])),
        range(settings.seed, settings.seed + seeds),
        epochs or families.trial_epochs(chosen.settings(settings).rungs[-1], faces),
        dict(enumerate(["the defaults", *changes])),
    )


def compare(
    plan: Plan,
    role: str,
    faces: pixels.Faces,
    *,
    folder: Path,
    cache: Path,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> pd.DataFrame:
    """Carry out a plan in one parent run with the tables, a child run a training.

    role: of the parent run. folder: keeps the finished trainings. Return their `standing`.
    """
    path = folder / f"{role}.json"
    title = families.FAMILIES[plan.letter].title
    told = f"{len(plan.chosen)} settings, {len(plan.seeds)} seeds, {plan.epochs} epochs."
    with tracking.run(
        f"{role} {plan.letter} · {plan.settings.preset} · seed {plan.settings.seed}",
        experiment=experiment.name_of(faces),
        run_id=json.loads(path.read_text())[-1]["parent_run_id"] if path.exists() else None,
        tags=experiment.run_tags(plan.letter, faces, plan.settings, role)
        | {"epochs": str(plan.epochs)},
        description=f"{title}: {told}",
    ) as run_id:
        experiment.log_dataset(run_id, faces, role)
        report(f"{title}: {told}")
        table = retrain(
            plan,
            faces,
            path=path,
            parent_run_id=run_id,
            cache=cache,
            stop_at=stop_at,
            report=report,
        )
        summary = standing(table)
        summary.insert(1, "setting", summary.trial.map(plan.names))
        tracking.log_table(run_id, summary, f"{role}.csv")
        tracking.log_table(run_id, table, "trainings.csv")
        tracking.set_tags(run_id, {"conclusion": conclusion(summary)})
        report(f"{summary.round(4).to_string(index=False)}\n{conclusion(summary)}")
    return summary


def standing(trainings: pd.DataFrame) -> pd.DataFrame:
    """Return one row a setting, the lowest mean val_score first, from a row a training.

    Columns: trial, seeds (n), mean and standard deviation of each measure, and like_best: whether
    its val_score does not clearly differ from the best one's at 95 % (Tukey 1949, Kramer 1956). It
    is true of all where a setting has fewer than 2 seeds.
    """
    known = trainings.dropna(subset=["val_score"])
    groups = known.groupby("trial")
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
    """Say in a line which settings of a `standing` could as well be the best."""
    if len(summary) < 2 or summary.seeds.min() < 2:
        return "A comparison takes at least 2 settings, and 2 seeds of each."
    others = ", ".join(map(str, summary[summary.like_best].trial[1:])) or "none"
    return f"Best mean: setting {summary.trial[0]}. No clear difference from it at 95 %: {others}."
