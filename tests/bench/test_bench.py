"""The ratios that the benchmark derives; `make bench` runs the measurements, which take minutes."""

import json
import types

import keras
import numpy as np
import pytest

from agegender import config
from agegender.networks import notebook
from tests.bench import bench, levers


def test_operations_of_a_network_that_can_be_counted_by_hand():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(images)  # 6 x 6 places, 3 x 3 x 3 weights, 4 filters
    network = keras.Model(images, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    assert bench.forward_flops(network) == 2 * (36 * 27 * 4 + 144 * 5)
    # Published as about 1.6 GFLOP per image in training.
    assert 3 * bench.forward_flops(notebook.build_scratch()) == pytest.approx(1.6e9, rel=0.06)


def test_ratios_are_of_what_was_measured_and_the_picture_shows_them(tmp_path):
    found = {
        "notebook_way": {"images_per_second": 50.0},
        "ours": {"images_per_second": 75.0},
        "result_a": {"seconds_to_7.48_0.869": 100.0, "seconds": 140.0, "epochs": 14},
        "trial_cost": {
            "overhead_seconds_a_trial": 10.0,
            "of_it_process_tuning_tracking_seconds": 1.5,
        },
    }
    faces = types.SimpleNamespace(rows=lambda *names: np.arange(4000))
    ratios = bench.derive(found, faces)
    assert ratios["ours_to_notebook_way"] == 1.5
    assert ratios["notebook_A_seconds_extrapolated"] == 40 * 4000 / 50
    assert ratios["times_sooner_A"] == 32
    assert ratios["share_of_a_minute"] == 0.025
    trial_seconds = 10 * config.Settings().scratch.rungs[-1] + 10
    assert ratios["settings_of_A_an_hour"] == 3600 / trial_seconds
    json.dumps(ratios)
    # Targets that were not reached or measured give no ratio.
    found["result_a"]["seconds_to_7.48_0.869"] = None
    assert "times_sooner_A" not in bench.derive(found, faces)
    figure = bench.draw(found | {"ratios": ratios})
    figure.savefig(tmp_path / "bench.png")
    assert [t.get_text() for t in figure.axes[0].texts] == ["50", "75"]


@pytest.mark.system
def test_growth_is_measured_on_repeated_images_and_ever_more_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    faces = types.SimpleNamespace(folder=tmp_path / "data", pixels=pictures)
    faces.folder.mkdir()
    monkeypatch.setattr(levers, "IMAGES", (10, 100))
    monkeypatch.setattr(levers, "TRIALS", (10, 20))
    found = levers.growth_of_images(faces, None) | levers.growth_of_trials(faces, None)
    assert min(found.values()) > 0
    assert {"input_of_100_images_per_second", "tracking_of_trial_20_milliseconds"} <= set(found)
    assert [*tmp_path.iterdir()] == [faces.folder]
