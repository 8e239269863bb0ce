"""Train a model for models/ with settings fixed before: `make release MODEL=A DATA=train_val`.

Trains on training and validation faces, looks once at the locked test and writes the model, its
card, its record and its predictions to models/, unless the one that is there is as good: the gate
of the registry decides. A and B take the 5,000, the others all of UTKFace. Hours on two cores.
"""

import dataclasses

from agegender import config, records
from agegender.networks import export, predict
from agegender.registry import promotion, releases, tracking
from pipelines import evaluate_models, promote_models
from pipelines.work import Work
from tuning import release_training


def release(work: Work, *, model: str) -> None:
    """Train and judge one release, a name of config.RELEASES."""
    full = model.endswith(releases.FULL)
    if work.faces.kind != "utkface" or full != (len(work.faces.manifest) > releases.FULL_FACES):
        expected = "all of UTKFace" if full else "the coursework's 5,000 faces"
        raise ValueError(
            f"{model} is trained on {expected}; DATA has {len(work.faces.manifest):,} "
            f"{work.faces.kind} faces."
        )
    family = config.RELEASES[model].family
    work = dataclasses.replace(work, folder=work.folder / f"release-{model}")
    release_training.train_release(
        model,
        work.faces,
        work.settings,
        folder=work.folder / family,
        cache=work.cache,
        report=work.display,
    )
    candidate = work.candidate(family)
    if not candidate.evidence:
        tracking.record_test_look(
            candidate.run_id,
            purpose="release",
            details={"data": work.faces.digest, "family": family, "release": model},
        )
        candidate = evaluate_models.evaluate_candidate(work, candidate)
    print(f"{model}: {promote_models.summary(candidate)}", flush=True)
    publish(work, model, candidate)


def publish(work: Work, name: str, candidate: records.Candidate) -> None:
    """Write an evaluated release to models/, where it is better than what is there."""
    title, folder = f"{records.PREFIX}{name}", work.root / "models"
    source = work.candidate_folder(candidate.family)
    if (folder / f"{title}.json").exists():
        predictions = records.read_predictions(source / records.PREDICTIONS)
        details = {"data": work.faces.digest, "family": candidate.family}
        details |= {"release": f"the old {name}"}
        tracking.record_test_look(candidate.run_id, purpose="promotion gate", details=details)
        old = predict.table(export.load_h5(folder / f"{title}.h5"), work.faces, "test")
        judged = promotion.decide(old, predictions, config.Gate(), candidate.seed)
        print(f"{name} against models/{title}.h5: {'; '.join(judged['reasons'])}", flush=True)
        if not judged["promote"]:
            return
    card, metrics, tags = promote_models.describe(work, candidate)
    releases.write(folder, title, source, candidate, card, metrics, tags)
    print(f"Written: {folder / title}.h5, .json, .md and .csv", flush=True)
