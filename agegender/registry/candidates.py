"""Score a candidate on the locked test, write its card and register it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import matplotlib.figure
import numpy as np
import numpy.typing as npt
import pandas as pd

from agegender import config, progress, records
from agegender.data import pixels, splits
from agegender.measure import evaluation, robustness, uncertainty
from agegender.networks import backbones, export, predict
from agegender.registry import ledger, tracking, versions
from agegender.show import card, figures

EXAMPLES = 12  # faces per figure
OCCLUDED = 6
LICENCES = {
    "utkface": "Trained on UTKFace: non-commercial research use only; the pictures' copyright is "
    "their owners'.",
    "generated": "Trained on generated faces: the numbers say nothing about people. Apache-2.0.",
}


def evaluate(
    candidate: records.Candidate,
    folder: Path,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    purpose: str,
    details: Mapping[str, str] | None = None,
    report: progress.Report = progress.plain,
) -> records.Candidate:
    """Score a candidate on the locked test, after noting it in the ledger; return it with scores.

    Its run and its folder keep the predictions for every test and validation face, the metrics
    with their intervals, and the evidence. The run also keeps the figures.

    folder: contains its .h5.
    purpose, details: of this look at the test, for the ledger.
    """
    looked = {"data": faces.digest, "family": candidate.family, **(details or {})}
    ledger.note(candidate.run_id, purpose, looked)
    network, part = export.load_h5(folder / candidate.h5), f"Test of {candidate.family}"
    report(progress.Progress(part, 0, 4, "predictions"))
    test = predict.table(network, faces, "test")
    candidate, evidence, validation = _measured(
        candidate, network, folder, faces, test, settings.seed
    )
    report(progress.Progress(part, 1, 4, "blurred, dark and covered faces"))
    order = np.random.default_rng(settings.seed).permutation(len(test))
    sample = faces.rows("test")[np.sort(order[: settings.robustness_faces])]
    corrupted = robustness.curves(
        lambda images: predict.predict(network, images),
        faces.pixels[sample],
        faces.age_years[sample],
        faces.gender[sample],
        seed=settings.seed,
    )
    evidence = dataclasses.replace(evidence, robustness=corrupted.to_dict("records"))
    candidate = dataclasses.replace(candidate, evidence=evidence)
    report(progress.Progress(part, 2, 4, "figures"))
    shown = _photographs(network, faces, test, sample)
    report(progress.Progress(part, 3, 4, "to MLflow"))
    log_tested(candidate.run_id, candidate, test)
    _log_figures(candidate.run_id, shown)
    tracking.log_table(candidate.run_id, validation, records.VALIDATION_PREDICTIONS)
    records.write_predictions(test, folder / records.PREDICTIONS)
    records.write_predictions(validation, folder / records.VALIDATION_PREDICTIONS)
    candidate.save(folder)
    report(progress.Progress(part, 4, 4))
    return candidate


def _measured(
    candidate: records.Candidate,
    network: keras.Model,
    folder: Path,
    faces: pixels.Faces,
    test: pd.DataFrame,
    seed: int,
) -> tuple[records.Candidate, records.Evidence, pd.DataFrame]:
    """Return the scored candidate, its evidence and the predictions its intervals are fitted to.

    test: predictions; adds the columns age_low and age_high, the age interval of each face.
    """
    held_out, mirror = folder / records.HELD_OUT, {}
    if held_out.exists():
        # A release is also trained on its validation faces.
        validation = records.read_predictions(held_out)
    else:
        validation = predict.table(network, faces, "validation")
        if all(layer.name != "mirror_image" for layer in network.layers):  # See export.with_mirror.
            mirror["mirror_validation"] = _mirrored(network, faces, "validation", validation, seed)
            mirror["mirror"] = _mirrored(network, faces, "test", test, seed)
    against_frozen_features = None
    if candidate.fine_tuning_kept:
        frozen = predict.table(export.load_h5(folder / records.FROZEN), faces, "test")
        against_frozen_features = evaluation.compare(test, frozen, seed=seed)
    metrics = evaluation.evaluate(test, seed=seed)
    score = evaluation.val_score(
        metrics["mae"]["value"],
        metrics["gender_accuracy"]["value"],
        splits.training_floors(faces.manifest),
    )
    intervals = uncertainty.fit_age_intervals(validation.age_years, validation.age_predicted)
    held = uncertainty.interval_coverage(intervals, test.age_years, test.age_predicted)
    test["age_low"], test["age_high"] = uncertainty.age_intervals(intervals, test.age_predicted)
    evidence = records.Evidence(
        intervals=intervals | {"test": held},
        abstention=uncertainty.fit_abstention(validation.gender, validation.gender_probability),
        label_noise=evaluation.label_noise(faces.manifest),
        slices=evaluation.slices(test, seed=seed).to_dict("records"),
        **mirror,
    )
    candidate = dataclasses.replace(
        candidate,
        test=metrics | {"score": score},
        against_frozen_features=against_frozen_features,
    )
    return candidate, evidence, validation


def _mirrored(
    network: keras.Model, faces: pixels.Faces, split: str, table: pd.DataFrame, seed: int
) -> dict[str, Any]:
    """Compare predictions averaged over the mirror image with plain ones."""
    averaged = predict.table(network, faces, split, mirrored=True)
    averaged[records.PREDICTED] = (averaged[records.PREDICTED] + table[records.PREDICTED]) / 2
    return evaluation.compare(averaged, table, seed=seed)


def _photographs(
    network: keras.Model, faces: pixels.Faces, test: pd.DataFrame, sample: np.ndarray
) -> dict[str, matplotlib.figure.Figure]:
    """Draw the figures that show faces; they belong in the store, never in the repository."""
    # Faces are sorted by name, which starts with the age: equal steps cover all ages.
    examples = faces.pixels[sample[:: -(-len(sample) // OCCLUDED)]]
    maps = [
        robustness.occlusion_map(lambda images: predict.predict(network, images), image)
        for image in examples
    ]
    return {
        "occlusion_maps": figures.occlusion_maps(examples, maps),
        "most_wrong_age": _most_wrong(faces, test, records.age_error(test)),
        "most_wrong_gender": _most_wrong(faces, test, test.gender_probability - test.gender),
    }


def _most_wrong(
    faces: pixels.Faces, test: pd.DataFrame, error: npt.ArrayLike
) -> matplotlib.figure.Figure:
    worst = np.argsort(-np.abs(np.asarray(error)), kind="stable")[:EXAMPLES]
    labels = [
        f"{row.age_years:.0f} -> {row.age_predicted:.0f} years\n"
        f"{'female' if row.gender else 'male'} -> {row.gender_probability:.2f} female"
        for row in test.iloc[worst].itertuples()
    ]
    return figures.face_grid(faces.pixels[faces.rows("test")[worst]], labels, 6, (2.0, 2.5))


def log_tested(run_id: str, candidate: records.Candidate, predictions: pd.DataFrame) -> None:
    """Log a candidate's test results to a run, with the figures that show no faces."""
    flat = evaluation.flatten(candidate.test)
    tracking.log_metrics(run_id, {f"test_{name}": value for name, value in flat.items()})
    evidence = candidate.evidence or records.Evidence()
    tracking.log_text(run_id, json.dumps(evidence.to_json(), indent=1), records.EVIDENCE)
    tracking.log_table(run_id, predictions, records.PREDICTIONS)
    _log_figures(run_id, figures.of_test({candidate.family: (predictions, evidence)}))


