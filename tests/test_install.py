"""`pip install .` into an empty environment: the lines that the READMEs give work anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agegender.registry import tracking, versions

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(UV is None, reason="no uv: this environment was not made from the lock"),
]

PREDICTION = """
from agegender.photos import estimate
model = estimate.load_release("age_gender_B.h5")
print(estimate.predict("photo.png", {"B": model}).to_csv())
"""
PULL = """
from pathlib import Path
from agegender.registry import tracking, versions
tracking.connect(Path.cwd())
versions.pull("age-gender-B", "champion", Path("pulled.h5"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs lines of Python where nothing but this package is installed."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, environment], check=True)
    command = [UV, "pip", "install", "-q", "--python", environment]
    subprocess.run([*command, "--constraint", ROOT / "requirements.lock", ROOT], check=True)

    def run(lines, folder, **variables):
        # Isolated: neither the folder nor PYTHONPATH is searched for modules.
        command = [environment / "bin" / "python", "-I", "-c", lines]
        surroundings = {"PATH": os.environ["PATH"], "HOME": str(folder)} | variables
        done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_package_alone_is_installed_with_its_data(installed, tmp_path):
    lines = """
import importlib.util
from agegender.data import splits
from agegender.photos import service
assert not importlib.util.find_spec("tuning") and not importlib.util.find_spec("pipelines")
print(len(splits.TEST_NAMES_FILE.read_text().split()))
"""
    locked = (ROOT / "agegender" / "data" / "utkface_test_names.txt").read_text().split()
    assert int(installed(lines, tmp_path)) == len(locked)


def test_a_photo_is_answered_in_three_lines(installed, tmp_path):
    for name in ("age_gender_B.h5", "age_gender_B.json"):
        shutil.copy(ROOT / "models" / name, tmp_path)
    shutil.copy(ROOT / "models" / "predict.png", tmp_path / "photo.png")
    header, *faces = installed(PREDICTION, tmp_path).strip().splitlines()
    assert "age_years" in header
    assert len(faces) >= 1


def test_a_model_is_pulled_and_verified_in_three_lines(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking.connect(tmp_path / "team")
    released = ROOT / "models" / "age_gender_B.h5"
    with tracking.run("release", experiment="age-gender", tags={}) as run_id:
        versions.register_version(
            model_name="age-gender-B",
            run_id=run_id,
            h5_path=released,
            metrics={},
            tags={},
            description="A network.",
        )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    installed(PULL, elsewhere, MLFLOW_TRACKING_URI=uri)
    assert (elsewhere / "pulled.h5").read_bytes() == released.read_bytes()
