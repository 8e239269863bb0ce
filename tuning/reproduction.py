"""Train a registered version again, to see whether the result is the same."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from agegender import records
from agegender.networks import backbones
from agegender.registry import tracking
from tuning import experiment, families, retrain

# Tags that a version needs to be trained again, besides the measures.
NEEDED = ("settings", "epochs", "epochs_trained", "seed", "preset", "tier", "data.digest")
# With fewer, the prediction interval is so wide that little falls outside it.
OTHER_SEEDS = 4
SURROUNDINGS = ("git.commit", "lock.sha256", "backend", "device")


def needed(version: dict[str, str], name: str) -> dict[str, str]:
    """Return a version's tags; ValueError if it lacks those needed to train it again."""
    if "release" in version:
        model = version["release"].removeprefix(records.PREFIX)
        raise ValueError(
            f"{name} is a release, trained without validation. `make release MODEL={model}` trains "
            "it again."
        )
    if lacking := [tag for tag in (*NEEDED, *retrain.MEASURES) if tag not in version]:
        raise ValueError(
            f"{name} has no tags {', '.join(lacking)} because it was registered before these "
            "were kept. Register it again with `make promote`."
        )
    return version


def reproduce(
    job: experiment.Job, version: dict[str, str], name: str, seeds: int | None = None
) -> dict[str, Any]:
    """Train a registered version again: with its own seed, then with further ones.

    version: its tags and run_id. name: its model and version, like "age-gender-A/3".
    seeds: number of further seeds. None: OTHER_SEEDS, and only if its own seed gives different
        numbers.

    Return `compare_with_registered` and, under "differs", what else has changed. Raises ValueError
    if the data differ, if its backbone is missing, or for a version that was cut short in the first
    part of its training.
    """
    values = _check(job, version, name)
    now = experiment.origin(job)
    before = {tag: version.get(tag, "not noted") for tag in SURROUNDINGS}
    differs = {tag: [was, now[tag]] for tag, was in before.items() if was != now[tag]}
    for tag, (was, here) in differs.items():
        job.report(f"warning: {tag} was {was}, here it is {here}")
    model, _, number = name.partition("/")
    path = job.folder / f"reproduction-{model}-{number}.json"
    with tracking.run(
        f"reproduce {name}",
        experiment=experiment.name_of(job.faces),
        tags=experiment.run_tags(job, "reproduction")
        | {"model.name": model, "model.version": number, "model.run_id": version["run_id"]},
        description=f"{name} trained again, with its own seed and others.",
    ) as run_id:
        tracking.log_dataset(run_id, job.faces, "reproduction")
        registered = {measure: float(version[measure]) for measure in retrain.MEASURES}
        seed = int(version["seed"])
        for count in (0, OTHER_SEEDS) if seeds is None else (seeds,):
            plan = retrain.Plan(
                {0: values},
                range(seed, seed + count + 1),
                int(version["epochs"]),
                counted_epochs=int(version["epochs_trained"]),
            )
            table = retrain.retrain(job, plan, path=path, parent_run_id=run_id)
            result = compare_with_registered(registered, table.iloc[0], table.iloc[1:])
            if result["identical"]:
                break
        result |= {"differs": differs, "trainings": table.to_dict("records")}
        tracking.log_text(run_id, json.dumps(result, indent=1), "reproduction.json")
        tracking.set_tags(run_id, {"verdict": result["verdict"]})
    path.unlink()  # The result is in the store. The next call trains again.
    job.report("\n".join(_told(result, name, len(table) - 1)))
    return result


def _check(job: experiment.Job, version: dict[str, str], name: str) -> dict[str, Any]:
    """Return a version's values; ValueError if it cannot be trained again here."""
    if job.faces.digest != version["data.digest"]:
        raise ValueError(
            f"{name} was trained on data with digest {version['data.digest']}; these faces "
            f"have {job.faces.digest}. Give the same pictures with DATA=, in an environment from "
            "the same requirements.lock: the digest covers the decoded pixels and their split."
        )
    backbone = version["backbone"]
    if backbone not in ("none", *backbones.available(families.weights(job.cache))):
        how = f"check out {version.get('git.commit')}, which has it"
        if backbone in backbones.BACKBONES:
            how = f"run python -m pipelines.fetch_backbones {backbone}"
        raise ValueError(f"{name} starts from {backbone}, whose weights are missing: {how}.")
    values = json.loads(version["settings"])
    small_epochs = job.family.from_values(values).small_epochs(int(version["epochs"]))
    first_epochs = small_epochs + job.family.first_epochs(job.settings)
    goes_on = small_epochs > 0 or values.get("unfrozen_share", 0) > 0
    if int(version["epochs_trained"]) < first_epochs + goes_on:
        raise ValueError(
            f"MINUTES cut {name} short in the first part of its training (A on small pictures, B's "
            "head), at a moment that no other run would hit. Reproduce a version that had enough "
            "time."
        )
    return values


def compare_with_registered(
    registered: dict[str, float], same_seed: dict[str, float], others: pd.DataFrame
) -> dict[str, Any]:
    """Return whether a model's validation MAE, in years, and accuracy were reproduced.

    registered: the registered numbers, with 4 digits. same_seed: those of the run with the same
    seed. others: one row per further seed, or none. Each measure gets registered, same_seed,
    difference and, if there are others, low, high, inside (their prediction interval). The model is
    reproduced if all numbers of the same seed are the registered ones, or if both measures are
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


def prediction_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval for a new observation from the distribution of these values.

    It is mean -+ t s sqrt(1 + 1/n) for n normal values, 2 or more. With 2, it extends about 15 s to
    each side.
    """
    count, deviation = len(values), np.std(values, ddof=1)
    scale = deviation * math.sqrt(1 + 1 / count)
    low, high = stats.t.interval(retrain.CONFIDENCE, count - 1, np.mean(values), scale)
    return float(low), float(high)


def _told(result: dict[str, Any], name: str, others: int) -> list[str]:
    """Return the result with this number of other seeds as lines of text."""
    lines = []
    for measure, found in result["measures"].items():
        line = f"{measure}: registered {found['registered']:.4g}, "
        line += f"with the same seed {found['same_seed']:.4g}"
        if "inside" in found:
            line += (
                f"; 95 % prediction interval of {others} other seeds "
                f"[{found['low']:.4g}, {found['high']:.4g}]: "
                f"{'inside' if found['inside'] else 'outside'}"
            )
        lines.append(line)
    return [*lines, f"{name}: {result['verdict']}" + ", to the digit" * result["identical"]]
