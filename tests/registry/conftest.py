import contextlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import mlflow
import pytest

from agegender.networks import export
from agegender.registry import tracking, versions
from tests.registry import team_server


@pytest.fixture(scope="session")
def network():
    """A network that keeps the .h5 contract, and makes no sense."""
    keras.utils.set_random_seed(0)
    image = keras.Input((128, 128, 3))
    x = keras.layers.AveragePooling2D(16)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    age = keras.layers.Dense(1, name="age")(pooled)
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender")(pooled)
    return keras.Model(image, [age, gender])


@pytest.fixture(scope="session")
def network_h5(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "age_gender_A.h5"
    export.export_h5(network, path, fresh_process=False)
    return path


@pytest.fixture
def client(root):
    return mlflow.MlflowClient()


@pytest.fixture(scope="session")
def register(network_h5):
    """A function that registers a .h5 under a run, or under a new one."""

    def call(run_id=None, **changes):
        if run_id is None:
            with tracking.run("train", experiment="tests") as run_id:
                pass
        arguments = {
            "model_name": "age-gender-A",
            "run_id": run_id,
            "h5_path": network_h5,
            "metrics": {"test_mae": 6.54321},
            "tags": {"licence": "research only", "data.kind": "generated"},
            "description": "A network.",
        }
        return versions.register_version(**arguments | changes)

    return call


@pytest.fixture(scope="session")
def running():
    """A function that runs a server of a module in a folder, on a port that is free."""

    @contextlib.contextmanager
    def start(folder, *command, health, **environment):
        port = team_server.free_port()
        with (folder / "server.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", str(port)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            team_server.wait_for(url + health, process, folder / "server.log")
            yield url
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)

    return start
