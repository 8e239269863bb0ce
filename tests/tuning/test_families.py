"""A release, as it is trained: members, restarts, calibration."""

import json

import keras
import mlflow
import numpy as np

from agegender import config
from agegender.data import pixels
from agegender.registry import tracking
from tuning import families

SMALL = {"width": 16, "stem_filters": 16, "internal_size_pixels": 64, "stages": 3}


def test_a_release_averages_its_members_and_restarts_each_from_where_it_was(tmp_path, monkeypatch):
    release = config.Release("A", 2, 1, SMALL, members=2, restarts=(1,))
    monkeypatch.setitem(config.RELEASES, "A", release)
    monkeypatch.chdir(tmp_path)
    tracking.connect(tmp_path)
    faces = pixels.open_faces(pixels.prepare(None, tmp_path / "data", seed=0, generated_faces=300))
    candidate = families.train_release(
        "A", faces, config.Settings(), folder=tmp_path / "A", cache=tmp_path, report=print
    )
    record = json.loads((candidate / "candidate.json").read_text())
    assert (record["members"], record["epochs"]) == (2, 3)

    runs = {
        run.info.run_name.removeprefix("release A, "): run
        for run in mlflow.search_runs(
            experiment_names=[families.experiment(faces)],
            filter_string="attributes.run_name LIKE 'release A, %'",
            output_format="list",
        )
    }
    begins = [f"network {member}{end}" for member in "01" for end in ("", ", restart 1")]
    assert set(runs) == {"calibration", *begins}
    rates = [float(runs[name].data.params["learning_rate"]) for name in begins]
    assert rates == [rates[0], rates[0] / 2] * 2
    client = mlflow.MlflowClient()

    def losses(name):
        history = client.get_metric_history(runs[name].info.run_id, "epochs/loss")
        return [metric.value for metric in history]

    for first, again in (begins[:2], begins[2:]):
        assert losses(again)[0] < losses(first)[0]
    assert losses(begins[0]) != losses(begins[2])

    released = keras.models.load_model(candidate / "age_gender_A.h5")
    (ensemble,) = (layer for layer in released.layers if isinstance(layer, keras.Model))
    one = keras.Model(
        ensemble.input, [ensemble.get_layer(f"member_{n}_age").output for n in (1, 2)]
    )
    pictures = faces.pixels[:8].astype("float32") / 255
    members = one.predict_on_batch(pictures)
    assert np.abs(members[0] - members[1]).max() > 1e-3
    age, _ = ensemble.predict_on_batch(pictures)
    np.testing.assert_allclose(age, (members[0] + members[1]) / 2, rtol=1e-4)
