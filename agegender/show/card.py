"""The model card: the Markdown text on a version's page in the registry."""

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
# How B's weights came about if they are not fine-tuned, by `Candidate.fine_tuning_kept`.
FINE_TUNING = {
    "False": "Fine-tuning was tried and discarded: in validation it was no better than a head on "
    "frozen features. This model is that head.",
    "None": "Nothing was fine-tuned. This model is a head on frozen features.",
}


def model_card(
    candidate: records.Candidate,
    *,
    data_kind: str,
    licence: str,
    backbone: Mapping[str, str] | None,
    test_looks: int,
) -> str:
    """Return the card of an evaluated candidate in Markdown, without what was not measured.

    The card is shorter than the 5,000 characters allowed for a description.

    data_kind: "utkface" or "generated".
    backbone: name, licence and pretraining, or None.
    test_looks: number of looks at the test set that the store records.
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
