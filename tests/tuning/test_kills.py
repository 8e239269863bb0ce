"""A search killed at random moments, by SIGKILL, ends as the one that was left alone."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SEARCH = """
import dataclasses, sys
from pathlib import Path
from agegender import config
from agegender.data import pixels
from agegender.networks import training
from agegender.registry import tracking
from tuning import families

def main():
    family, trials, workers = sys.argv[1], *map(int, sys.argv[2:])
    training.prepare_backend()
    tracking.connect(Path.cwd())
    faces = pixels.open_faces(pixels.prepare(None, Path("data"), seed=0, generated_faces=200))
    tracking.repair_stale_runs("age-gender-generated")
    settings = dataclasses.replace(
        config.PRESETS["smoke"],
        algorithm="random",
        scratch=config.FamilySettings(trials, 3, 3, 0.2, 0.3),
        pretrained=config.FamilySettings(trials, 2, 2, 0.2, 0.3),
        workers=workers,
    )
    families.search_family(
        family, faces, settings, folder=Path("search"), cache=Path("cache"),
        report=lambda line: print(line, flush=True),
    )

if __name__ == "__main__":
    main()
"""
RUNS = """
import json
from pathlib import Path
import mlflow
from agegender.registry import tracking
tracking.connect(Path.cwd())
client = mlflow.MlflowClient()
runs = client.search_runs(
    [client.get_experiment_by_name("age-gender-generated").experiment_id], "tags.role = 'trial'"
)
print(json.dumps({
    run.info.run_id: {
        "status": run.info.status,
        "name": run.info.run_name,
        "steps": [m.step for m in client.get_metric_history(run.info.run_id, "epochs/val_loss")],
        "losses": [m.value for m in client.get_metric_history(run.info.run_id, "epochs/val_loss")],
    }
    for run in runs
}))
"""


class Place:
    """A folder with a search in it."""

    def __init__(self, folder, family, trials, workers):
        self.folder = folder
        (folder / "search.py").write_text(SEARCH)
        (folder / "cache").mkdir()
        weights = REPOSITORY / ".cache" / "weights"
        if weights.exists():
            (folder / "cache" / "weights").symlink_to(weights)
        self.command = [sys.executable, "search.py", family, str(trials), str(workers)]
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(self, command=None, until=lambda: False):
        """Run a command, the search if none is given; kill it as soon as `until` says so."""
        with open(self.folder / "output.txt", "w+") as output:
            process = subprocess.Popen(
                command or self.command,
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None and not until():
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)  # Nothing happens to one that has ended.
            process.wait()
            output.seek(0)
            return process.returncode, output.read()

    def state(self):
        """What the search has kept: changes with each epoch's end and each line of the journal."""
        found = set()
        for path in (self.folder / "search").rglob("*.*"):
            with contextlib.suppress(FileNotFoundError):
                found.add((path, path.stat().st_mtime_ns))
        return found

    def after(self, events, seconds):
        """Return a function that turns true so long after the state has changed so often."""
        state, left, moment = self.state(), events, None

        def passed():
            nonlocal state, left, moment
            if left and (now := self.state()) != state:
                state, left = now, left - 1
            if not left and moment is None:
                moment = time.monotonic() + seconds
            return moment is not None and time.monotonic() > moment

        return passed

    def journal(self):
        path = self.folder / "search" / "trials.json"
        return json.loads(path.read_text()) if path.exists() else []

    def runs(self):
        status, output = self.run([sys.executable, "-c", RUNS])
        assert status == 0, output
        return json.loads(output.splitlines()[-1])


def result(trial):
    """What a trial came to, without what a clock says."""
    metrics = {name: v for name, v in trial["metrics"].items() if name != "epoch_seconds"}
    return trial["number"], trial["values"], trial["status"], metrics


def killed_and_left_alone(tmp_path, family, trials, workers, kills, seed=0):
    """Compare a search that is killed so often with one that is not; return a line of figures."""
    alone = Place(tmp_path / "alone", family, trials, workers)
    status, output = alone.run()
    assert status == 0, output
    killed = Place(tmp_path / "killed", family, trials, workers)
    generator, finished = random.Random(seed), []
    for hit in range(kills):
        # Some while it starts, the others a moment after something was kept.
        events = generator.choice([0, 1, 1, 2, 3]) if hit else 3
        until = killed.after(events, generator.uniform(0, 2 if events else 12))
        status, output = killed.run(until=until)
        assert status == -signal.SIGKILL, output
        before, finished = finished, [trial for trial in killed.journal() if trial["metrics"]]
        assert finished[: len(before)] == before  # Nothing that was finished ran again.
    status, output = killed.run()
    assert status == 0, output
    journals = alone.journal(), killed.journal()
    if workers == 1:
        assert list(map(result, journals[0])) == list(map(result, journals[1]))
    assert [trial["number"] for trial in journals[1]] == list(range(1, trials + 1))
    runs = killed.runs()
    assert sorted(runs) == sorted(trial["run_id"] for trial in journals[1])  # One run a trial.
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for run in runs.values():
        assert run["steps"] == list(range(1, len(run["steps"]) + 1))
    if workers == 1:
        expected = {run["name"]: run["losses"] for run in alone.runs().values()}
        assert {run["name"]: run["losses"] for run in runs.values()} == expected
    assert not list((killed.folder / "search" / "checkpoints").iterdir())
    return f"{family}, {workers} workers: {kills} kills, {trials} trials, differences: none"


@pytest.fixture
def places(tmp_path):
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_few_kills_change_nothing(places):
    print(killed_and_left_alone(places, "A", trials=3, workers=1, kills=3, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "workers", "kills"), [("A", 1, 20), ("B", 1, 10), ("A", 2, 10)])
def test_many_kills_change_nothing(places, family, workers, kills):
    print(killed_and_left_alone(places, family, trials=8, workers=workers, kills=kills, seed=1))
