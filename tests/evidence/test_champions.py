"""The report: its sentences turn with the numbers, and what is missing is said."""

import functools
import json

import numpy as np
import pandas as pd
import pytest

from agegender.evidence import champions, evaluation, figures, pages

COUNT = 300


def labels():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"{number}.jpg" for number in range(COUNT)],
            "age_years": np.arange(COUNT) % 40,
            "gender": generator.integers(0, 2, COUNT),
            "race": generator.integers(0, 5, COUNT),
        }
    )


@functools.cache
def measured(family, error_years, wrong_share):
    generator = np.random.default_rng(ord(family))
    table = labels()
    table["age_predicted"] = table.age_years + error_years * generator.choice([-1, 1], COUNT)
    wrong = generator.random(COUNT) < wrong_share
    table["gender_probability"] = np.where(wrong, 1 - table.gender, table.gender) * 0.8 + 0.1
    truth = table.age_years, table.age_predicted, table.gender, table.gender_probability
    metrics = evaluation.evaluate(*truth, seed=0, resamples=300) | {"score": 0.4}
    slices = evaluation.slices(table, seed=0)
    evidence = {
        "slices": slices.to_dict("records"),
        "worst_slices": evaluation.worst_slices(slices),
        "intervals": {
            "coverage": 0.9,
            "test": {"value": 0.8, "low": 0.75, "high": 0.85, "mean_width_years": 21.0},
        },
        "abstention": {"accuracy_target": 0.97, "confidence": None, "share_accepted": 0.0},
    }
    return evaluation.flatten(metrics), evidence, table.to_csv(index=False).encode()


def model(family, error_years, wrong_share, **changes):
    """A model whose ages are off by so many years and whose genders are wrong in such a share."""
    metrics, evidence, predictions = measured(family, error_years, wrong_share)
    tags = {"version": "3", "data.digest": "abc", "seed": "7", "run_id": f"run{family}"}
    history = pd.DataFrame({"val_score": [0.5, 0.4, 0.45, 0.46], "age_mae": [9.0, 7, 3, 2]})
    history["val_age_mae"], history["val_gender_accuracy"] = [9.0, 8, 8, 8], [0.7, 0.8, 0.8, 0.8]
    return {
        "name": f"age-gender-{family}",
        "tags": tags,
        "run_tags": {"trial": "2"},
        "params": {"learning_rate": "0.002", "age_head": "ordinal", "odd": "<b>"},
        "metrics": {f"test_{name}": value for name, value in metrics.items()},
        "history": history,
        "dataset": {"num_rows": 2000, "train": 1700, "test": COUNT},
        "files": {
            "predictions.csv": predictions,
            "evidence.json": json.dumps(evidence).encode(),
        },
        "search": {"tags": {}, "params": {}, "metrics": {}, "files": {}},
    } | changes


def looks(count):
    return pd.DataFrame(
        {
            "when": pd.date_range("2026-01-01", periods=count),
            "purpose": "final evaluation",
            "run_id": "runA",
            "data": ["abc"] * (count - 1) + ["other"],
        }
    )


def written(models, count=2, **changes):
    arguments = {"data_kind": "utkface", "faces": False} | changes
    return pages.to_html(champions.parts(models, looks(count), **arguments))


@pytest.fixture(scope="module")
def text():
    return written({"A": model("A", 8, 0.2), "B": model("B", 3, 0.02)})


def test_numbers_and_intervals_are_those_of_the_models(text):
    a = model("A", 8, 0.2)["metrics"]
    shown = f"{a['test_mae']:.2f} [{a['test_mae_low']:.2f}, {a['test_mae_high']:.2f}]"
    assert "8.00 [8.00, 8.00]" in shown and shown in text
    assert f"{a['test_gender_accuracy']:.1%} [" in text
    assert "removes 60% of the error" in text
    assert "2,000 faces: 1,700 train, 300 test" in text
    assert "<td>odd</td><td>&lt;b&gt;</td>" in text
    assert "whose sum is the age" not in text  # no summary, so no architecture is told


def test_the_verdict_turns_with_the_results(text):
    assert "In age <b>B is better</b>: B's error minus A's is -5.00" in text
    assert "In gender <b>B is better</b>" in text
    turned = written({"A": model("A", 3, 0.02), "B": model("B", 8, 0.2)})
    assert "In age <b>A is better</b>" in turned and "In gender <b>A is better</b>" in turned
    even = written({"A": model("A", 5, 0.1), "B": model("B", 5, 0.1)})
    assert "cannot tell them apart" in even or "is better" not in even
    assert "In gender they are not told apart" in even
    nothing = model("A", 30, 0.5)
    nothing["metrics"]["test_score"] = 1.2
    assert "knows no more than always the median" in written({"A": nothing})


