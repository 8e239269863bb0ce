"""How far to trust a prediction: age intervals, and when to abstain from naming a gender."""

import math

import numpy as np
import pandas as pd

from agegender import records
from agegender.measure import evaluation

MOST_BANDS = 10
BAND_SIZE = 50  # faces
ROUNDING = 1e-9  # 0.9 / (1 - 0.9) is a little more than 9


def fit_age_intervals(
    age_true: np.ndarray, age_predicted: np.ndarray, *, coverage: float = 0.9
) -> dict:
    """Fit half widths, in years, of age intervals that contain the true age of `coverage` of faces.

    Split conformal prediction (Lei et al. 2018), Mondrian (Vovk 2012): one half width per band of
    the predicted age, with up to 10 bands of 50 faces or more, separated by `edges`. Ages: years,
    (N,), of validation faces; coverage holds for faces like them. Raises ValueError for too few.
    """
    age_predicted = np.asarray(age_predicted, float)
    error = np.abs(age_predicted - np.asarray(age_true, float))
    count = len(error)
    # With fewer, the rank below would lie beyond the largest error.
    fewest = math.ceil(coverage / (1 - coverage) - ROUNDING)
    if count < fewest:
        raise ValueError(
            f"Expected {fewest} faces or more for a coverage of {coverage}; got {count}. "
            "Use more validation faces or a lower coverage."
        )
    band_size = max(BAND_SIZE, fewest)
    for bands in range(min(MOST_BANDS, max(count // band_size, 1)), 0, -1):
        edges = np.quantile(age_predicted, np.arange(1, bands) / bands, method="higher")
        band = np.searchsorted(edges, age_predicted, side="right")
        # Equal predictions fall into one band and may leave too few for another.
        if np.bincount(band, minlength=bands).min() >= band_size:
            break
    errors = [np.sort(error[band == number]) for number in range(bands)]
    ranks = [math.ceil((len(of_band) + 1) * coverage - ROUNDING) for of_band in errors]
    half_widths = [float(of_band[k - 1]) for of_band, k in zip(errors, ranks, strict=True)]
    found = {"coverage": coverage, "n": count, "edges": edges.tolist()}
    return found | {"half_widths_years": half_widths}


def age_intervals(calibration: dict, age_predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest age, years (N,), from the result of `fit_age_intervals`."""
    age_predicted = np.asarray(age_predicted, float)
    band = np.searchsorted(calibration["edges"], age_predicted, side="right")
    half_width = np.asarray(calibration["half_widths_years"])[band]
    return np.maximum(age_predicted - half_width, 0), np.maximum(age_predicted + half_width, 0)


def interval_coverage(
    calibration: dict, age_true: np.ndarray, age_predicted: np.ndarray
) -> dict[str, float | int]:
    """Return value, low and high of the share of faces whose age, years (N,), is in its interval.

    Also return n and mean_width_years.
    """
    low, high = age_intervals(calibration, age_predicted)
    age_true = np.asarray(age_true, float)
    inside = evaluation.share((low <= age_true) & (age_true <= high), "exact")
    return inside | {"n": len(age_true), "mean_width_years": float((high - low).mean())}


def fit_abstention(
    gender_true: np.ndarray, gender_probability: np.ndarray, *, accuracy: float = 0.97
) -> dict:
    """Return the lowest confidence from which answers reach the accuracy, on validation faces.

    Confidence is the larger of both genders' probabilities; arrays (N,). Keys: accuracy_target, n,
    confidence, and share_accepted and accuracy of the faces with at least that confidence. If none
    suffices, confidence and accuracy are None and share_accepted is 0.
    """
    gender_probability = np.asarray(gender_probability, float)
    wrong = records.is_female(gender_probability) != records.is_female(gender_true)
    confidence = np.maximum(gender_probability, 1 - gender_probability)
    # From the most confident down (El-Yaniv and Wiener 2010); equal ones are accepted together.
    groups = pd.DataFrame({"wrong": wrong, "confidence": confidence}).groupby(-confidence.round(9))
    accepted = groups["wrong"].agg(["sum", "size"]).cumsum()
    accepted["confidence"] = groups["confidence"].min()
    accepted["accuracy"] = 1 - accepted["sum"] / accepted["size"]
    enough = accepted[accepted["accuracy"] >= accuracy]
    found = {"accuracy_target": accuracy, "n": len(wrong)}
    if enough.empty:
        return found | {"confidence": None, "share_accepted": 0.0, "accuracy": None}
    last = enough.iloc[-1]
    return found | {
        "confidence": float(last["confidence"]),
        "share_accepted": float(last["size"] / len(wrong)),
        "accuracy": float(last["accuracy"]),
    }
