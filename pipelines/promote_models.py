"""Register both candidates and export the champions: `make promote`, the end of `make tune`.

The first version of a family becomes champion, later ones come in as challenger.
"""

import json
from pathlib import Path

from agegender.evidence import evaluation
from agegender.networks import backbones, export
from agegender.registry import tracking
from pipelines import command_line
from tuning import families

LICENCES = {
    "utkface": "Trained on UTKFace: non-commercial research use only; the pictures' copyright is "
    "their owners'.",
    "generated": "Trained on generated faces: the numbers say nothing about people. Apache-2.0.",
}


def promote(work: command_line.Work) -> dict[str, int]:
    """Return the registered version of each family; nothing is registered twice."""
    versions = {}
    for family in families.FAMILIES:
        name = model_name(work, family)
        folder = work.folder / family / "candidate"
        record = work.candidate(family)
        metrics = {"val_score": record["val"]["val_score"]} | {
            f"test_{key}": value for key, value in evaluation.flatten(record["test"]).items()
        }
        licence = LICENCES[work.faces.kind]
        if record["backbone"] != "none":
            backbone = backbones.BACKBONES[record["backbone"]]
            licence += (
                f" Backbone {record['backbone']}: {backbone.licence}; {backbone.pretraining}."
            )
        versions[family] = tracking.register_version(
            model_name=name,
            run_id=record["run_id"],
            h5_path=folder / f"age_gender_{family}.h5",
            metrics=metrics,
            tags={
                "licence": licence,
                "data.kind": work.faces.kind,
                "data.digest": work.faces.digest,
                "backbone": record["backbone"],
                "settings": json.dumps(record["values"]),
                "epochs": str(record["epochs"]),
                "seed": str(record["seed"]),
            },
            example=export.golden_images()[:2],
            description=f"Network {families.TITLES[family]}.\n\n{summary(record)}\n\n{licence}",
        )
        export_champion(work, name, family)
    return versions


def model_name(work: command_line.Work, family: str) -> str:
    """Return the registered model's name; models of generated faces live apart."""
    return f"age-gender-{family}" + ("" if work.faces.kind == "utkface" else "-generated")


def export_champion(work: command_line.Work, name: str, family: str) -> Path:
    """Copy the champion's .h5 from the registry to exports/, which real models never lose."""
    exports = work.root / "exports"
    if work.faces.kind != "utkface" and tracking.has_alias(f"age-gender-{family}", "champion"):
        exports = exports / work.faces.kind
    return tracking.pull(name, "champion", exports / f"age_gender_{family}.h5")


def summary(record: dict) -> str:
    """Return a line with a candidate's test metrics, intervals and n."""
    test = record["test"]

    def interval(name, digits):
        value = test[name]
        low, high = value["low"], value["high"]
        return f"{value['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    return (
        f"test MAE {interval('mae', 2)} years, CS@5 {interval('cs5', 3)}, gender accuracy "
        f"{interval('gender_accuracy', 3)} (95 % intervals, n = {test['n']}, seed {record['seed']})"
    )


if __name__ == "__main__":
    command_line.run(__doc__, promote)
