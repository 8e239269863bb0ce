"""How good predictions are: metrics with bootstrap intervals, floors, paired comparisons."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

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
    same resamples for all metrics. Arrays are (N,). ValueError where they differ in length, hold
    what is no number, or hold one gender only.
    """
    arrays = [
        np.asarray(array, float)
        for array in (age_true, age_predicted, gender_true, gender_probability)
    ]
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or arrays[0].ndim != 1 or not np.isfinite(arrays).all():
        raise ValueError(f"Expected four equally long rows of finite numbers; got {shapes}.")
    age_true, age_predicted, gender_true, gender_probability = arrays
    if len(np.unique(gender_true > 0.5)) < 2:
        raise ValueError(f"Expected faces of both genders; got {len(gender_true)} of one or none.")
    error = age_predicted - age_true
    female = gender_true > 0.5
    correct = (gender_probability >= 0.5) == female
    per_face = np.stack([np.abs(error), error**2, error, np.abs(error) <= 5, correct], axis=1)
    order = np.argsort(gender_probability, kind="stable")
    _, starts = np.unique(gender_probability[order], return_index=True)
    generator = np.random.default_rng(seed)
    count = len(error)

    def metrics(drawn):
        """Return all metrics where each face counts as often as it was drawn."""
        mae, mean_square, bias, cs5, accuracy = drawn @ per_face / count
        auc = _auc(drawn[order], female[order], starts)
        return mae, math.sqrt(mean_square), bias, cs5, accuracy, auc

    values = metrics(np.ones(count))
    samples = np.array(
        [
            metrics(np.bincount(generator.integers(0, count, count), minlength=count))
            for _ in range(resamples)
        ]
    )
    names = ("mae", "rmse", "bias", "cs5", "gender_accuracy", "gender_auc")
    return {"n": count} | {
        name: _interval(value, samples[:, column])
        for column, (name, value) in enumerate(zip(names, values, strict=True))
    }


def _auc(weights: np.ndarray, female: np.ndarray, starts: np.ndarray) -> float:
    """Return the share of pairs (female, male) in the right order, ties half.

    All sorted by probability; starts: where each new probability begins.
    """
    females = np.add.reduceat(weights * female, starts)
    males = np.add.reduceat(weights * ~female, starts)
    pairs = females.sum() * males.sum()
    # A resample with one gender only, as good as impossible, counts as chance.
    return float(females @ (np.cumsum(males) - males / 2) / pairs) if pairs else 0.5


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
