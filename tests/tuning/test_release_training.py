"""The training of a release: what it learns from, and what it is calibrated on."""

import json
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

from agegender import config, records
from agegender.networks import predict
from tuning import experiment, families, release_training

MODELS = Path(__file__).parents[2] / "models"

SMALL = {"width": 8, "stem_filters": 8, "internal_size_pixels": 64, "stages": 2}
SMALL |= {"extra_block_stage": -1, "batch_size": 16}


@pytest.mark.parametrize("name", config.RELEASES)
def test_a_released_model_was_trained_as_is_said(name, tmp_path):
    release = config.RELEASES[name]
    kept = json.loads((MODELS / f"age_gender_{name}.json").read_text())["record"]
    family = families.FAMILIES[release.family]
    said = families.defaults(family, tmp_path) | release.changes
    assert {known: said[known] for known in kept["values"]} == kept["values"]
    assert (release.epochs, release.seed) == (kept["epochs"], kept["seed"])
    head_epochs = release.head_epochs if release.family == "B" else 0
    assert str(release.epochs + head_epochs) == kept["origin"]["epochs_trained"]


@pytest.mark.system
def test_a_release_learns_from_validation_too_and_calibrates_without_it(
    root, drawn_faces, monkeypatch
):
    monkeypatch.setitem(config.RELEASES, "A", config.Release("A", 2, 1, SMALL))
    monkeypatch.chdir(root)
    faces = drawn_faces
    lines: list[str] = []

    def release():
        settings = config.Settings()
        job = experiment.Job("A", faces, settings, root / "A", root, report=lines.append)
        return release_training.train_release("A", job)

    candidate = release()
    record = records.Candidate.load(candidate)
    learned = len(faces.rows("train", "validation"))
    assert (record.epochs, record.faces) == (2, learned)
    assert [line for line in lines if str(line).startswith("Release")] == [
        f"Release A, calibration: 1 epochs on {len(faces.rows('train'))} faces.",
        f"Release A, final: 2 epochs on {learned} faces.",
    ]

    runs = {
        run.info.run_name.removeprefix("release A, "): run
        for run in mlflow.search_runs(
            experiment_names=[experiment.name_of(faces)],
            filter_string="attributes.run_name LIKE 'release A, %'",
            output_format="list",
        )
    }
    assert set(runs) == {"calibration", "final"}
    assert "val_age_mae" in runs["calibration"].data.metrics
    assert "val_age_mae" not in runs["final"].data.metrics
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(runs["final"].info.run_id, "epochs/loss/training")
    assert len(losses) == 2 and losses[1].value < losses[0].value

    held_out = records.read_predictions(candidate / records.HELD_OUT)
    rows = faces.rows("validation")
    assert list(held_out.name) == list(faces.manifest.name.iloc[rows])
    released = keras.models.load_model(candidate / "age_gender_A.h5")
    age, _ = predict.predict(released, faces.pixels, rows)
    assert np.abs(age - held_out.age_predicted).max() > 0.1

    assert release() == candidate
    assert lines[-1] == f"A is already trained: {candidate}."
