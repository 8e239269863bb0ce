"""The report: each sentence and table is held against the numbers it comes from."""

import dataclasses
import functools
import json
import re

import numpy as np
import pandas as pd
import pytest

from agegender.measure import evaluation, robustness
from agegender.show import card, figures, intervals, pages, report
from agegender.show.intervals import Interval
from agegender.show.report import StoredRun, StoredVersion

COUNT = 300
HOW = {"A": (8, 0.2), "B": (3, 0.02)}


def labels():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"{number}.jpg" for number in range(COUNT)],
            "age_years": np.r_[np.arange(COUNT - 9) % 40, np.full(9, 85)],
            "gender": generator.integers(0, 2, COUNT),
            "race": generator.integers(0, 2, COUNT),
        }
    )


@functools.cache
def measured(family, error_years, wrong_share):
    generator = np.random.default_rng(ord(family))
    table = labels()
    table["age_predicted"] = table.age_years + error_years * generator.choice([-1, 1], COUNT)
    wrong = generator.random(COUNT) < wrong_share
    table["gender_probability"] = np.where(wrong, 1 - table.gender, table.gender) * 0.8 + 0.1
    table["age_low"], table["age_high"] = table.age_predicted - 9, table.age_predicted + 9
    metrics = evaluation.evaluate(table, seed=0, resamples=300) | {"score": 0.4}
    evidence = {
        "slices": evaluation.slices(table, seed=0).to_dict("records"),
        "intervals": {
            "coverage": 0.9,
            "test": {"value": 0.8, "low": 0.75, "high": 0.85, "mean_width_years": 21.0},
        },
        "robustness": robustness.curves(
            lambda images: (np.full(len(images), 30.0), np.full(len(images), 0.6)),
            np.zeros((4, 32, 32, 3), np.uint8),
            np.arange(4.0),
            np.array([0.0, 1, 0, 1]),
            seed=0,
        ).to_dict("records"),
        "abstention": {"accuracy_target": 0.97, "confidence": None, "share_accepted": 0.0},
    }
    return evaluation.flatten(metrics), evidence, table.to_csv(index=False).encode()


def stored(family, error_years, wrong_share, *, files=None, tags=None, **changes):
    """A version whose ages are off by so many years and whose genders are wrong in such a share."""
    metrics, evidence, predictions = measured(family, error_years, wrong_share)
    history = pd.DataFrame({"epoch": range(4), "val_score": [0.5, 0.4, 0.45, 0.46]})
    history["age_mae"], history["val_age_mae"] = [9.0, 7, 3, 2], [9.0, 8, 8, 8]
    for name in ("age_loss", "gender_loss", "gender_accuracy"):
        history[name] = history[f"val_{name}"] = [0.7, 0.8, 0.8, 0.8]
    layers = [{"name": "image", "kind": "InputLayer", "shape": [8, 8, 3], "parameters": 0}]
    layers += [{"name": "conv", "kind": "Conv2D", "shape": [8, 8, 4], "parameters": 112}]
    layers += [{"name": "pool", "kind": "GlobalAveragePooling2D", "shape": [4], "parameters": 0}]
    layers += [
        {"name": name, "kind": "Dense", "shape": [1], "parameters": 5} for name in ("age", "gender")
    ]
    kept = {"predictions.csv": predictions, "evidence.json": json.dumps(evidence).encode()}
    kept |= {"layers.json": json.dumps(layers).encode()}
    arguments = {
        "family": family,
        "name": f"age-gender-{family}",
        "tags": {"version": "3", "data.digest": "abc", "seed": "7", "run_id": f"run{family}"}
        | {"settings": json.dumps({"learning_rate": 0.0020001, "odd": "<b> | *x*"})}
        | (tags or {}),
        "run": StoredRun(
            metrics={f"test_{name}": value for name, value in metrics.items()}
            | {"parameters": 122.0},
            files=kept | (files or {}),
        ),
        "search": StoredRun(),
        "history": history,
        "sizes": {"num_rows": 2000, "train": 1700, "test": COUNT},
        "pretraining": "",
    }
    return StoredVersion(**arguments | changes)


def looks(count):
    return pd.DataFrame(
        {
            "when": pd.date_range("2026-01-01", periods=count),
            "purpose": "final evaluation",
            "run_id": "runA",
            "data": ["abc"] * (count - 1) + ["other"],
        }
    )


def written(*models, count=2, kind="utkface"):
    """Return the page without its pictures, whose drawing takes most of the time."""
    return pages.html(report.markdown(models, looks(count), kind, {}), {})


