"""Which search ends with the best networks in the same time? Runs searches for real.

    python -m tests.bench.compared --data FACES --others MORE_FACES [--searches priorband tpe]
        [--seeds 0 1 2] [--minutes 20] [--epochs 80 8]

Each run searches and trains as `make tune` does, without the test. Its networks are judged on the
validation faces of MORE_FACES that FACES does not have. A search that is not this project's trains
the best setting it found, without the 8 % rule. A later call resumes, and skips runs that ended.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from agegender import config, disk, records
from agegender.data import pixels, splits
from agegender.measure import evaluation
from agegender.networks import export, fit, predict, step
from pipelines import search_models, train_finalists
from pipelines.work import Work, on_search
from tests.bench import regret
from tuning import experiment, families, finalists, journal

FOLDER = Path(__file__).parents[2] / "reports" / "bench" / "compared"
SEARCHES = ("priorband", "defaults", "hyperband", "random", "bayesian", "tpe")


def main() -> None:
    """Run what is missing; print the table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument(
        "--epochs", nargs=2, type=int, help="of both final runs; else as time allows"
    )
    asked = parser.parse_args()
    data, others = asked.data.resolve(), asked.others.resolve()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed, search in itertools.product(asked.seeds, asked.searches):
        folder = FOLDER / f"{search}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        if not all((folder / f"{letter}.json").exists() for letter in families.FAMILIES):
            stage = functools.partial(run, search=search, others=others, epochs=asked.epochs)
            on_search(stage, settings_of(search, asked.minutes, seed), data=data)
    found = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*/[AB].json"))]
    print(table(pd.DataFrame(found)).to_string(index=False, float_format="%.4f"))


def settings_of(search: str, minutes: float, seed: int) -> config.Settings:
    """Return the settings of `make tune` for one of SEARCHES."""
    settings = config.Settings(minutes=minutes, seed=seed)
    if search == "priorband":
        return settings
    if search == "defaults":
        return dataclasses.replace(
            settings,
            scratch=dataclasses.replace(settings.scratch, trials=1),
            pretrained=dataclasses.replace(settings.pretrained, trials=1),
        )
    return dataclasses.replace(settings, algorithm=search, least_gain=0.0)


def run(work: Work, search: str, others: Path, epochs: list[int] | None) -> None:
    """Search, train the candidates, and write their errors on other faces.

    epochs: of the final runs of A and B, for runs at times when the machine was not equally fast.
    """
    if search == "tpe":
        share = 0.0
        for letter, family in families.FAMILIES.items():
            share += family.settings(work.settings).search_share
            search_with_tpe(work.job(letter, share))
    else:
        search_models.search(work)
    for letter, count in zip(families.FAMILIES, epochs or [], strict=False):
        plan_final_run(work.job(letter), count)
    train_finalists.train(work)
    minutes = (time.monotonic() - work.started) / 60
    # One split of the others, so that all seeds are judged on the same faces.
    faces = pixels.open_faces(pixels.prepare(others, FOLDER / "data", seed=0))
    rows = unknown_rows(faces, work.faces)
    for letter in families.FAMILIES:
        done = journal.read(work.folder / letter / records.JOURNAL)
        found = {
            "family": letter,
            "search": search,
            "seed": work.settings.seed,
            "settings": journal.count_settings(done),
            "epochs": work.candidate(letter).epochs,
            "minutes": minutes,
            "floors": splits.training_floors(work.faces.manifest),
        }
        file = work.candidate_folder(letter) / f"{records.PREFIX}{letter}.h5"
        disk.write(Path(f"{letter}.json"), json.dumps(found | errors(file, faces, rows)))


def plan_final_run(job: experiment.Job, epochs: int) -> None:
    """Plan one final run of this many epochs, unless there is a plan."""
    path = job.folder / records.PLAN
    if not path.exists():
        gain = finalists.needed_gain(job.settings.least_gain, len(job.faces.rows("validation")))
        (best,) = finalists.to_train_again(journal.read(job.folder / records.JOURNAL), 1, gain)
        plan = finalists.Plan(finalists.budget(job), [(best.number, 0)], epochs)
        disk.write(path, json.dumps(dataclasses.asdict(plan)))


def unknown_rows(others: pixels.Faces, known: pixels.Faces) -> np.ndarray:
    """Return the validation rows of `others` that are not in `known` and resemble none there."""
    manifest, rows = others.manifest, others.rows("validation")
    groups = manifest.loc[manifest["name"].isin(known.manifest["name"]), "group"]
    return rows[~manifest["group"].iloc[rows].isin(groups).to_numpy()]


