"""The model card: what a version's page in the registry says, in Markdown."""

import itertools
import operator
from collections.abc import Mapping

from agegender import records
from agegender.measure import robustness
from agegender.show import pages

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
# What B's weights are where they are not fine-tuned, by `Candidate.fine_tuning_kept`.
FINE_TUNING = {
    "False": "Fine-tuning was tried and discarded: in validation it was no better than the head on "
    "frozen features. This model is that head.",
    "None": "Nothing was fine-tuned: this model is a head on frozen features.",
}


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
    evidence = candidate.evidence or records.Evidence()
    taught = bool(candidate.values.get("teacher"))
    rows = itertools.groupby(evidence.robustness or (), operator.itemgetter("corruption"))
    return pages.markdown(
        "card.md.jinja",
        name=f"age-gender-{candidate.family}" + ("" if data_kind == "utkface" else f"-{data_kind}"),
        kind=data_kind,
        licence=licence,
        backbone=backbone,
        frozen=None if taught else FINE_TUNING.get(str(candidate.fine_tuning_kept)),
        taught=taught,
        record=candidate,
        epochs=candidate.origin.get("epochs_trained"),
        metrics=METRICS,
        evidence=evidence,
        test_looks=test_looks,
        corrupted=[(name, list(of_name)) for name, of_name in rows],
        units={name: f", {unit}" for name, (*_, unit) in robustness.CORRUPTIONS.items()},
    )