def test_training_and_trust_are_told_as_they_were(text):
    assert "kept: 2 of 4, at 8.00 years" in text and "The 2 epochs after it brought no more" in text
    assert "overfitting)" not in text
    history = pd.DataFrame({"val_score": [0.5, 0.4], "age_mae": [5.0, 2], "val_age_mae": [9.0, 8]})
    longer = written({"A": model("A", 8, 0.2, history=history.assign(val_gender_accuracy=0.8))})
    assert "a longer training might" in longer and "overfitting)" in longer
    assert "hold it in 80.0% [75.0%, 85.0%]: less often than promised" in text
    assert "No confidence in gender reaches" in text


def test_discarded_fine_tuning_is_said(text):
    discarded = model("B", 3, 0.02)
    discarded["tags"]["fine_tuning_kept"] = "False"
    assert "Fine-tuning was tried and discarded" in written({"B": discarded})
    discarded["tags"]["fine_tuning_kept"] = "True"
    assert "discarded" not in written({"B": discarded}) and "discarded" not in text


def test_different_faces_are_not_compared():
    other = model("B", 3, 0.02)
    table = labels().assign(age_predicted=1.0, gender_probability=0.2, name="other")
    other["files"]["predictions.csv"] = table.to_csv(index=False).encode()
    assert "tested on different faces" in written({"A": model("A", 8, 0.2), "B": other})


def test_whatever_is_missing_is_named_and_nothing_breaks(text):
    assert "network A: learning_curves.png" in text and "network B: model_summary.txt" in text
    bare = {"A": model("A", 8, 0.2, files={}, metrics={}, params={}, history=pd.DataFrame())}
    bare["A"]["dataset"] = {}
    empty = written(bare, count=1)
    for told in (
        "network B: it has no champion",
        "network A: evidence.json",
        "network A: the metrics of its epochs",
        "network A: the search that it came from",
        "A was not measured on the test",
        "not two networks with predictions",
        "Nothing was measured of it.",
    ):
        assert told in empty, told
    assert "nan" not in empty.lower().replace("<nav", "")


def test_real_faces_stay_out_unless_asked_for():
    figure = figures.best_so_far(pd.DataFrame({"trial": [1, 2], "val_score": [0.5, 0.4]}))
    content = pages.picture(figure, "").content
    shown = model("A", 8, 0.2)
    shown["files"] |= dict.fromkeys([*champions.FACES, "test/confusion.png"], content)
    captions = [caption for caption in champions.FACES.values()]
    without, with_faces = written({"A": shown}), written({"A": shown}, faces=True)
    assert not any(caption in without for caption in captions)
    assert all(caption in with_faces for caption in captions)
    assert champions.PERFORMANCE["test/confusion.png"] in without


def test_the_search_says_what_mattered_and_who_is_beaten_by_none():
    rates = np.geomspace(1e-4, 1e-2, 12)
    trials = pd.DataFrame({"trial": range(1, 13), "status": "COMPLETED"})
    trials["val_score"] = np.linspace(0.9, 0.4, 12)
    trials["val_age_mae"], trials["val_gender_accuracy"] = 10 * trials.val_score, 0.8
    trials["seconds"], trials["learning_rate"], trials["width"] = 9.0, rates, 32
    search = {"tags": {}, "metrics": {}, "params": {"algorithm": "bayesian"}}
    search["files"] = {"trials.csv": trials.to_csv(index=False).encode()}
    text = written({"A": model("A", 8, 0.2, search=search)})
    for told in (
        "12 trials (12 complete), proposed by the algorithm bayesian; scores from 0.400 to 0.900",
        "<code>learning_rate</code> (1.00)",
        "<td>learning_rate</td><td>0.0001 to 0.01</td><td>0.01</td>",
        "Trial 12 is beaten by none",
        "The champion is trial 2",
        "search of A: pareto_front.png",
    ):
        assert told in text, told
    assert "<td>width</td>" not in text


def test_the_ledger_counts_the_looks_at_this_data():
    text = written({"A": model("A", 8, 0.2)}, count=31)
    assert "31 looks at a test are noted in this store, 30 of them at the test of this data" in text
    assert "The last 20:" in text and text.count("<td>final evaluation</td><td>A</td>") == 20