def errors(file: Path, faces: pixels.Faces, rows: np.ndarray) -> dict[str, list]:
    """Return an exported network's error in years for each row, and whether its gender is right."""
    age_years, gender = predict.predict(export.load_h5(file), faces.pixels, rows)
    return {
        "years": np.abs(age_years - faces.age_years[rows]).tolist(),
        "right": ((gender > 0.5) == (faces.gender[rows] > 0.5)).tolist(),
    }


def search_with_tpe(job: experiment.Job) -> None:
    """Search with Optuna's TPE and its Hyperband pruner; write the journal of the search.

    The defaults come first and trials are as long as theirs, as in the other searches. Pruned ones
    end after an epoch of A or of B's fine-tuning. MLflow gets none of them.
    """
    space = families.searched_space(job.family, job.settings.tier, job.cache)
    names, _ = families.searched(job.family, job.settings.tier, job.cache)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=job.settings.seed),
        pruner=optuna.pruners.HyperbandPruner(1, job.trial_epochs({}), 3),
    )
    study.enqueue_trial({name: space.values[name] for name in names})
    kept, done = step.Kept(), []
    handover = job.folder / records.SEARCH
    with experiment.parent_run(
        job, f"TPE {job.letter}", "search", handover=handover, params={}, description=""
    ):
        while not done or time.monotonic() + np.median([t.seconds for t in done]) < job.stop_at:
            asked = study.ask()
            values = space.values | {name: regret.suggest(asked, space, name) for name in names}
            trial = tpe_trial(job, asked, journal.Trial(len(done) + 1, values), kept)
            if trial.status == "COMPLETED":
                study.tell(asked, trial.val_score)
            else:
                study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            done.append(dataclasses.replace(trial, told=len(done)))
            job.report(f"  trial {trial.number:>2}  {trial.val_score:.3f} {trial.seconds:6.0f} s")
    journal.write(job.folder / records.JOURNAL, done)


def tpe_trial(
    job: experiment.Job, asked: optuna.Trial, trial: journal.Trial, kept: step.Kept
) -> journal.Trial:
    """Train a trial; return it with its result, or as failed if Optuna pruned it."""
    began, head_epochs = time.monotonic(), job.family.first_epochs(job.settings)

    def on_progress(done: int, total: int) -> None:
        nonlocal began  # Activations are for all trials.
        began = time.monotonic()

    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] >= head_epochs:
            asked.report(row["val_score"], row["epoch"] - head_epochs + 1)
            if asked.should_prune():
                raise optuna.TrialPruned

    (fold,) = splits.folds(job.faces.manifest, 1, job.settings.seed)
    epochs = job.trial_epochs({})
    hooks = fit.Hooks(on_epoch, on_progress)
    context = families.Context(job.settings, job.cache, epochs, job.settings.seed, hooks, kept)
    setting, metrics = job.family.from_values(trial.values), {}
    try:
        trained = job.family.train(setting, job.faces, families.Fold(*fold), context)
        metrics = trained.best_epoch | {"epoch_seconds": trained.history.seconds[-epochs:].median()}
    except optuna.TrialPruned:
        pass
    status, seconds = "COMPLETED" if metrics else "FAILED", time.monotonic() - began
    return dataclasses.replace(trial, status=status, metrics=metrics, seconds=seconds)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network and search, with means over its seeds.

    worse: its val_score minus priorband's on the same faces and seeds, with the 95 % interval over
    faces (low, high). seeds_worse: in how many seeds it is worse, of how many.
    """
    runs = found.set_index(["family", "search", "seed"]).sort_index()
    years, right = np.array(runs["years"].tolist()), np.array(runs["right"].tolist())
    floors = evaluation.Floors(*np.array(runs["floors"].tolist()).T[:, :, None])
    scores = pd.DataFrame(evaluation.val_score(years, right, floors), runs.index)
    runs = runs.assign(years=years.mean(1), right=right.mean(1), val_score=scores.mean(axis=1))
    rows = []
    for (family, search), own in scores.groupby(level=["family", "search"]):
        others = scores[[key[:2] == (family, "priorband") for key in scores.index]]
        worse = own.droplevel([0, 1]).sub(others.droplevel([0, 1])).dropna()
        by_face = worse.mean()
        margin = 1.96 * by_face.sem()
        rows.append(
            {"family": family, "search": search}
            | runs.loc[(family, search)].select_dtypes("number").mean().to_dict()
            | {"worse": by_face.mean(), "low": by_face.mean() - margin}
            | {"high": by_face.mean() + margin}
            | {"seeds_worse": f"{(worse.mean(axis=1) > 0).sum()} of {len(worse)}"}
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
