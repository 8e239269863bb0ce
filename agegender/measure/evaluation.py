"""Quality of predictions: metrics with bootstrap intervals, floors, paired comparisons.

Tables of predictions have the columns records.LABELS and records.PREDICTED. Intervals are 95 %.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agegender import records

CONFIDENCE = 0.95
RESAMPLES = 2000
SMALL_SLICE = 30  # faces; a slice with fewer is shown but not ranked
CALIBRATION_BINS = 15
RESAMPLED_ROWS = 200_000  # at once: a few megabytes, and no loop over small slices
OLDEST_DECADE = 8
METRICS = ["mae", "rmse", "bias", "cs5", "gender_accuracy", "gender_f1", "gender_auc", "gender_ece"]
RACES = ("White", "Black", "Asian", "Indian", "other")  # UTKFace's 0..4


class Floors(NamedTuple):
    """Errors of the trivial predictor on the training split; they give a val_score of 1.

    age_mae: of the median age, in years. gender_error: share of the minority gender.
    """

    age_mae: float
    gender_error: float


def floors(age_years: np.ndarray, gender: np.ndarray) -> Floors:
    """Return the floors of training labels, (N,) each; ValueError if a label never varies."""
    age_mae = float(np.abs(age_years - np.median(age_years)).mean())
    gender_error = float(min(gender.mean(), 1 - gender.mean()))
    if not (age_mae > 0 and gender_error > 0):
        raise ValueError(
            f"Expected training faces of several ages and both genders; the {len(gender)} that "
            "came have only one age or one gender: add others."
        )
    return Floors(age_mae, gender_error)


def val_score(age_mae: float, gender_accuracy: float, trivial: Floors) -> float:
    """Return the scalar that the search minimizes: the mean of both errors in units of the floors.

    0 is perfect; always predicting the median age and the majority gender gives 1.
    """
    return (age_mae / trivial.age_mae + (1 - gender_accuracy) / trivial.gender_error) / 2


# Phase of training on pictures smaller than those that the finished network sees.
SMALL_PICTURES = "small"


def kept_epoch(history: pd.DataFrame) -> int:
    """Return the row of a history whose weights are kept: the lowest val_score of the better phase.

    Phases, if there are several, are compared by the mean of their last three epochs. The lowest of
    many epochs is partly luck, and B's head has more epochs than its fine-tuning. An epoch on small
    pictures is never kept, because its score is not that of the finished network.
    """
    scores = history["val_score"]
    if "phase" in history:
        scores = scores[history["phase"] != SMALL_PICTURES]
        ends = scores.groupby(history["phase"]).apply(lambda phase: phase.tail(3).mean())
        scores = scores[history["phase"] == ends.idxmin()]
    return int(scores.idxmin())


def evaluate(predictions: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return n and the metrics of both tasks, each as {"value", "low", "high"}.

    mae, rmse and bias (predicted minus true) in years, cs5 (share within 5 years),
    gender_accuracy, gender_f1 (mean of both genders' F1), gender_auc, and gender_ece, the
    expected calibration error of the probability of female in 15 equal bins (Naeini et al. 2015).
    Intervals: percentile bootstrap over faces, with the same resamples for all metrics. That of
    gender_ece reaches as far down as up, because resampling inflates it. So does any sampling: even
    a calibrated predictor has an error above 0. Raises ValueError if labels or predictions are not
    finite or all faces have one gender.
    """
    if not np.isfinite(predictions[["age_years", "gender", *records.PREDICTED]].astype(float)).all(
        axis=None
    ):
        raise ValueError("Expected finite ages, genders and probabilities; got NaN or infinity.")
    if len(np.unique(records.is_female(predictions["gender"]))) < 2:
        raise ValueError(f"Expected faces of both genders; got {len(predictions)} of one or none.")
    metrics, count = _metrics(predictions), len(predictions)
    draw = np.random.default_rng(seed).integers
    drawn = (np.bincount(draw(0, count, count), minlength=count) for _ in range(resamples))
    samples = np.array(list(map(metrics, drawn)))
    values = zip(METRICS, metrics(np.ones(count)), samples.T, strict=True)
    found = {name: _interval(value, of_samples) for name, value, of_samples in values}
    ece = found["gender_ece"]
    ece["low"] = max(0.0, 2 * ece["value"] - ece["high"])
    return {"n": count} | found


