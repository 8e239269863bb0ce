import json

import numpy as np
import pytest
from scipy import stats

from agegender.measure import uncertainty


def faces(count, seed):
    """Return true and predicted ages where the old ones are three times as uncertain."""
    generator = np.random.default_rng(seed)
    age = generator.uniform(1, 90, count)
    return age, age + generator.normal(0, 3 + age / 15, count)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_hold_what_they_promise_in_young_and_old(coverage):
    # Over calibrations and new faces, as the promise is.
    inside = []
    for seed in range(300):
        calibration = uncertainty.fit_age_intervals(*faces(300, seed), coverage=coverage)
        age, predicted = faces(20, 10_000 + seed)
        low, high = uncertainty.age_intervals(calibration, predicted)
        inside += zip(predicted > 45, (low <= age) & (age <= high), strict=True)
    inside = np.array(inside)
    for old in (False, True):
        hits = inside[inside[:, 0] == old, 1]
        # Bands of 50 and more round the rank up by at most 1 / 51.
        low, high = stats.binom.ppf([0.001, 0.999], len(hits), [coverage, coverage + 1 / 51])
        assert low <= hits.sum() <= high


def test_bands_are_as_fine_as_their_size_allows_and_widen_with_age():
    calibration = uncertainty.fit_age_intervals(*faces(520, 0))
    assert calibration == json.loads(json.dumps(calibration))
    widths = calibration["half_widths_years"]
    assert len(widths) == 10 and len(calibration["edges"]) == 9
    assert 1.3 * max(widths[:3]) < min(widths[-3:])
    age, predicted = faces(520, 0)
    band = np.searchsorted(calibration["edges"], predicted, side="right")
    assert np.bincount(band).min() >= 50
    for count, bands in ((30, 1), (99, 1), (100, 2)):
        found = uncertainty.fit_age_intervals(*faces(count, 0))
        assert len(found["half_widths_years"]) == bands
    # One prediction for most faces cannot be cut.
    found = uncertainty.fit_age_intervals(age, np.where(predicted < 80, 30, predicted))
    assert len(found["half_widths_years"]) == 1


def test_the_half_width_is_the_conformal_quantile():
    errors = np.arange(1, 20)
    found = uncertainty.fit_age_intervals(np.full(19, 50), 50 + errors, coverage=0.9)
    assert found["half_widths_years"] == [18]  # rank 20 * .9
    nine = uncertainty.fit_age_intervals(np.full(9, 50), 50 + errors[:9], coverage=0.9)
    assert nine["half_widths_years"] == [9]
    with pytest.raises(ValueError, match="Expected 9 faces or more .* got 8"):
        uncertainty.fit_age_intervals(np.full(8, 50), 50 + errors[:8], coverage=0.9)


def test_coverage_is_counted_and_no_age_is_below_zero():
    calibration = {"coverage": 0.9, "n": 99, "edges": [20.0], "half_widths_years": [5.0, 10.0]}
    predicted = np.array([2, 19, 20, 50])
    low, high = uncertainty.age_intervals(calibration, predicted)
    assert (low.tolist(), high.tolist()) == ([0, 14, 10, 40], [7, 24, 30, 60])
    found = uncertainty.interval_coverage(calibration, [7, 25, 10, 61], predicted)
    assert (found["value"], found["n"]) == (0.5, 4)
    assert found["mean_width_years"] == (7 + 10 + 20 + 20) / 4
    # Clopper and Pearson for 2 of 4.
    assert [found["low"], found["high"]] == pytest.approx(
        stats.beta.ppf([0.025, 0.975], [2, 3], [3, 2])
    )


def test_abstention_takes_the_lowest_confidence_that_is_accurate_enough():
    generator = np.random.default_rng(0)
    probability = generator.random(2000).round(2)
    gender = generator.random(2000) < probability
    found = uncertainty.fit_abstention(gender, probability, accuracy=0.9)
    assert found == json.loads(json.dumps(found))
    confidence = np.maximum(probability, 1 - probability)
    correct = (probability >= 0.5) == gender
    accepted = confidence >= found["confidence"]
    assert found["share_accepted"] == accepted.mean()
    assert found["accuracy"] == pytest.approx(correct[accepted].mean()) and found["accuracy"] >= 0.9
    lower = np.unique(confidence[~accepted])
    assert len(lower) > 10
    assert all(correct[confidence >= each].mean() < 0.9 for each in lower)


def test_abstention_says_where_no_confidence_is_enough_and_where_none_is_needed():
    gender, probability = np.array([0, 1, 0, 1]), np.array([0.9, 0.1, 0.1, 0.9])
    found = uncertainty.fit_abstention(gender, probability)
    assert (found["confidence"], found["share_accepted"], found["accuracy"]) == (None, 0, None)
    found = uncertainty.fit_abstention(gender, np.array([0.1, 0.9, 0.3, 0.6]))
    assert (found["confidence"], found["share_accepted"], found["accuracy"]) == (0.6, 1, 1)
