import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from agegender.measure import evaluation


def table_of(age_years, age_predicted, gender, gender_probability):
    columns = ("age_years", "age_predicted", "gender", "gender_probability")
    given = (age_years, age_predicted, gender, gender_probability)
    return pd.DataFrame(dict(zip(columns, given, strict=True)))


@pytest.fixture
def predictions():
    generator = np.random.default_rng(1)
    age = generator.integers(1, 90, 400)
    gender = generator.integers(0, 2, 400)
    # Rounded, so that some probabilities are equal.
    probability = np.clip(gender * 0.4 + generator.normal(0.3, 0.25, 400), 0, 1).round(2)
    table = table_of(age, age + generator.normal(1, 6, 400), gender, probability)
    race = np.random.default_rng(2).integers(-1, 5, 400)
    return table.assign(name=[f"{i}.jpg" for i in range(400)], race=race)


def test_values_are_those_of_their_definitions(predictions):
    age, predicted = predictions.age_years, predictions.age_predicted
    gender, probability = predictions.gender, predictions.gender_probability
    found = evaluation.evaluate(predictions, seed=0)
    expected = {
        "mae": metrics.mean_absolute_error(age, predicted),
        "rmse": metrics.root_mean_squared_error(age, predicted),
        "bias": np.mean(predicted) - np.mean(age),
        "cs5": np.mean(np.abs(age - predicted) <= 5),
        "gender_accuracy": metrics.accuracy_score(gender, probability >= 0.5),
        "gender_f1": metrics.f1_score(gender, probability >= 0.5, average="macro"),
        "gender_auc": metrics.roc_auc_score(gender, probability),
        "gender_ece": sum(
            abs((probability - gender)[chosen].sum()) / 400
            for low in np.arange(15)
            for chosen in [(low / 15 <= probability) & (probability < (low + 1) / 15 + (low == 14))]
        ),
    }
    assert found.pop("n") == 400
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(expected)
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in found.values())
    again = evaluation.evaluate(predictions, seed=0)
    assert again.pop("n") == 400 and again == found
    flat = evaluation.flatten(found | {"score": 0.3})
    assert len(flat) == 8 * 3 + 1 and flat["score"] == 0.3
    assert flat["mae_low"] == found["mae"]["low"]


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    truths = {"mae": 5 * np.sqrt(2 / np.pi), "gender_accuracy": 0.5, "gender_auc": 0.5}
    covered = dict.fromkeys(truths, 0)
    for seed in range(200):
        error, probability = generator.normal(0, 5, 100), generator.random(100)
        table = table_of(0, error, np.tile([0, 1], 50), probability)
        found = evaluation.evaluate(table, seed=seed, resamples=300)
        for name, truth in truths.items():
            covered[name] += found[name]["low"] < truth < found[name]["high"]
    assert all(0.88 < count / 200 < 0.99 for count in covered.values()), covered


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age_predicted", np.nan, "finite"),
        ("gender_probability", np.inf, "finite"),
        ("gender", 1, "both genders"),
    ],
)
def test_what_cannot_be_evaluated_is_told(predictions, column, value, message):
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(predictions.assign(**{column: value}), seed=0)


def test_the_trivial_predictor_scores_one_and_a_perfect_one_zero(predictions):
    age, gender = predictions.age_years.to_numpy(), predictions.gender.to_numpy()
    floors = evaluation.floors(age, gender)
    trivial_mae = np.abs(age - np.median(age)).mean()
    majority = max(np.mean(gender == value) for value in (0, 1))
    assert evaluation.val_score(trivial_mae, majority, floors) == pytest.approx(1)
    assert evaluation.val_score(0, 1, floors) == 0
    for constant in (age, np.ones(400)):
        with pytest.raises(ValueError, match="several ages and both genders"):
            evaluation.floors(constant, np.ones(400))


@pytest.mark.parametrize(
    ("head", "fine_tuning", "row"),
    [
        ([0.3, 0.2, 0.25], [], 1),
        ([0.3, 0.2, 0.25], [0.26, 0.22, 0.24], 4),  # One lucky epoch of the head decides nothing.
        ([0.3, 0.2, 0.25], [0.19, 0.4], 1),
    ],
)
def test_phases_are_compared_by_their_ends_and_the_best_epoch_of_one_is_kept(
    head, fine_tuning, row
):
    history = pd.DataFrame({"val_score": head + fine_tuning})
    assert evaluation.kept_epoch(history) == np.argmin(head + fine_tuning)
    history["phase"] = ["head"] * len(head) + ["fine-tuning"] * len(fine_tuning)
    assert evaluation.kept_epoch(history) == row


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


def test_the_interval_of_the_calibration_error_holds_its_expectation():
    generator = np.random.default_rng(0)
    logit = generator.normal(0, 2, 20_000)
    true, stated = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-3 * logit))
    gender = (generator.random(20_000) < true).astype(int)
    for probability in (true, stated):
        table = table_of(0, 0, gender, probability)
        found = evaluation.evaluate(table, seed=0, resamples=100)
        bins = evaluation.probability_bins(probability)
        expected = np.abs(np.bincount(bins, probability - true)).sum() / 20_000
        ece = found["gender_ece"]
        assert ece["value"] < 0.02 if probability is true else ece["low"] < expected < ece["high"]


