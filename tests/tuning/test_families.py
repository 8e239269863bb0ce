"""What is trained again after a search, and a release: training, calibration."""

import dataclasses
import json

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest

from agegender import config
from agegender.networks import training
from tuning import families, search

SMALL = {"width": 8, "stem_filters": 8, "internal_size_pixels": 64, "stages": 2}
SMALL |= {"extra_block_stage": -1, "batch_size": 16}


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


def test_a_release_learns_from_validation_too_and_calibrates_without_it(
    root, drawn_faces, monkeypatch
):
    monkeypatch.setitem(config.RELEASES, "A", config.Release("A", 2, 1, SMALL))
    monkeypatch.chdir(root)
    faces = drawn_faces
    lines: list[str] = []

    def release():
        return families.train_release(
            "A",
            faces,
            config.Settings(),
            folder=root / "A",
            cache=root,
            report=lines.append,
        )

    candidate = release()
    record = json.loads((candidate / "candidate.json").read_text())
    learned = len(faces.rows("train", "validation"))
    assert (record["epochs"], record["faces"]) == (2, learned)
    assert [line for line in lines if str(line).startswith("Release")] == [
        f"Release A, calibration: 1 epochs on {len(faces.rows('train'))} faces.",
        f"Release A, final: 2 epochs on {learned} faces.",
    ]

    runs = {
        run.info.run_name.removeprefix("release A, "): run
        for run in mlflow.search_runs(
            experiment_names=[families.experiment(faces)],
            filter_string="attributes.run_name LIKE 'release A, %'",
            output_format="list",
        )
    }
    assert set(runs) == {"calibration", "final"}
    assert "val_age_mae" in runs["calibration"].data.metrics
    assert "val_age_mae" not in runs["final"].data.metrics
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(runs["final"].info.run_id, "epochs/loss")
    assert len(losses) == 2 and losses[1].value < losses[0].value

    held_out = pd.read_csv(candidate / families.HELD_OUT)
    rows = faces.rows("validation")
    assert list(held_out.name) == list(faces.manifest.name.iloc[rows])
    released = keras.models.load_model(candidate / "age_gender_A.h5")
    age, _ = training.predict(released, faces.pixels, rows)
    assert np.abs(age - held_out.age_predicted).max() > 0.1

    assert release() == candidate
    assert lines[-1] == f"A is trained: {candidate}."


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (4, {}, ""),
        (1, {}, "1 of 12 settings tried: too few for a search; MINUTES=46 would try about 8"),
        (2, {}, "2 of 12 settings tried: too few for a search; MINUTES=46 would try about 8"),
        (1, {"minutes": None}, "1 of 12 settings tried: too few for a search; TRIALS=8 tries more"),
        (1, {"tier": "notebook"}, ""),
    ],
)
def test_too_few_settings_for_a_search_are_said(count, changes, told):
    settings = dataclasses.replace(config.Settings(), **changes)
    done = [search.Trial(n, {}, "COMPLETED", {}, seconds=60) for n in range(count)]
    done[0].metrics["activation_seconds"] = 30.0
    assert families.shortfall(done, "A", settings, starting_seconds=40) == told
