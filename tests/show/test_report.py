"""The report: each sentence and table is held against the numbers it comes from."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender.measure import evaluation
from agegender.show import card, figures, intervals, pages, report
from agegender.show.intervals import Interval
from agegender.show.report import StoredRun, StoredVersion

MODELS = Path(__file__).parents[2] / "models"
LAYERS = [
    {"name": "image", "kind": "InputLayer", "shape": [8, 8, 3], "parameters": 0},
    {"name": "conv", "kind": "Conv2D", "shape": [8, 8, 4], "parameters": 112},
    {"name": "pool", "kind": "GlobalAveragePooling2D", "shape": [4], "parameters": 0},
    {"name": "age", "kind": "Dense", "shape": [1], "parameters": 5},
    {"name": "gender", "kind": "Dense", "shape": [1], "parameters": 5},
]


@functools.cache
def released(family):
    """The record of a released network and its predictions of the test."""
    path = MODELS / f"age_gender_{family}.json"
    return json.loads(path.read_text())["record"], path.with_suffix(".csv").read_bytes()


def stored(family, results_of=None, *, files=None, tags=None, **changes):
    """A version with the results of a released network."""
    record, predictions = released(results_of or family)
    kept = {
        "predictions.csv": predictions,
        "evidence.json": json.dumps(record["evidence"]).encode(),
    }
    kept |= {"layers.json": json.dumps(LAYERS).encode()} | (files or {})
    metrics = evaluation.flatten(record["test"])
    arguments = {
        "family": family,
        "name": f"age-gender-{family}",
        "tags": {"version": "3", "data.digest": "abc", "seed": "7", "run_id": f"run{family}"}
        | {"settings": json.dumps({"learning_rate": 0.0020001, "odd": "<b> | *x*"})}
        | (tags or {}),
        "run": StoredRun(
            metrics={f"test_{name}": value for name, value in metrics.items()}
            | {"parameters": 122.0},
            files=kept,
        ),
        "search": StoredRun(),
        "history": pd.DataFrame(record["history"]),
        "sizes": {"num_rows": 2000, "train": 1700, "test": 300},
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
    return [stored(family) for family in "AB"]


@pytest.fixture(scope="module")
def page(both):
    return report.write(both, looks(2), kind="utkface", faces=False)


def test_every_metric_is_that_of_its_model_side_by_side(page):
    table = rows(page[0])
    kept = [released(family)[0] for family in "AB"]
    for name, label in card.METRICS.items():
        shown = [intervals.digits(Interval.of(record["test"][name])) for record in kept]
        assert table[label] == shown, name
    assert table["parameters"] == ["122", "122"]
    assert table["faces"] == [f"{record['test']['n']:,}" for record in kept]
    assert table["learning_rate"] == ["0.002", "0.002", "odd", *["&lt;b&gt; | *x*"] * 2]
    best = [min(record["history"], key=lambda epoch: epoch["val_score"]) for record in kept]
    epochs = [str(epoch["epoch"] + 1) for epoch in best]
    assert table["best of these epochs, by validation score"] == epochs
    errors = [intervals.digits(epoch["val_age_mae"]) for epoch in best]
    assert table["validation MAE at that epoch, years"] == errors
    held = [Interval.of(record["evidence"]["intervals"]["test"]) for record in kept]
    assert table["age intervals: coverage on the test set"] == list(map(intervals.percent, held))
    assert "2,000 faces: 1,700 train, 300 test." in page[0]


def with_half_the_errors(model):
    """The same version, half as far off in age and never wrong in gender."""
    table = model.predictions
    ages = (table.age_years + table.age_predicted) / 2
    better = table.assign(age_predicted=ages, gender_probability=table.gender)
    files = model.run.files | {"predictions.csv": better.to_csv(index=False).encode()}
    return dataclasses.replace(model, run=dataclasses.replace(model.run, files=files))


@pytest.mark.parametrize("verdict", ["A is better", "B is better", "no clear difference"])
def test_the_verdict_is_that_of_the_paired_comparison(verdict):
    models = [stored(family, "A") for family in "AB"]
    models = [
        with_half_the_errors(model) if verdict.startswith(model.family) else model
        for model in models
    ]
    text = written(*models)
    assert f"Age: <strong>{verdict}</strong>. Gender: <strong>{verdict}</strong>" in text
    found = evaluation.compare(models[1].predictions, models[0].predictions, seed=0)
    assert f"minus A's is {intervals.digits(Interval.of(found['mae']))} years" in text
    gender = found["gender"]
    assert f"B alone is right for {gender['only_a']} faces, A alone for {gender['only_b']}" in text


def test_the_worst_groups_are_those_of_the_table_and_small_ones_say_so():
    worse = json.loads(stored("A").run.files["evidence.json"])
    worse["slices"][0] |= {"mae": 77.1, "mae_low": 70.2, "mae_high": 84.4, "n": 9, "ranked": False}
    text = written(stored("A", files={"evidence.json": json.dumps(worse).encode()}))
    assert "looks worst, 77 [70, 84] years, on 9 faces only;" in text


def test_a_release_is_not_said_to_be_searched():
    release = {"release": "age_gender_A_full", "epochs": "36"}
    text = written(stored("A", tags=release))
    assert rows(text)["settings tried"] == ["none: fixed in advance"]
    assert "A is a release: it was trained for 36 epochs on the training and" in text
    assert "make release MODEL=A_full" in text and "trials.csv" not in text
    text = written(stored("A"))
    assert rows(text)["settings tried"] == ["not known"]


def test_discarded_fine_tuning_is_said(both):
    discarded = stored("B", tags={"fine_tuning_kept": "False"})
    assert "Fine-tuning was tried and discarded" in written(discarded)
    kept = stored("B", tags={"fine_tuning_kept": "True"})
    assert "discarded" not in written(both[0], kept)


def test_different_faces_are_not_compared(both):
    table = both[1].predictions.assign(name="other")
    other = stored("B", files={"predictions.csv": table.to_csv(index=False).encode()})
    text = written(both[0], other)
    assert "they are not compared" in text and "is better" not in text


def test_whatever_is_missing_is_named_and_nothing_breaks(page):
    assert re.search(r"for network A:\s+the search that it comes from \(trials.csv\)\.", page[0])
    assert "layers.json" not in page[0]
    nothing = {"run": StoredRun(), "history": pd.DataFrame(), "sizes": {}}
    empty, pdf = report.write([stored("A", **nothing)], looks(1), kind="utkface", faces=True)
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
    for part in ("Results", "Summary and discussion", "Ethics", "Looks at the test set"):
        assert part in sections


def test_real_faces_stay_out_unless_asked_for():
    content = pages.picture(
        figures.search_history({"A": pd.DataFrame({"trial": [1], "val_score": [0.5]})})
    )
    kept = {f"test/{name}.png": content for name in report.FACES}
    model = stored("A", run=StoredRun(files=kept), history=pd.DataFrame())
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
    a = stored("A", search=search, tags={"settings": '{"learning_rate": 0.003}'})
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
    text = written(a, stored("B"))
    assert rows(text)["learning_rate"] == ["0.0001 to 0.00658", "0.003", "", ""]
    assert rows(text)["head"] == ["ordinal, regression", "not used", "", ""]
    for name in ("width", "epoch_seconds", "tuner/rung"):
        assert name not in rows(text)
    assert rows(text)["settings tried"][0] == "12"
    said = re.search(r"<p>A: .*?</p>", text)[0]
    assert re.findall(r"[\d.]+\b", said) == ["12", "12", "11", "11", "0.445", "4"]


def test_the_ledger_counts_the_looks_at_this_data():
    text = written(stored("A"), count=31)
    assert "recorded in this store: 31, of which 30 at the test set of this data" in text