def test_slices_partition_the_faces(predictions):
    masks = evaluation.slice_masks(predictions)
    single = {name: mask for name, mask in masks.items() if "," not in name}
    ages = [mask for name, mask in single.items() if name.startswith("age")]
    known = (predictions.race >= 0).to_numpy()
    assert (np.sum(ages, axis=0) == 1).all()
    assert (single["male"] ^ single["female"]).all()
    assert (np.sum([single[name] for name in evaluation.RACES], axis=0) == known).all()
    pairs = {name: mask for name, mask in masks.items() if "," in name}
    for name, mask in pairs.items():
        one, other = name.split(", ")
        assert (mask == single[one] & single[other]).all()
    # Each face lies in a pair of age and gender, and in two more where its race is known.
    assert (np.sum(list(pairs.values()), axis=0) == 1 + 2 * known).all()
    assert all(mask.any() for mask in masks.values())


def test_the_ends_of_decades_lie_where_their_names_say():
    ages = [1, 9, 10, 79, 80, 116]
    masks = evaluation.slice_masks(pd.DataFrame({"age_years": ages, "gender": 1, "race": np.nan}))
    found = {name: list(np.array(ages)[mask]) for name, mask in masks.items() if "," not in name}
    decades = {"age 0-9": [1, 9], "age 10-19": [10], "age 70-79": [79], "age 80+": [80, 116]}
    assert found == decades | {"female": ages}


def test_slices_hold_their_faces_and_small_ones_are_not_ranked(predictions):
    # One face too few to be ranked.
    fewer = predictions.drop(index=np.flatnonzero(predictions.age_years < 10)[29:])
    found = evaluation.slices(fewer, seed=0)
    assert dict(zip(found.slice, found.ranked, strict=True))["age 0-9"] is False
    assert (found.ranked == (found.n >= 30)).all() and not found.ranked.all()
    for row in found.itertuples():
        mask = evaluation.slice_masks(fewer)[row.slice]
        error = (fewer.age_predicted - fewer.age_years)[mask]
        assert (row.n, row.mae) == (mask.sum(), pytest.approx(error.abs().mean()))
        assert row.bias == pytest.approx(error.mean())
        half = 1.96 * error.abs().std() / np.sqrt(row.n)
        assert not row.ranked or row.mae_high - row.mae_low == pytest.approx(2 * half, rel=0.25)
    assert json.loads(json.dumps(found.to_dict("records")))[0]["n"] == found.n[0]


def test_the_labels_own_noise_is_that_of_pairs_within_groups():
    manifest = pd.DataFrame(
        [(0, 20, 0), (0, 24, 0), (1, 50, 1), (2, 30, 1), (2, 30, 0), (2, 36, 1), (3, 70, 0)],
        columns=["group", "age_years", "gender"],
    )
    found = evaluation.label_noise(manifest)
    assert found["pairs"] == 4
    # 4 in the first group; 0, 6 and 6 in the other.
    assert found["age_difference_years"] == {"value": 4, "low": 4, "high": 4}
    assert found["gender_disagreement"] == {"value": 0.5, "low": 0, "high": pytest.approx(2 / 3)}
    assert evaluation.label_noise(manifest.drop_duplicates("group")) == {"pairs": 0}


def test_two_tables_are_compared_face_by_face(predictions):
    better = predictions.assign(
        age_predicted=(predictions.age_years + predictions.age_predicted) / 2
    )
    found = evaluation.compare(better, predictions, seed=0)
    assert found["mae"]["high"] < 0
    assert found["gender"] == {"only_a": 0, "only_b": 0, "p": 1}
    assert evaluation.compare(predictions, better, seed=0)["mae"]["low"] > 0
    with pytest.raises(ValueError, match="same faces"):
        evaluation.compare(predictions, predictions[::-1], seed=0)


def test_reliability_bins_hold_every_face_and_the_calibration_error():
    generator = np.random.default_rng(0)
    probability = generator.random(500)
    gender = (generator.random(500) < probability**2).astype(float)
    bins = evaluation.reliability(gender, probability)
    assert bins.n.sum() == 500 and (bins.share * bins.n).sum() == pytest.approx(gender.sum())
    assert (bins.share_low <= bins.share).all() and (bins.share <= bins.share_high).all()
    found = evaluation.evaluate(table_of(0, 0, gender, probability), seed=0, resamples=9)
    error = (bins.n * (bins.share - bins.probability).abs()).sum() / 500
    assert error == pytest.approx(found["gender_ece"]["value"])


def test_shared_errors_are_those_of_the_same_faces():
    ages, genders = [10, 20, 30, 40], [0, 0, 1, 1]
    one = table_of(ages, [11, 18, 33, 36], genders, [0.9, 0.9, 0.9, 0.1])
    other = table_of(ages, [12, 16, 36, 32], genders, [0.9, 0.1, 0.1, 0.1])
    found = evaluation.shared_errors(one, other)
    assert found == {"correlation": pytest.approx(1), "wrong": 3, "wrong_both": 2}
