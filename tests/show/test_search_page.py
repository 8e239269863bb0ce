"""A search's page: drawn from the trials as they were, and nothing where they say nothing."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from agegender.show import search_page

SEARCHED = ["learning_rate", "width", "age_head", "residual", "age_deviation_years"]


def trials(count):
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"trial": range(1, count + 1), "status": "COMPLETED"})
    table["learning_rate"] = 10 ** generator.uniform(-5, -2, count)
    table["width"] = generator.choice([16, 32, 48], count)
    table["age_head"] = generator.choice(["distribution", "ordinal"], count)
    table["residual"] = generator.choice([True, False], count)
    with_it = table.age_head == "distribution"
    table["age_deviation_years"] = np.where(with_it, table.width / 10, np.nan)
    table["val_age_mae"] = 5 + (np.log10(table.learning_rate) + 3) ** 2
    table["val_gender_accuracy"] = 0.9 + generator.normal(0, 0.01, count)
    table["val_score"] = table.val_age_mae / 15
    return table


def drawn(page):
    """Return the titles of the sections and the data of each figure."""
    titles = re.findall(r'<h2 id="\d+">(.*?)</h2>', page)
    plots = re.findall(r'Plotly.newPlot\(\s*"[^"]+",\s*(\[.*?\]),\s*\{', page, re.DOTALL)
    return dict(zip(titles, map(json.loads, plots), strict=True))


@pytest.fixture(scope="module")
def page():
    return search_page.page(trials(16), SEARCHED)


def test_history_and_slices_show_the_trials_by_their_own_numbers(page):
    table = trials(16)
    history, *_ = drawn(page)["History"]
    assert history["x"] == table.trial.tolist()
    assert history["y"] == pytest.approx(list(table.val_score))
    # What not all trials have is in no line through all of them, but in a slice of its own.
    labels = [name for name, _ in drawn(page)["Parallel coordinates"][0]["customdata"]]
    assert labels[1:] == sorted(SEARCHED[:-1])
    assert len(drawn(page)["Slices"]) == len(SEARCHED)


def test_importance_finds_what_the_score_is_a_function_of(page):
    (found,) = drawn(page)["Importance (fANOVA)"]
    assert found["y"][-1] == "learning_rate" and found["x"][-1] > 0.5
    few = search_page.page(trials(14), SEARCHED)
    assert not any("Importance" in title for title in drawn(few))


def test_the_page_needs_nothing_else_and_holds_the_library_once(page):
    assert page.count("plotly.js v") == 1 and len(page) < 6e6
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="(?!data:)', page)


def test_failed_trials_leave_their_number_free_and_few_are_refused():
    table = trials(6)
    table.loc[2, ["status", "val_score", "val_age_mae", "val_gender_accuracy"]] = ["FAILED"] + [
        np.nan
    ] * 3
    history, *_ = drawn(search_page.page(table, SEARCHED))["History"]
    assert history["x"] == [1, 2, 4, 5, 6]
    with pytest.raises(ValueError, match="3 complete trials or more; got 2"):
        search_page.page(trials(2), SEARCHED)


def test_a_search_of_one_setting_over_and_over_still_has_a_history():
    same = trials(4).assign(**{name: 1 for name in SEARCHED})
    assert list(drawn(search_page.page(same, SEARCHED))) == [
        "History",
        "Age against gender (Pareto front)",
    ]
