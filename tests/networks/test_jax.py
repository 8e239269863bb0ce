"""The core path on JAX, in a process that cannot import TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTensorFlow())
import dataclasses, keras, keras_tuner, numpy as np
from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import backend, batches, export, fit, models, step
from tuning import search
assert keras.backend.backend() == "jax"
assert backend.prepare() in ("CPU", "GPU")
pictures = np.random.default_rng(0).integers(0, 256, (48, 128, 128, 3), "uint8")
age_years = pictures.mean((1, 2, 3)).astype("float32") - 90
gender = (np.arange(48) % 2).astype("float32")
step.STEPS_PER_EXECUTION = 2  # of 3 an epoch, the last one of half a batch

def run_trial(trial):
    losses = []
    for resident in (True, False):
        keras.utils.set_random_seed(0)
        network = models.build_scratch(internal_size_pixels=64, width=8, stem_filters=8, stages=2,
                                       extra_block_stage=-1,
                                       trunk_dropout=trial.values["dropout"])
        history = fit.fit(
            models.for_training(network),
            batches.Examples(pictures, age_years, gender, np.arange(40), np.arange(40, 48),
                             evaluation.floors(age_years, gender)),
            hyperparameters.Scratch(batch_size=16, mixing=0.4), epochs=1, resident=resident)
        losses.append(history.loss[0])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    export.export_h5(network, Path(sys.argv[1]))
    return dataclasses.replace(trial, status="COMPLETED", metrics=history.iloc[0][
        ["val_score", "val_age_mae", "val_gender_accuracy"]].to_dict())

plan = search.Plan(lambda hp: hp.Float("dropout", 0, 0.5), "priorband", seed=0, most_trials=1)
done = search.search(search.Runner(run_trial), plan,
                     path=Path(sys.argv[1]).with_suffix(".json"))
assert done[0].status == "COMPLETED", done[0].message
export.load_verified(Path(sys.argv[1]))
print(export.golden(Path(sys.argv[1]))[0])
"""


@pytest.mark.system
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_search_train_and_export_without_tensorflow(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "network.h5")],
        cwd=root,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "jax" in done.stdout
