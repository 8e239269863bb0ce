"""The model card: what a version's page in the registry says, in Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from agegender import records
from agegender.measure import evaluation, robustness
from agegender.show import figures, pages
from agegender.show.intervals import Interval

TITLES = {"A": "trained from scratch", "B": "built on a pretrained network"}
# What B's weights are where they are not fine-tuned, by `Candidate.fine_tuning_kept`.
FINE_TUNING = {
    "False": "Fine-tuning was tried and discarded: in validation it was no better than the head on "
    "frozen features. This model is that head.",
    "None": "Nothing was fine-tuned: this model is a head on frozen features.",
}
METRICS = {
    "mae": "mean absolute error, years",
    "rmse": "root mean square error, years",
    "bias": "bias (predicted - labelled), years",
    "cs5": "share within 5 years",
    "gender_accuracy": "gender accuracy",
    "gender_f1": "gender F1, mean of both",
    "gender_auc": "gender AUC",
    "gender_ece": "gender calibration error",
}


@dataclasses.dataclass(frozen=True)
class Group:
    """What was measured of the test faces of one decade, gender or race.

    ranked: there are enough faces for the group to be compared with others.
    """

    name: str
    faces: int
    ranked: bool
    mae: Interval
    bias: Interval
    gender_accuracy: Interval


def groups(slices: Sequence[Mapping[str, Any]] | None) -> list[Group]:
    """Return the groups among the rows of `evaluation.slices`, without the pairs of groups."""
    return [
        Group(
            row["slice"],
            row["n"],
            row["ranked"],
            *(Interval.of(row, name) for name in figures.MEASURES),
        )
        for row in slices or []
        if ", " not in row["slice"]
    ]


def worst(found: Sequence[Group], measure: str) -> list[Group]:
    """Return the small group that looks worst in a measure, if one does, and the worst ranked one.

    measure: "mae" or "gender_accuracy".
    """
    sign = -1 if measure == "gender_accuracy" else 1
    order = sorted(found, key=lambda group: -sign * getattr(group, measure).value)
    ranked = [group for group in order if group.ranked][:1]
    return order[:1] + [group for group in ranked if group is not order[0]]


def model_card(
    candidate: records.Candidate,
    *,
    data_kind: str,
    licence: str,
    backbone: Mapping[str, str] | None,
    test_looks: int,
) -> str:
    """Return the card of an evaluated candidate in Markdown; what was not measured is left out.

    It is shorter than the 5,000 characters of a description.

    data_kind: "utkface" or "generated".
    backbone: name, licence and pretraining, or None.
    test_looks: how many looks at the test the store notes.
    """
    test, evidence = candidate.test or {}, candidate.evidence or records.Evidence()
    found, corrupted = groups(evidence.slices), pd.DataFrame(evidence.robustness or [])
    return pages.markdown(
        "card.md.jinja",
        name=f"age-gender-{candidate.family}" + ("" if data_kind == "utkface" else f"-{data_kind}"),
        title=TITLES[candidate.family],
        kind=data_kind,
        licence=licence,
        backbone=backbone,
        frozen=FINE_TUNING.get(str(candidate.fine_tuning_kept)),
        record=candidate,
        epochs=candidate.origin.get("epochs_trained", candidate.epochs),
        metrics={label: test[name] for name, label in METRICS.items() if name in test},
        evidence=evidence,
        test_looks=test_looks,
        groups=found,
        worst={measure: worst(found, measure) for measure in ("mae", "gender_accuracy")},
        corrupted=corrupted.groupby("corruption", sort=False) if len(corrupted) else [],
        units={name: f", {unit}" for name, (*_, unit) in robustness.CORRUPTIONS.items()},
        interval=Interval.of,
        small=evaluation.SMALL_SLICE,
    )