def _log_figures(run_id: str, drawn: Mapping[str, matplotlib.figure.Figure]) -> None:
    for name, figure in drawn.items():
        tracking.log_figure(run_id, figure, f"test/{name}.png")


def describe(
    candidate: records.Candidate, kind: str
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Return the card, metrics and tags for the version of an evaluated candidate.

    kind: of the faces, "utkface" or "generated".
    """
    measured = ("val_score", "val_age_mae", "val_gender_accuracy")
    # Without intervals, because the registry's table shows every tag; the card has them.
    metrics = {name: candidate.val[name] for name in measured} | {
        f"test_{name}": found["value"] if isinstance(found, dict) else found
        for name, found in candidate.test.items()
    }
    tags = {
        "licence": LICENCES[kind],
        "data.kind": kind,
        "data.digest": candidate.data,
        "backbone": candidate.backbone,
        "backbone.licence": "none",
        "settings": json.dumps(candidate.values),
        "epochs": str(candidate.epochs),
        "seed": str(candidate.seed),
    }
    backbone = None
    if known := backbones.BACKBONES.get(candidate.backbone):
        backbone = {"name": candidate.backbone, "licence": known.licence}
        backbone |= {"pretraining": known.pretraining}
        tags["backbone.licence"] = known.licence
        if "backbone" in candidate.values:  # It is part of the model, not of its teacher.
            tags["fine_tuning_kept"] = str(candidate.fine_tuning_kept)
    text = card.model_card(
        candidate,
        data_kind=kind,
        licence=LICENCES[kind],
        backbone=backbone,
        test_looks=len(ledger.looks()),
    )
    return text, metrics, tags | candidate.origin


def register(candidate: records.Candidate, folder: Path, faces: pixels.Faces, name: str) -> int:
    """Register an evaluated candidate as `name`; return the version, the same if called again.

    folder: contains its .h5.
    """
    text, metrics, tags = describe(candidate, faces.kind)
    tracking.log_text(candidate.run_id, text, records.CARD)
    seen = faces.manifest.iloc[faces.rows("train", "validation")][["name", "split"]]
    tracking.log_table(candidate.run_id, seen, records.TRAINING_FACES)
    return versions.register_version(
        model_name=name,
        run_id=candidate.run_id,
        h5_path=folder / candidate.h5,
        metrics=metrics,
        tags=tags,
        description=text,
    )


def export_champion(root: Path, family: str, kind: str) -> Path:
    """Copy a champion's .h5 to `root`/exports; generated models never replace real ones."""
    folder, real = root / "exports", versions.full_name(family)
    name = versions.full_name(family, generated=kind != "utkface")
    if name != real and "champion" in versions.aliases(real):
        folder = folder / kind
    return versions.pull(name, "champion", folder / f"{records.PREFIX}{family}.h5")
