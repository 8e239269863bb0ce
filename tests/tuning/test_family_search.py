"""What is said of a search that tried too few settings."""

import dataclasses

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
