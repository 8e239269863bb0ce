"""Register both candidates, judge them and export the champions: `make promote`.

The first version of a family becomes champion; a later one comes in as challenger and takes its
place only through the gate of `agegender.registry.promotion`. A second call changes nothing.
"""

import json
import textwrap
from pathlib import Path

from agegender import config, progress, records
from agegender.networks import backbones, export
from agegender.registry import promotion, releases, tracking, versions
from agegender.show import card, intervals
from pipelines.work import Work
from tuning import families

LICENCES = {
    "utkface": "Trained on UTKFace: non-commercial research use only; the pictures' copyright is "
    "their owners'.",
    "generated": "Trained on generated faces: the numbers say nothing about people. Apache-2.0.",
}


def promote(work: Work) -> dict[str, int]:
    """Return the registered version of each family; nothing is registered or judged twice."""
    registered = {}
    work.display("\nRegistry")
    if work.faces.kind == "utkface":
        # What a first search has to beat: the models trained on as many faces.
        releases.register(work.root / "models", full=len(work.faces.manifest) > releases.FULL_FACES)
    for place, family in enumerate(families.FAMILIES):
        name = model_name(work, family)
        work.display(progress.Progress("Registry", place, len(families.FAMILIES), name))
        folder, candidate = work.candidate_folder(family), work.candidate(family)
        text, metrics, tags = describe(work, candidate)
        tracking.log_text(candidate.run_id, text, records.CARD)
        manifest = work.faces.manifest
        seen = manifest[manifest["split"].isin(("train", "validation"))][["name", "split"]]
        tracking.log_table(candidate.run_id, seen, records.TRAINING_FACES)
        version = versions.register_version(
            model_name=name,
            run_id=candidate.run_id,
            h5_path=folder / candidate.h5,
            metrics=metrics,
            tags=tags,
            example=export.golden_images()[:2],
            description=text,
        )
        judged = promotion.judge(
            name,
            version,
            records.read_predictions(folder / records.PREDICTIONS),
            work.faces,
            config.Gate(),
            seed=candidate.seed,
        )
        exported = export_champion(work, name, family)
        champion = versions.aliases(name)["champion"]
        where = f"version {champion} is champion, in {exported.relative_to(work.root)}"
        if judged["decision"] == "champion":
            work.display(f"  {family}  {name} {where}")
        else:
            work.display(
                f"  {family}  {name} version {version} against version {judged['against']}: "
                f"{judged['decision']}; {where}"
            )
            work.display(textwrap.indent(textwrap.fill("; ".join(judged["reasons"]), 104), "     "))
        registered[family] = version
    work.display(progress.Progress("Registry", 1, 1))
    return registered


def describe(
    work: Work, candidate: records.Candidate
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Return the card, the metrics and the tags of an evaluated candidate's version."""
    measured = ("val_score", "val_age_mae", "val_gender_accuracy")
    # Without their intervals, which the card has: the registry's table shows every tag.
    metrics = {name: candidate.val[name] for name in measured} | {
        f"test_{name}": found["value"] if isinstance(found, dict) else found
        for name, found in candidate.test.items()
    }
    licence, backbone = LICENCES[work.faces.kind], None
    if candidate.backbone != "none":
        known = backbones.BACKBONES[candidate.backbone]
        backbone = {"name": candidate.backbone}
        backbone |= {"licence": known.licence, "pretraining": known.pretraining}
    text = card.model_card(
        candidate,
        data_kind=work.faces.kind,
        licence=licence,
        backbone=backbone,
        test_looks=len(tracking.test_looks()),
    )
    tags = {
        "licence": licence,
        "data.kind": work.faces.kind,
        "data.digest": work.faces.digest,
        "backbone": candidate.backbone,
        "backbone.licence": backbone["licence"] if backbone else "none",
        "settings": json.dumps(candidate.values),
        "epochs": str(candidate.epochs),
        "seed": str(candidate.seed),
    }
    if backbone:
        tags["fine_tuning_kept"] = str(candidate.fine_tuning_kept)
    return text, metrics, tags | candidate.origin


def model_name(work: Work, family: str) -> str:
    """Return the registered model's name; models of generated faces live apart."""
    return versions.full_name(family, generated=work.faces.kind == "generated")


def export_champion(work: Work, name: str, family: str) -> Path:
    """Copy the champion's .h5 from the registry to exports/, which real models never lose."""
    exports = work.root / "exports"
    if work.faces.kind != "utkface" and "champion" in versions.aliases(versions.full_name(family)):
        exports = exports / work.faces.kind
    return versions.pull(name, "champion", exports / f"{records.PREFIX}{family}.h5")


def summary(candidate: records.Candidate) -> str:
    """Return a line with a candidate's test metrics, intervals and n."""
    test = candidate.test
    mae, gender = (
        intervals.digits(intervals.Interval.of(test[name])) for name in ("mae", "gender_accuracy")
    )
    return f"test MAE {mae} years, gender accuracy {gender}, n = {test['n']}"
