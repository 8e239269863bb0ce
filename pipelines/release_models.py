"""Train a model for models/ with settings fixed before: `make release MODEL=A DATA=train_val`.

Trains on training and validation faces and looks once at the locked test. The gate of the registry
decides whether the model replaces the one in models/. Hours on two cores.
"""

from agegender import config, records
from agegender.registry import candidates, releases
from agegender.show import summary
from pipelines.work import Work
from tuning import release_training


def release(work: Work, *, model: str) -> None:
    """Train and judge one release, a name of config.RELEASES."""
    releases.check_faces(model, work.faces)
    family = config.RELEASES[model].family
    folder = release_training.train_release(
        model,
        work.faces,
        work.settings,
        folder=work.folder / f"release-{model}" / family,
        cache=work.cache,
        report=work.display,
    )
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
    work.display(releases.publish(model, candidate, folder, work.faces, work.root / "models"))