def _metrics(predictions: pd.DataFrame) -> Callable[[np.ndarray], tuple[float, ...]]:
    """Return a function that computes METRICS from how often each face was drawn, (N,)."""
    probability = predictions["gender_probability"].to_numpy(float)
    female, predicted = records.is_female(predictions["gender"]), records.is_female(probability)
    error, correct = records.age_error(predictions), predicted == female
    columns = [np.abs(error), error**2, error, np.abs(error) <= 5]
    columns += [correct, correct & female, female.astype(int) + predicted]
    per_face = np.stack(columns, axis=1)
    bins, gaps = probability_bins(probability), probability - female
    order = np.argsort(probability, kind="stable")
    new = np.unique(probability[order], return_index=True)[1]

    def metrics(drawn: np.ndarray) -> tuple[float, ...]:
        mae, mean_square, bias, cs5, accuracy, hits, named = drawn @ per_face / len(drawn)
        # A gender's F1: twice its hits over the number labelled plus the number predicted as it.
        f1 = hits / max(named, 1e-9) + (accuracy - hits) / max(2 - named, 1e-9)
        # AUC: the share of (female, male) pairs with probabilities in the right order, ties half.
        females = np.add.reduceat(drawn[order] * female[order], new)
        males = np.add.reduceat(drawn[order] * ~female[order], new)
        pairs = females.sum() * males.sum()
        # A resample with only one gender, which is very rare, counts as chance.
        auc = float(females @ (np.cumsum(males) - males / 2) / pairs) if pairs else 0.5
        ece = np.abs(np.bincount(bins, drawn * gaps)).sum() / len(drawn)
        return mae, math.sqrt(mean_square), bias, cs5, accuracy, f1, auc, ece

    return metrics


def probability_bins(probability: np.ndarray) -> np.ndarray:
    """Return each probability's bin, numbered from 0; all bins have equal width."""
    return np.clip(probability * CALIBRATION_BINS, 0, CALIBRATION_BINS - 1).astype(int)


def reliability(gender_true: np.ndarray, gender_probability: np.ndarray) -> pd.DataFrame:
    """Return one row per non-empty bin of `probability_bins`, indexed by bin number.

    Arrays (N,), 1 is female. Columns: n, probability (mean), share (labelled female), and
    share_low and share_high, its Wilson interval.
    """
    table = pd.DataFrame(
        {"female": records.is_female(gender_true), "probability": gender_probability}
    )
    groups = table.groupby(probability_bins(gender_probability))
    bins = groups.agg(n=("female", "size"), probability=("probability", "mean"))
    shares = pd.DataFrame([share(group) for _, group in groups["female"]], bins.index)
    return bins.assign(share=shares["value"], share_low=shares["low"], share_high=shares["high"])


def share(hits: np.ndarray | pd.Series, method: str = "wilson") -> dict[str, float]:
    """Return value, low and high of the share of True in hits, (N,).

    method: interval method, "wilson" (1927) or "exact" (Clopper and Pearson 1934).
    """
    found = stats.binomtest(int(hits.sum()), len(hits))
    low, high = found.proportion_ci(CONFIDENCE, method)
    return {"value": float(found.statistic), "low": float(low), "high": float(high)}


