import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from agegender.evidence import evaluation


@pytest.fixture
def predictions():
    generator = np.random.default_rng(1)
    age = generator.integers(1, 90, 400)
    gender = generator.integers(0, 2, 400)
    # Rounded, so that some probabilities are equal.
    probability = np.clip(gender * 0.4 + generator.normal(0.3, 0.25, 400), 0, 1).round(2)
    return age, age + generator.normal(1, 6, 400), gender, probability


def test_values_are_those_of_their_definitions(predictions):
    age, predicted, gender, probability = predictions
    found = evaluation.evaluate(*predictions, seed=0)
    expected = {
        "mae": metrics.mean_absolute_error(age, predicted),
        "rmse": metrics.root_mean_squared_error(age, predicted),
        "bias": np.mean(predicted) - np.mean(age),
        "cs5": np.mean(np.abs(age - predicted) <= 5),
        "gender_accuracy": metrics.accuracy_score(gender, probability >= 0.5),
        "gender_auc": metrics.roc_auc_score(gender, probability),
    }
    assert found.pop("n") == 400
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(expected)
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in found.values())
    assert found == {
        name: entry
        for name, entry in evaluation.evaluate(*predictions, seed=0).items()
        if name != "n"
    }


def test_intervals_are_as_wide_as_theory_says(predictions):
    age, predicted, gender, probability = predictions
    found = evaluation.evaluate(*predictions, seed=0)

    def width(name):
        return found[name]["high"] - found[name]["low"]

    error = np.abs(predicted - age)
    assert width("mae") == pytest.approx(2 * 1.96 * error.std() / 20, rel=0.1)
    share = found["gender_accuracy"]["value"]
    assert width("gender_accuracy") == pytest.approx(
        2 * 1.96 * np.sqrt(share * (1 - share)) / 20, rel=0.1
    )
    # Hanley and McNeil 1982.
    auc = found["gender_auc"]["value"]
    n1, n0 = gender.sum(), (1 - gender).sum()
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n1 - 1) * (q1 - auc**2) + (n0 - 1) * (q2 - auc**2)
    assert width("gender_auc") == pytest.approx(2 * 1.96 * np.sqrt(variance / n1 / n0), rel=0.15)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    gender = np.tile([0, 1], 50)
    covered = 0
    for seed in range(200):
        error = generator.normal(0, 5, 100)
        probability = generator.random(100)
        found = evaluation.evaluate(
            np.zeros(100), error, gender, probability, seed=seed, resamples=300
        )
        covered += found["mae"]["low"] < 5 * np.sqrt(2 / np.pi) < found["mae"]["high"]
    assert 0.88 < covered / 200 < 0.99


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(1, np.nan, "finite"), (3, np.inf, "finite"), (2, 1, "both genders"), (1, None, "equally")],
)
def test_what_cannot_be_evaluated_is_told(predictions, place, value, message):
    arrays = [np.array(array, float) for array in predictions]
    if value is None:
        arrays[place] = arrays[place][:-1]
    else:
        arrays[place][:] = value
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(*arrays, seed=0)


def test_the_trivial_predictor_scores_one_and_a_perfect_one_zero(predictions):
    age, _, gender, _ = predictions
    floors = evaluation.floors(age, gender)
    trivial_mae = np.abs(age - np.median(age)).mean()
    majority = max(np.mean(gender == value) for value in (0, 1))
    assert evaluation.val_score(trivial_mae, majority, floors) == pytest.approx(1)
    assert evaluation.val_score(0, 1, floors) == 0
    for constant in (age, np.ones(400)):
        with pytest.raises(ValueError, match="must differ"):
            evaluation.floors(constant, np.ones(400))


def test_flatten_keeps_every_number(predictions):
    found = evaluation.evaluate(*predictions, seed=0) | {"score": 0.3}
    flat = evaluation.flatten(found)
    assert len(flat) == 6 * 3 + 2 and flat["n"] == 400 and flat["score"] == 0.3
    assert flat["mae_low"] == found["mae"]["low"]


def test_a_paired_difference_is_seen_where_separate_intervals_overlap():
    generator = np.random.default_rng(0)
    error = generator.exponential(6, 500)
    better = error - generator.normal(0.3, 1, 500)
    found = evaluation.paired_difference(error, better, seed=0)
    assert found["low"] > 0 and found["p"] < 0.01
    assert found["value"] == pytest.approx((error - better).mean())
    back = evaluation.paired_difference(better, error, seed=0)
    assert back["value"] == -found["value"] and back["p"] == found["p"]
    same = evaluation.paired_difference(error, error, seed=0)
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_the_paired_p_is_uniform_where_nothing_differs():
    generator = np.random.default_rng(0)
    found = [
        evaluation.paired_difference(
            generator.normal(size=60), generator.normal(size=60), seed=seed, resamples=500
        )["p"]
        for seed in range(200)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_mcnemar_is_the_binomial_test_of_those_that_differ():
    for only_a, only_b in itertools.product((0, 3, 12), repeat=2):
        a = np.repeat([True, False, True, False], [only_a, only_b, 50, 20])
        b = np.repeat([False, True, True, False], [only_a, only_b, 50, 20])
        found = evaluation.mcnemar(a, b)
        assert (found["only_a"], found["only_b"]) == (only_a, only_b)
        if only_a == only_b:
            assert found["p"] == 1
        elif not only_a or not only_b:
            assert found["p"] == pytest.approx(2 * 0.5 ** (only_a + only_b))
