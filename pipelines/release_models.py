"""Train a model for models/ with preset settings: `make release MODEL=A DATA=train_val`.

Takes hours on two cores. Trains on the training and validation faces and looks once at the locked
test. The registry's gate decides whether the model replaces the one in models/. 1,002 test faces
show no small difference, so TEST_DATA= can judge a release of the 5,000 on all of UTKFace's.
"""

import dataclasses
from pathlib import Path

from agegender import config, records
from agegender.data import pixels
from agegender.registry import candidates, releases
from agegender.show import summary
from pipelines.work import Work
from tuning import release_training


def release(work: Work, *, model: str, test_data: Path | None = None) -> None:
    """Train and judge one of config.RELEASES.

    test_data: faces whose locked test the gate uses instead of DATA's.
    """
    releases.check_faces(model, work.faces)
    faces = work.faces
    if test_data:
        faces = pixels.open_faces(
            pixels.prepare(test_data, work.cache / "data", seed=work.settings.seed)
        )
        releases.check_unseen(work.faces, faces)
    job = work.job(config.RELEASES[model].family)
    job = dataclasses.replace(job, folder=work.folder / f"release-{model}" / job.letter)
    folder = release_training.train_release(model, job)
    candidate = records.Candidate.load(folder)
    if not candidate.evidence:
        candidate = candidates.evaluate(
            candidate,
            folder,
            work.faces,
            work.settings,
            purpose="release",
            details={"release": model},
            report=work.display,
        )
    work.display(f"{model}: {summary.tested(candidate)}")
    work.display(releases.publish(model, candidate, folder, faces, work.root / "models"))