def rows(text):
    """Return the cells of all table rows of a page, by the first."""
    found = re.findall(r"<tr>\n(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.DOTALL) for row in found]
    return {first: rest for first, *rest in cells}


@pytest.fixture(scope="module")
def both():
    return [stored(family, *how) for family, how in HOW.items()]


@pytest.fixture(scope="module")
def page(both):
    return report.write(both, looks(2), kind="utkface", faces=False)


def test_every_metric_is_that_of_its_model_side_by_side(page):
    table = rows(page[0])
    numbers = {family: measured(family, *how)[0] for family, how in HOW.items()}
    for name, label in card.METRICS.items():
        shown = [intervals.digits(Interval.of(numbers[family], name)) for family in "AB"]
        assert table[label] == shown, name
    assert table["parameters"] == ["122", "122"] and table["faces"] == ["300", "300"]
    assert table["learning_rate"] == ["0.002", "0.002", "odd", *["&lt;b&gt; | *x*"] * 2]
    assert table["best epoch of these, by validation"] == ["2", "2"]
    assert table["MAE in validation there, years"] == ["8.00", "8.00"]
    assert table["age intervals: held on the test"] == ["80 % [75, 85]"] * 2
    assert table["gender: share of faces answered for it"] == ["0 %", "0 %"]
    assert table["change of the MAE by the mirror image, years"] == ["not measured"] * 2
    assert "2,000 faces: 1,700 train, 300 test." in page[0]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((8, 0.2), (3, 0.02), "B is better"),
        ((3, 0.02), (8, 0.2), "A is better"),
        ((5, 0.1), (5, 0.1), "no clear difference"),
    ],
)
def test_the_verdict_is_that_of_the_paired_comparison(a, b, verdict):
    models = [stored("A", *a), stored("B", *b)]
    text = written(*models)
    assert f"Age: <strong>{verdict}</strong>. Gender: <strong>{verdict}</strong>" in text
    found = evaluation.compare(models[1].predictions, models[0].predictions, seed=0)
    assert f"minus A's is {intervals.digits(Interval.of(found['mae']))} years" in text
    gender = found["gender"]
    assert f"B alone is right for {gender['only_a']} faces, A alone for {gender['only_b']}" in text


def test_the_worst_groups_are_those_of_the_table_and_small_ones_say_so(page):
    assert "age 80+ looks worst, 8.00 [8.00, 8.00] years, on 9 faces only;" not in page[0]
    worse = json.loads(stored("A", 8, 0.2).run.files["evidence.json"])
    for row in worse["slices"]:
        if row["slice"] == "age 80+":
            row |= {"mae": 17.1, "mae_low": 12.2, "mae_high": 22.4}
    text = written(stored("A", 8, 0.2, files={"evidence.json": json.dumps(worse).encode()}))
    assert "age 80+ looks worst, 17 [12, 22] years, on 9 faces only;" in text


def test_a_release_is_not_said_to_be_searched():
    release = {"release": "age_gender_A_full", "epochs": "36"}
    text = written(stored("A", 8, 0.2, tags=release))
    assert rows(text)["chosen among so many settings"] == ["none: fixed before"]
    assert "A was released: trained for 36 epochs on training and validation faces" in text
    assert "make release MODEL=A_full" in text and "trials.csv" not in text
    text = written(stored("A", 8, 0.2))
    assert rows(text)["chosen among so many settings"] == ["not known"]


def test_discarded_fine_tuning_is_said(both):
    discarded = stored("B", 3, 0.02, tags={"fine_tuning_kept": "False"})
    assert "Fine-tuning was tried and discarded" in written(discarded)
    kept = stored("B", 3, 0.02, tags={"fine_tuning_kept": "True"})
    assert "discarded" not in written(both[0], kept)


def test_different_faces_are_not_compared(both):
    table = labels().assign(age_predicted=1.0, gender_probability=0.2, name="other")
    table["age_low"] = table["age_high"] = 1.0
    other = stored("B", 3, 0.02, files={"predictions.csv": table.to_csv(index=False).encode()})
    text = written(both[0], other)
    assert "they are not compared" in text and "is better" not in text


def test_whatever_is_missing_is_named_and_nothing_breaks(page):
    assert re.search(r"of network A:\s+the search that it came from \(trials.csv\)\.", page[0])
    assert "layers.json" not in page[0]
    nothing = {"run": StoredRun(), "history": pd.DataFrame(), "sizes": {}}
    empty, pdf = report.write(
        [stored("A", 8, 0.2, **nothing)], looks(1), kind="utkface", faces=True
    )
    for told in ("Network B has no champion", "evidence.json", "predictions.csv", "layers.json"):
        assert told in empty, told
    assert "nan" not in empty.lower() and "None" not in empty and "<img" not in empty
    assert rows(empty)["mean absolute error, years"] == ["not measured"]
    assert pdf.startswith(b"%PDF")


