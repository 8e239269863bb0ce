"""What is said and drawn of a search."""

import dataclasses
import re

import pytest

from agegender import config
from tuning import family_search, journal


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (4, {}, ""),
        (1, {}, "1 of 120 settings tried: too few for a search; MINUTES=41 would try about 8"),
        (2, {}, "2 of 120 settings tried: too few for a search; MINUTES=41 would try about 8"),
        (
            1,
            {"minutes": None},
            "1 of 120 settings tried: too few for a search; TRIALS=8 tries more",
        ),
        (1, {"tier": "notebook"}, ""),
    ],
)
def test_too_few_settings_for_a_search_are_said(count, changes, told):
    settings = dataclasses.replace(config.Settings(), **changes)
    done = [journal.Trial(n, {"width": n}, "COMPLETED", {}, seconds=60) for n in range(count)]
    done[0].metrics["activation_seconds"] = 30.0
    assert family_search.shortfall(done, "A", settings, starting_seconds=40) == told


def test_the_page_credits_the_epochs_of_longer_trials():
    done = []
    for number in range(1, 21):
        epochs = 9 if number > 16 else 3
        scores = {"val_score": 1 / epochs, "val_age_mae": 5.0 + number, "val_gender_accuracy": 0.9}
        values = {"width": 16 + number % 5, journal.RUNG: epochs // 9, journal.EPOCHS: epochs}
        done.append(journal.Trial(number, values, "COMPLETED", scores, seconds=60))
    drawn = family_search.page(done)
    # The most important comes last.
    assert re.search(r'"y":\["width","epochs"\]', drawn)
    assert "tuner/" not in drawn
    assert family_search.page(done[:2]) == ""
