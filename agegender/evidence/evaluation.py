"""How good predictions are: metrics with bootstrap intervals, floors, paired comparisons."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics as scores

CONFIDENCE = 0.95


class Floors(NamedTuple):
    """Errors of the trivial predictor on the training split: what 1 means in val_score.

    age_mae: of the median age, in years; gender_error: share of the minority gender.
    """

    age_mae: float
    gender_error: float


def floors(age_years: np.ndarray, gender: np.ndarray) -> Floors:
    """Return the floors of training labels, (N,) each. ValueError where a label never varies."""
    age_mae = float(np.abs(age_years - np.median(age_years)).mean())
    gender_error = float(min(gender.mean(), 1 - gender.mean()))
    if not (age_mae > 0 and gender_error > 0):
        raise ValueError("The training faces must differ in age and in gender.")
    return Floors(age_mae, gender_error)


def val_score(age_mae: float, gender_accuracy: float, trivial: Floors) -> float:
    """Return the one scalar that is searched on: the mean of both errors in units of the floors.

    Lower is better, 0 is perfect, 1 is what predicting the median age and the majority gives.
    """
    return (age_mae / trivial.age_mae + (1 - gender_accuracy) / trivial.gender_error) / 2


def evaluate(
    age_true: np.ndarray,
    age_predicted: np.ndarray,
    gender_true: np.ndarray,
    gender_probability: np.ndarray,
    *,
    seed: int,
    resamples: int = 2000,
) -> dict[str, dict[str, float] | int]:
    """Return n and, each as {"value", "low", "high"}, the metrics of both tasks.

    mae, rmse and bias (predicted minus true) in years, cs5 (share within 5 years),
    gender_accuracy (at .5) and gender_auc. Intervals: 95 % percentile bootstrap over faces, the
    same resamples for all metrics. Arrays are (N,).
    """
    error = np.asarray(age_predicted, float) - age_true
    correct = ((np.asarray(gender_probability) >= 0.5) == (np.asarray(gender_true) > 0.5)) * 1.0
    generator = np.random.default_rng(seed)
    count = len(error)
    # Each resample is how often each face is drawn: one matrix product a mean.
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    per_face = np.stack([np.abs(error), error**2, error, np.abs(error) <= 5, correct], axis=1)
    value, samples = per_face.mean(axis=0), drawn @ per_face
    value[1], samples[:, 1] = math.sqrt(value[1]), np.sqrt(samples[:, 1])
    names = ("mae", "rmse", "bias", "cs5", "gender_accuracy")
    result = {name: _interval(value[index], samples[:, index]) for index, name in enumerate(names)}
    auc = scores.roc_auc_score(gender_true, gender_probability)
    result["gender_auc"] = _interval(
        auc, _auc_samples(np.asarray(gender_true), gender_probability, drawn * count)
    )
    return {"n": count} | result


def _auc_samples(gender_true, probability, drawn):
    """Return the AUC of each resample: the share of pairs in order, ties half, by weights."""
    order = np.argsort(probability, kind="stable")
    ranked, starts = np.unique(np.asarray(probability)[order], return_index=True)
    female = gender_true[order] > 0.5
    weights = drawn[:, order]
    positive = np.add.reduceat(weights * female, starts, axis=1)
    negative = np.add.reduceat(weights * ~female, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(axis=1) / np.maximum(
        positive.sum(axis=1) * negative.sum(axis=1), 1
    )


def _interval(value: float, samples: np.ndarray) -> dict[str, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


def flatten(metrics: dict) -> dict[str, float]:
    """Return the metrics of `evaluate` as plain numbers: mae, mae_low, mae_high, ... n."""
    flat = {}
    for name, entry in metrics.items():
        if isinstance(entry, dict):
            flat |= {
                name: entry["value"],
                f"{name}_low": entry["low"],
                f"{name}_high": entry["high"],
            }
        else:
            flat[name] = entry
    return flat


def paired_difference(
    error_a: np.ndarray, error_b: np.ndarray, *, seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """Return the mean of error_a - error_b over the same faces (N,), with its 95 % interval.

    Also the two-sided p of 'no difference', from the share of bootstrap means on the other side.
    """
    difference = np.asarray(error_a, float) - error_b
    generator = np.random.default_rng(seed)
    means = np.array(
        [
            difference[generator.integers(0, len(difference), len(difference))].mean()
            for _ in range(resamples)
        ]
    )
    other_side = min((means <= 0).mean(), (means >= 0).mean())
    p = min(1.0, 2 * max(float(other_side), 1 / resamples))
    return _interval(difference.mean(), means) | {"p": p}


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, float]:
    """Compare two classifiers on the same faces by the exact McNemar test (McNemar 1947).

    Boolean (N,) each. Return how many only a and only b got right, and the two-sided p.
    """
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}