def test_both_files_hold_the_same_pictures_and_need_nothing_else(page):
    html, pdf = page
    assert html.count("<img ") == 8  # two architectures, learning curves, five of the test
    assert not re.search(r'(src|href)="(?!data:image/|#)', html) and "<script" not in html
    assert 1 <= len(re.findall(rb"/Type ?/Page\b", pdf)) <= 8
    assert len(pdf) < 2**20
    sections = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert re.findall(r'<a href="#[^"]*">(.*?)</a>', html) == sections
    for part in ("Introduction", "Our network, A", "The pretrained network, B", "Training"):
        assert part in sections
    for part in ("Results", "Summary and discussion", "Ethics", "Looks at the test"):
        assert part in sections


def test_real_faces_stay_out_unless_asked_for():
    content = pages.picture(
        figures.search_history({"A": pd.DataFrame({"trial": [1], "val_score": [0.5]})})
    )
    kept = {f"test/{name}.png": content for name in report.FACES}
    model = stored("A", 8, 0.2, run=StoredRun(files=kept), history=pd.DataFrame())
    assert not report.pictures([model], faces=False).keys() & set(report.FACES)
    found = report.pictures([model], faces=True)
    assert found.keys() == set(report.FACES)
    text = report.markdown([model], looks(1), "utkface", found)
    assert pages.html(text, found).count("<img ") == len(report.FACES)


def search_of(count):
    trials = pd.DataFrame({"trial": range(1, count + 1), "status": "COMPLETED"})
    trials["val_score"] = np.linspace(0.9, 0.4, count)
    trials["seconds"], trials["width"] = 9.0, 32
    trials["learning_rate"] = np.geomspace(1e-4, 1e-2, count)
    trials["head"] = np.resize(np.array([None, "ordinal", "regression"]), count)
    # Of a first rung, a metric that no other trial has, and what the oracle adds for itself.
    trials["epoch_seconds"], trials["tuner/rung"] = 1.5, np.arange(count) % 2
    trials.loc[count - 1, "status"] = "FAILED"
    files = {"trials.csv": trials.to_csv(index=False).encode()}
    return trials, StoredRun(
        params={"algorithm": "bayesian"}, metrics={"epoch_seconds": 1.5}, files=files
    )


def test_the_search_is_told_as_its_table_has_it():
    trials, search = search_of(12)
    a = stored("A", 8, 0.2, search=search, tags={"settings": '{"learning_rate": 0.003}'})
    a = dataclasses.replace(a, run=dataclasses.replace(a.run, tags={"trial": "4"}))
    found, done = a.search_facts, trials[trials.status == "COMPLETED"]
    assert (found.trials, found.complete, found.settings) == (12, len(done), 12)
    assert done.val_score[done.trial == found.best_trial].item() == done.val_score.min()
    assert found.best_score == done.val_score.min()
    # The search itself may rank a longer trial before one with a lower score.
    ranked = dataclasses.replace(search, tags={"best_trial": "9"})
    found = dataclasses.replace(a, search=ranked).search_facts
    assert (found.best_trial, found.best_score) == (9, trials.val_score[8])
    # Settings that were tried again count once.
    again = pd.concat([trials, trials[:3].assign(trial=[13, 14, 15])])
    repeated = dataclasses.replace(search, files={"trials.csv": again.to_csv(index=False).encode()})
    found = dataclasses.replace(a, search=repeated).search_facts
    assert (found.trials, found.settings) == (15, 12)
    # What varied among the complete trials, and what the version has: not the best trial's.
    text = written(a, stored("B", 3, 0.02))
    assert rows(text)["learning_rate"] == ["0.0001 to 0.00658", "0.003", "", ""]
    assert rows(text)["head"] == ["ordinal, regression", "not used", "", ""]
    for name in ("width", "epoch_seconds", "tuner/rung"):
        assert name not in rows(text)
    assert rows(text)["chosen among so many settings"][0] == "12"
    said = re.search(r"<p>A: .*?</p>", text)[0]
    assert re.findall(r"[\d.]+\b", said) == ["12", "12", "11", "11", "0.445", "4"]


def test_the_ledger_counts_the_looks_at_this_data():
    text = written(stored("A", 8, 0.2), count=31)
    assert "31 looks at a test are noted in this store, 30 of them at the test of this data" in text
