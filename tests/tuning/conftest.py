"""A search as people run it, in a folder of its own, small."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agegender.registry import access, epochs, tracking

SEARCH = """
import dataclasses, sys
from pathlib import Path
from agegender import config
from agegender.data import pixels
from agegender.networks import backend
from agegender.registry import tracking
from tuning import experiment, family_search

def main():
    family, trials, workers, count, epochs = sys.argv[1], *map(int, sys.argv[2:])
    backend.prepare()
    tracking.connect(Path.cwd())
    faces = pixels.open_faces(pixels.prepare(None, Path("data"), seed=0, generated_faces=count))
    tracking.repair_stale_runs("age-gender-generated")
    settings = dataclasses.replace(
        config.PRESETS["smoke"],
        algorithm="random",
        scratch=config.FamilySettings(trials, (epochs,), epochs, 0.2, 0.3),
        pretrained=config.FamilySettings(trials, (epochs,), epochs, 0.2, 0.3),
        workers=workers,
    )
    report = lambda line: print(line, flush=True)
    family_search.search_family(
        experiment.Job(family, faces, settings, Path("search"), Path("cache"), report=report)
    )

if __name__ == "__main__":
    main()
"""


class Place:
    """A folder with a search in it."""

    def __init__(self, folder, family, trials, workers, faces, epochs):
        folder.mkdir()
        self.folder = folder
        (folder / "search.py").write_text(SEARCH)
        self.command = [sys.executable, "search.py", family]
        self.command += map(str, [trials, workers, faces, epochs])
        self.environment = dict(os.environ)

    def start(self, output=subprocess.DEVNULL):
        """Start the search."""
        return subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment, stdout=output, stderr=output
        )

    def run(self, until=lambda: False):
        """Run the search; kill it as soon as `until` says so."""
        with open(self.folder / "output.txt", "w+") as output:
            process = self.start(output)
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

    def processes(self, process_id):
        """What a search has started, and what that has: the server that forks, and the trials."""

        def children(one):
            found = []
            for listed in Path(f"/proc/{one}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found += map(int, listed.read_text().split())
            return found

        started = children(process_id)
        return started, [child for one in started for child in children(one)]

    def journal(self):
        path = self.folder / "search" / "trials.json"
        return json.loads(path.read_text()) if path.exists() else []

    def results(self):
        """What each trial came to, without what a clock says."""
        return [
            (trial["number"], trial["values"], trial["status"])
            + ({name: v for name, v in trial["metrics"].items() if not name.endswith("seconds")},)
            for trial in self.journal()
        ]

    def runs(self):
        """Each trial's run in the store, by its id."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(access.TRACKING, self.environment.get(access.TRACKING, ""))
            tracking.connect(self.folder)
        found = tracking.search("age-gender-generated", "tags.role = 'trial'")
        histories = [epochs.history(run.info.run_id) for run in found]
        return {
            run.info.run_id: {
                "status": run.info.status,
                "name": run.info.run_name,
                "steps": [epoch + 1 for epoch in history.epoch],
                "losses": list(history.get("val_loss", ())),
            }
            for run, history in zip(found, histories, strict=True)
        }


@pytest.fixture
def new_place(tmp_path):
    """A function that makes a folder for a search."""

    def make(name, family, trials, workers=1, faces=200, epochs=3):
        return Place(tmp_path / name, family, trials, workers, faces, epochs)

    return make
