"""The best settings again, over seeds: which are told apart, and does a registered one reproduce.

Every training is on the manifest's own split, for the same number of epochs, and kept in a file as
soon as it ends, so that interrupted work goes on. The test is not looked at.
"""

import dataclasses
import json
import math
import statistics
import string
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from agegender import config, disk, progress
from agegender.data import pixels
from agegender.networks import backbones, training
from agegender.registry import tracking
from tuning import families, search, spaces, trials

CONFIDENCE = 0.95
MEASURES = ("val_score", "val_age_mae", "val_gender_accuracy")
# What a version must be tagged with to be trained again, besides the measures.
NEEDED = ("settings", "epochs", "epochs_trained", "seed", "preset", "tier", "data.digest")
# Fewer leave a prediction interval so wide that little falls outside it.
OTHER_SEEDS = 4
SURROUNDINGS = ("git.commit", "lock.sha256", "backend", "device")


def retrain(
    family: str,
    faces: pixels.Faces,
    settings: config.Settings,
    chosen: dict[int, dict],
    seeds: range,
    epochs: int,
    *,
    path: Path,
    parent_run_id: str,
    cache: Path,
    counted_epochs: int | None = None,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> pd.DataFrame:
    """Train each setting with each seed, a child run each; return one row a training.

    chosen: number and values of each setting. path: the finished trainings; what is there is not
    repeated. counted_epochs: the best epoch is taken among so many, for a training that was cut
    short. stop_at: on time.monotonic()'s clock; a training that would likely end later is not
    started. Columns: trial, seed, epochs, the MEASURES (missing where it diverged), seconds, run_id
    and parent_run_id.
    """
    finished = json.loads(path.read_text()) if path.exists() else []
    rows, missing = [], []
    for seed in seeds:
        for number, values in chosen.items():
            asked = {"trial": number, "values": values, "seed": seed, "epochs": epochs}
            name = f"{family} setting {number:03d} seed {seed}"
            row = next((row for row in finished if asked.items() <= row.items()), None)
            if row is None:
                likely_seconds = statistics.median([r["seconds"] for r in finished] or [0])
                if finished and time.monotonic() + 1.1 * likely_seconds > stop_at:
                    missing.append(name)
                    continue
                started = time.monotonic()
                row = asked | {"parent_run_id": parent_run_id}
                try:
                    result, trained = families.train_and_log(
                        family,
                        faces,
                        values,
                        dataclasses.replace(settings, seed=seed),
                        name=name,
                        role="retraining",
                        number=number,
                        parent_run_id=parent_run_id,
                        cache=cache,
                        folds=trials.folds(faces, 1, seed),
                        epochs=epochs,
                        stop_at=math.inf,
                        report=report,
                    )
                    history = trained.history.iloc[:counted_epochs]
                    best = dataclasses.replace(trained, history=history).best_epoch
                    row |= {measure: best[measure] for measure in MEASURES}
                    row |= {"run_id": result.run_id}
                except training.TrainingDivergedError as error:
                    report(f"  {name}: {error}")
                row |= {"seconds": time.monotonic() - started}
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


def leaderboard(
    family: str,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    folder: Path,
    cache: Path,
    count: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> pd.DataFrame:
    """Train the best settings of a search over several seeds; return their `standing`.

    folder: the search's; epochs: as the candidate had, or a trial where there is none. One parent
    run with the table and its picture, one child run a training. SearchError where the search has
    no completed trial.
    """
    done = search.read_journal(folder / "trials.json")
    if not done:
        raise search.SearchError(f"No search in {folder}: run `make search` with the same flags.")
    candidate = folder / "candidate" / "candidate.json"
    if epochs is None and candidate.exists():
        epochs = json.loads(candidate.read_text())["epochs"]
    best = search.best(done, count)
    return _compare(
        "leaderboard",
        f"The best settings of {families.TITLES[family]}, each over {seeds} seeds.",
        family,
        faces,
        settings,
        {trial.number: spaces.for_epochs(trial.values, epochs or 0) for trial in best},
        {trial.number: f"setting {trial.number}" for trial in best},
        seeds=seeds,
        epochs=epochs,
        folder=folder,
        cache=cache,
        stop_at=stop_at,
        report=report,
    )


def ablation(
    family: str,
    faces: pixels.Faces,
    settings: config.Settings,
    changes: dict[str, dict],
    *,
    folder: Path,
    cache: Path,
    seeds: int = 2,
    epochs: int | None = None,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> pd.DataFrame:
    """Train the full space's defaults, and these with one change at a time; return `standing`.

    changes: a name each, and the values that are other than the defaults. epochs: None for those of
    a trial. Runs as for `leaderboard`, in the same shape.
    """
    defaults = spaces.defaults(family, backbones.available(trials.weights(cache)))
    return _compare(
        "ablation",
        f"The defaults of {families.TITLES[family]}, and one change at a time, over {seeds} seeds.",
        family,
        faces,
        dataclasses.replace(settings, tier="full"),
        dict(enumerate([defaults, *(defaults | change for change in changes.values())])),
        dict(enumerate(["the defaults", *changes])),
        seeds=seeds,
        epochs=epochs,
        folder=folder,
        cache=cache,
        stop_at=stop_at,
        report=report,
    )


def _compare(
    role,
    description,
    family,
    faces,
    settings,
    chosen,
    names,
    *,
    seeds,
    epochs,
    folder,
    cache,
    stop_at,
    report,
):
    """Train what is chosen over seeds in one parent run; log and return the `standing`."""
    path = folder / f"{role}.json"
    epochs = epochs or families.trial_epochs(getattr(settings, families.FAMILIES[family]), faces)
    with tracking.run(
        f"{role} {family}",
        experiment=families.experiment(faces),
        run_id=json.loads(path.read_text())[-1]["parent_run_id"] if path.exists() else None,
        tags=families.run_tags(family, faces, settings, role) | {"epochs": str(epochs)},
        description=description,
    ) as run_id:
        families.log_dataset(run_id, faces, role)
        report(
            f"{families.TITLES[family]}: {len(chosen)} settings, {seeds} seeds, {epochs} epochs."
        )
        table = retrain(
            family,
            faces,
            settings,
            chosen,
            range(settings.seed, settings.seed + seeds),
            epochs,
            path=path,
            parent_run_id=run_id,
            cache=cache,
            stop_at=stop_at,
            report=report,
        )
        summary = standing(table)
        summary.insert(1, "setting", summary.trial.map(names))
        tracking.log_table(run_id, summary, f"{role}.csv")
        tracking.log_table(run_id, table, "trainings.csv")
        tracking.set_tags(run_id, {"conclusion": conclusion(summary)})
        report(f"{summary.round(4).to_string(index=False)}\n{conclusion(summary)}")
    return summary


def standing(trainings: pd.DataFrame) -> pd.DataFrame:
    """Return one row a setting, the lowest mean val_score first, from a row a training.

    Columns: trial, seeds (n), mean and standard deviation of each measure, and group: settings that
    share a letter are not told apart in val_score at 95 % (Tukey 1949, Kramer 1956). Where one has
    fewer than 2 seeds, none is.
    """
    known = trainings.dropna(subset=["val_score"])
    groups = known.groupby("trial")
    summary = groups.size().to_frame("seeds")
    for measure in MEASURES:
        summary[f"{measure}_mean"] = groups[measure].mean()
        summary[f"{measure}_std"] = groups[measure].std()
    summary = summary.sort_values("val_score_mean")
    scores = [groups.get_group(trial).val_score for trial in summary.index]
    different = np.zeros((len(scores), len(scores)), bool)
    if len(scores) > 1 and summary.seeds.min() > 1:
        different = stats.tukey_hsd(*scores).pvalue < 1 - CONFIDENCE
    return summary.assign(group=compact_letters(different)).reset_index()


def compact_letters(different: np.ndarray) -> list[str]:
    """Return letters for each of k groups: two share one unless they are told apart.

    different: boolean (k, k), symmetric. The insert-and-absorb algorithm of Piepho (2004), "An
    algorithm for a letter-based representation of all-pairwise comparisons".
    """
    columns = {frozenset(range(len(different)))}
    for pair in np.argwhere(np.triu(different)):
        split = {column - {one} for column in columns for one in pair if {*pair} <= column}
        columns = {column for column in columns if not {*pair} <= column} | split
        columns = {column for column in columns if not any(column < other for other in columns)}
    lettered = list(zip(string.ascii_letters, sorted(columns, key=sorted), strict=False))
    return [
        "".join(letter for letter, column in lettered if group in column)
        for group in range(len(different))
    ]


def conclusion(summary: pd.DataFrame) -> str:
    """Say in a line which settings of a `standing` could as well be the best."""
    if len(summary) < 2 or summary.seeds.min() < 2:
        return "Nothing can be told apart: it takes 2 settings, and 2 seeds of each."
    best = summary.iloc[0]
    rivals = summary[summary.group.str.contains("a")].trial[1:]
    others = ", ".join(map(str, rivals)) or "none"
    return f"Best mean: setting {best.trial}. Not told apart from it at 95 %: {others}."


def prediction_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval for a new observation from the distribution that gave these.

    mean -+ t s sqrt(1 + 1/n), of normal values (n,); with n = 2 it is some 15 s wide to each side.
    ValueError for fewer than 2.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"A prediction interval takes 2 values or more; got {count}.")
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(1 + 1 / count)
    middle, deviation = np.mean(values), np.std(values, ddof=1)
    return float(middle - reach * deviation), float(middle + reach * deviation)


def compare_with_registered(
    registered: dict[str, float], same_seed: dict[str, float], others: pd.DataFrame
) -> dict:
    """Return whether a model's validation numbers came again, for MAE in years and for accuracy.

    registered: the numbers as registered, with 4 digits; same_seed: those of the training with the
    same seed; others: a row each further seed, or none. Per measure: registered, same_seed,
    difference and, where there are others, low, high, inside (their prediction interval). It is
    reproduced where all numbers of the same seed are the registered ones, or both measures lie
    inside.
    """
    measures = {}
    for name in ("val_age_mae", "val_gender_accuracy"):
        measures[name] = {
            "registered": registered[name],
            "same_seed": same_seed[name],
            "difference": same_seed[name] - registered[name],
        }
        if len(others):
            low, high = prediction_interval(others[name])
            inside = low <= registered[name] <= high
            measures[name] |= {"low": low, "high": high, "inside": inside}
    identical = all(float(f"{m['same_seed']:.4g}") == m["registered"] for m in measures.values())
    reproduced = identical or all(measure.get("inside", False) for measure in measures.values())
    return {
        "measures": measures,
        "identical": identical,
        "verdict": "reproduced" if reproduced else "not reproduced",
    }


def needed(version: dict, name: str) -> dict:
    """Return a version's tags; ValueError where it lacks what it takes to train it again."""
    if "release" in version:
        model = version["release"].removeprefix("age_gender_")
        raise ValueError(
            f"{name} was released, and trained without validation: `make release MODEL={model}` "
            "trains it again."
        )
    if lacking := [tag for tag in (*NEEDED, *MEASURES) if tag not in version]:
        raise ValueError(
            f"{name} has no tags {', '.join(lacking)}: it was registered before these were kept. "
            "Register it again with `make promote`."
        )
    return version


def reproduce(
    family: str,
    faces: pixels.Faces,
    settings: config.Settings,
    version: dict,
    name: str,
    *,
    seeds: int | None = None,
    folder: Path,
    cache: Path,
    report: progress.Report = progress.plain,
) -> dict:
    """Train a registered version again: with its own seed, then with further ones.

    seeds: so many; None for OTHER_SEEDS, and only where its own does not give the same numbers.
    version: its tags and run_id; name: its model and version, as "age-gender-A/3". folder: where
    finished trainings wait for interrupted work to go on. Return `compare_with_registered` and,
    under "differs", what else is not as it was. ValueError where the data are others, and for a B
    that was cut short before its fine-tuning.
    """
    if faces.digest != version["data.digest"]:
        raise ValueError(
            f"{name} was trained on data with digest {version['data.digest']}; these faces "
            f"have {faces.digest}. Give the same pictures with DATA=, in an environment from the "
            "same requirements.lock: digests are of the decoded pixels and of their split."
        )
    values = json.loads(version["settings"])
    head = settings.head_epochs + (values.get("unfrozen_share", 0) > 0) if family == "B" else 0
    if int(version["epochs_trained"]) < head:
        raise ValueError(
            f"{name} was cut short by MINUTES while its head was warming up, at a moment that no "
            "other training would meet. Reproduce a version that had the time."
        )
    now = families.origin(faces, settings)
    differs = {
        tag: [version.get(tag, "not noted"), now[tag]]
        for tag in SURROUNDINGS
        if version.get(tag) != now[tag]
    }
    for tag, (before, here) in differs.items():
        report(f"warning: {tag} was {before}, here it is {here}")
    model, _, number = name.partition("/")
    path = folder / f"reproduction-{model}-{number}.json"
    seed = int(version["seed"])
    with tracking.run(
        f"reproduce {name}",
        experiment=families.experiment(faces),
        tags=families.run_tags(family, faces, settings, "reproduction")
        | {"model.name": model, "model.version": number, "model.run_id": version["run_id"]},
        description=f"{name} trained again, with its own seed and others.",
    ) as run_id:
        families.log_dataset(run_id, faces, "reproduction")
        registered = {measure: float(version[measure]) for measure in MEASURES}
        for count in (0, OTHER_SEEDS) if seeds is None else (seeds,):
            table = retrain(
                family,
                faces,
                settings,
                {0: values},
                range(seed, seed + count + 1),
                int(version["epochs"]),
                path=path,
                parent_run_id=run_id,
                cache=cache,
                counted_epochs=int(version["epochs_trained"]),
                report=report,
            )
            result = compare_with_registered(registered, table.iloc[0], table.iloc[1:])
            if result["identical"]:
                break
        result |= {"differs": differs, "trainings": table.to_dict("records")}
        tracking.log_text(run_id, json.dumps(result, indent=1), "reproduction.json")
        tracking.set_tags(run_id, {"verdict": result["verdict"]})
    path.unlink()  # What was found is in the store; asked again, it is trained again.
    for measure, found in result["measures"].items():
        line = f"{measure}: registered {found['registered']:.4g}, "
        line += f"with the same seed {found['same_seed']:.4g}"
        if "inside" in found:
            line += (
                f"; 95 % prediction interval of {len(table) - 1} other seeds "
                f"[{found['low']:.4g}, {found['high']:.4g}]: "
                f"{'inside' if found['inside'] else 'outside'}"
            )
        report(line)
    report(f"{name}: {result['verdict']}" + ", to the digit" * result["identical"])
    return result
