"""The tables that the search benchmark derives from recorded training runs."""

import math

import numpy as np
import pandas as pd
import pytest

from tests.bench import fidelity, regret


def recorded(tmp_path, count=16):
    """Rows of made-up training runs, in which the learning rate decides; scores are noisy."""
    generator, rows = np.random.default_rng(0), []
    for number, values in enumerate(fidelity.settings_to_record("A", count, tmp_path)):
        distance = abs(math.log(values["learning_rate"] / 1.2e-3))
        for epochs in fidelity.EPOCHS["A"]:
            score = 0.3 + 0.1 * distance + 0.3 / (1 + epochs) + generator.normal(0, 0.003)
            rows.append(
                {"setting": number, "epochs": epochs, "seconds": 9.0 * epochs}
                | {"val_score": score, "setting_values": values}
            )
    return pd.DataFrame(rows)


def test_ranks_are_compared_with_those_of_the_longest():
    scores = np.linspace(0.2, 0.6, 25)
    rows = pd.concat(
        pd.DataFrame({"setting": range(25), "epochs": epochs, "seconds": 1.0, "val_score": values})
        for epochs, values in {1: -scores, 3: 2 * scores, 9: scores}.items()
    )
    found = fidelity.compare_ranks(rows).set_index("epochs")
    assert found.loc[3, ["spearman", "low", "high", "stays_in_top"]].tolist() == pytest.approx(
        [1] * 4
    )
    assert found.loc[1, ["spearman", "stays_in_top"]].tolist() == [-1, 0]


def test_settings_to_record_begin_with_the_defaults_and_differ(tmp_path):
    settings = fidelity.settings_to_record("A", 8, tmp_path)
    assert len({str(one) for one in settings}) == 8
    assert settings[0]["learning_rate"] == 2e-3


@pytest.mark.system
def test_a_simulated_search_comes_closer_to_the_best_with_time(tmp_path):
    found = regret.regrets("A", recorded(tmp_path), 2, tmp_path)
    assert set(found.minutes) == set(regret.MINUTES) and (found.regret > -0.01).all()
    means = found.pivot_table(index="minutes", columns="algorithm", values="regret")
    assert means.loc[60, "priorband"] < means.loc[60, "defaults"]
    regret.draw(found).savefig(tmp_path / "regret.png")