def _means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Return the means of bootstrap resamples of the rows of values, one row per resample."""
    draw, count = np.random.default_rng(seed).integers, len(values)
    at_once = max(1, RESAMPLED_ROWS // count)
    sizes = (min(at_once, resamples - start) for start in range(0, resamples, at_once))
    return np.concatenate([values[draw(0, count, (size, count))].mean(axis=1) for size in sizes])


def _interval(value: float, samples: np.ndarray) -> dict[str, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


def flatten(metrics: dict) -> dict[str, float]:
    """Return the metrics of `evaluate` as plain numbers: mae, mae_low, mae_high, ... n."""
    flat: dict[str, float] = {}
    for name, entry in metrics.items():
        parts = entry if isinstance(entry, dict) else {"value": entry}
        flat |= {f"{name}_{part}".removesuffix("_value"): n for part, n in parts.items()}
    return flat


def paired_difference(
    error_a: np.ndarray, error_b: np.ndarray, *, seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """Return the mean of error_a - error_b over the same faces (N,): value, low, high and p.

    p: two-sided, for no difference, from the share of bootstrap means on the other side of 0.
    """
    difference = np.asarray(error_a, float) - np.asarray(error_b, float)
    means = _means(difference, seed, resamples)
    other_side = min((means <= 0).mean(), (means >= 0).mean())
    p = min(1.0, 2 * max(float(other_side), 1 / resamples))
    return _interval(difference.mean(), means) | {"p": p}


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, float]:
    """Compare two classifiers on the same faces by the exact McNemar test (McNemar 1947).

    Arrays: boolean (N,). Return the number that only a and only b got right, and the two-sided p.
    """
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def compare(predictions: pd.DataFrame, others: pd.DataFrame, *, seed: int) -> dict[str, dict]:
    """Compare two tables of predictions of the same faces in the same order.

    Return `paired_difference` in years as "mae" (below 0: the first is better) and `mcnemar` as
    "gender". Raises ValueError if the faces differ.
    """
    if predictions["name"].tolist() != others["name"].tolist():
        raise ValueError(
            "Expected the same faces in the same order; "
            f"got {len(predictions)} and {len(others)}, some of them different."
        )
    errors = [np.abs(records.age_error(table)) for table in (predictions, others)]
    correct = [records.gender_right(table) for table in (predictions, others)]
    return {"mae": paired_difference(*errors, seed=seed), "gender": mcnemar(*correct)}


def shared_errors(predictions: pd.DataFrame, others: pd.DataFrame) -> dict[str, float | int]:
    """Return how often two networks fail on the same faces, given in the same order.

    correlation: of their age errors. wrong: number of genders that the first gets wrong.
    wrong_both: number of these that the other gets wrong too.
    """
    errors = [records.age_error(table) for table in (predictions, others)]
    wrong, other_wrong = (~records.gender_right(table) for table in (predictions, others))
    return {
        "correlation": float(np.corrcoef(errors)[0, 1]),
        "wrong": int(wrong.sum()),
        "wrong_both": int((wrong & other_wrong).sum()),
    }


def slice_masks(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return each slice's mask of the rows, boolean (N,), without slices that have no rows.

    Slices by decade of age_years ("age 0-9" to "age 80+"), gender ("male", "female"), race, and all
    pairs of these three ("male, Asian"). A race other than 0 to 4 is unknown and has no slice.
    """
    decades = [f"age {10 * start}-{10 * start + 9}" for start in range(OLDEST_DECADE)]
    decade = np.minimum(table["age_years"] // 10, OLDEST_DECADE)
    columns = (
        ([*decades, f"age {10 * OLDEST_DECADE}+"], decade),
        (("male", "female"), table["gender"]),
        (RACES, table["race"]),
    )
    kinds = [
        {name: column.to_numpy() == value for value, name in enumerate(names)}
        for names, column in columns
    ]
    masks = {name: mask for kind in kinds for name, mask in kind.items()}
    for first, second in itertools.combinations(kinds, 2):
        masks |= {f"{a}, {b}": first[a] & second[b] for a in first for b in second}
    return {name: mask for name, mask in masks.items() if mask.any()}


def slices(predictions: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return the `summary` of each slice of `slice_masks`, with its name and whether it is ranked.

    Slices of fewer than SMALL_SLICE faces are not ranked: there, extreme values are mostly chance.
    """
    masks = slice_masks(predictions).items()
    rows = [{"slice": name} | summary(predictions[mask], seed=seed) for name, mask in masks]
    table = pd.DataFrame(rows)
    return table.assign(ranked=table["n"] >= SMALL_SLICE)


def summary(predictions: pd.DataFrame, *, seed: int) -> dict[str, float | int]:
    """Return n, and mae, bias (years) and gender_accuracy, each with its _low and _high.

    Intervals: percentile bootstrap for years, Wilson's for the accuracy.
    """
    error = records.age_error(predictions)
    errors = np.stack([np.abs(error), error], axis=1)
    means = _means(errors, seed, RESAMPLES)
    mae, bias = (_interval(errors[:, kind].mean(), means[:, kind]) for kind in (0, 1))
    accuracy = share(records.gender_right(predictions))
    return flatten({"n": len(error), "mae": mae, "bias": bias, "gender_accuracy": accuracy})


def label_noise(manifest: pd.DataFrame) -> dict[str, dict[str, float] | int]:
    """Return how much the labels of near-duplicates (pictures of the same face) disagree.

    manifest: columns group, age_years and gender. Keys, over all pairs within groups: pairs (their
    number; if 0, the only key), age_difference_years (mean absolute) and gender_disagreement (share
    of the pairs), both with a bootstrap interval over groups.
    """
    faces = manifest[["group", "age_years", "gender"]].reset_index(names="row")
    pairs = faces.merge(faces, on="group").query("row_x < row_y").set_index("group")
    if pairs.empty:
        return {"pairs": 0}
    differences = {
        "age_difference_years": (pairs["age_years_x"] - pairs["age_years_y"]).abs(),
        "gender_disagreement": pairs["gender_x"] != pairs["gender_y"],
    }
    sums = pd.DataFrame({"pairs": 1, **differences}).groupby("group").sum().to_numpy(float)
    count, *totals = sums.mean(axis=0)
    samples = _means(sums, 0, RESAMPLES)
    return {"pairs": len(pairs)} | {
        name: _interval(totals[kind] / count, samples[:, kind + 1] / samples[:, 0])
        for kind, name in enumerate(differences)
    }
