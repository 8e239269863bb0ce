"""What is trained again after a search, and a release: restarts, calibration."""

import json

import keras
import mlflow
import pytest

from agegender import config
from agegender.data import pixels
from agegender.registry import tracking
from tuning import families, search

SMALL = {"width": 16, "stem_filters": 16, "internal_size_pixels": 64, "stages": 3}


def trial(number, val_score):
    if val_score is None:
        return search.Trial(number, {}, "FAILED")
    return search.Trial(number, {}, "COMPLETED", {"val_score": val_score})


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.9, 0.5, 0.6, 0.7], 3, [2, 3, 1]),
        ([0.5, 0.9, 0.6, 0.7], 3, [1, 3, 4]),
        ([0.9, 0.5, 0.6, 0.7], 1, [2]),
        ([None, 0.5, 0.6, 0.7], 2, [2, 3]),
    ],
)
def test_the_defaults_are_trained_again_beside_the_best(scores, count, expected):
    done = [trial(number, score) for number, score in enumerate(scores, start=1)]
    assert [one.number for one in families.to_train_again(done, count)] == expected


def test_a_release_goes_on_from_where_it_was_at_half_the_rate(tmp_path, monkeypatch):
    release = config.Release("A", 2, 1, SMALL, restarts=(1,))
    monkeypatch.setitem(config.RELEASES, "A", release)
    monkeypatch.chdir(tmp_path)
    tracking.connect(tmp_path)
    faces = pixels.open_faces(pixels.prepare(None, tmp_path / "data", seed=0, generated_faces=300))
    candidate = families.train_release(
        "A", faces, config.Settings(), folder=tmp_path / "A", cache=tmp_path, report=print
    )
    record = json.loads((candidate / "candidate.json").read_text())
    assert record["epochs"] == 3

    runs = {
        run.info.run_name.removeprefix("release A, "): run
        for run in mlflow.search_runs(
            experiment_names=[families.experiment(faces)],
            filter_string="attributes.run_name LIKE 'release A, %'",
            output_format="list",
        )
    }
    parts = ["final", "final, restart 1"]
    assert set(runs) == {"calibration", *parts}
    rates = [float(runs[name].data.params["learning_rate"]) for name in parts]
    assert rates[1] == rates[0] / 2
    client = mlflow.MlflowClient()
    losses = [
        [m.value for m in client.get_metric_history(runs[name].info.run_id, "epochs/loss")]
        for name in parts
    ]
    assert [len(of_part) for of_part in losses] == [2, 1]
    assert losses[1][0] < losses[0][0]
    keras.models.load_model(candidate / "age_gender_A.h5")
