"""What the test of a network found: the facts behind what card and report say of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from agegender.measure import evaluation
from agegender.show import figures
from agegender.show.intervals import Interval

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


@dataclasses.dataclass(frozen=True)
class Findings:
    """The facts; None or empty where something was not measured.

    metrics: of METRICS; score: 1 is trivial, 0 perfect; n: test faces.
    groups: without the pairs of groups.
    coverage, half_widths_years: what the age intervals are meant to hold, and their half widths.
    held, width_years: the share of test faces whose age lies in its interval; the mean width.
    accuracy_target, confidence, answered: from which confidence on genders are answered, to be
        right that often, and the share of validation faces for which they are.
    pairs, label_years, label_genders: of the same photograph, and how far their labels differ.
    mirror: how averaging with the mirror image changes the MAE, years.
    corrupted: of `robustness.curves`.
    fewest: faces that a group has to have to be ranked.
    """

    fewest: ClassVar[int] = evaluation.SMALL_SLICE
    metrics: Mapping[str, Interval | None]
    score: float | None
    n: int | None
    groups: list[Group]
    coverage: float | None
    half_widths_years: list[float]
    held: Interval | None
    width_years: float | None
    accuracy_target: float | None
    confidence: float | None
    answered: float | None
    pairs: int
    label_years: Interval | None
    label_genders: Interval | None
    mirror: Interval | None
    corrupted: list[Mapping[str, Any]]

    @classmethod
    def of(cls, test: Mapping[str, float], evidence: Mapping[str, Any]) -> Self:
        """Read the metrics of `evaluation.flatten` and what `records.Evidence.to_json` returns."""
        intervals, abstention, labels = (
            evidence.get(name, {}) for name in ("intervals", "abstention", "label_noise")
        )
        held = intervals.get("test", {})
        return cls(
            metrics={name: Interval.of(test, name) for name in METRICS},
            score=test.get("score"),
            n=int(test["n"]) if "n" in test else None,
            groups=[
                Group(
                    row["slice"],
                    row["n"],
                    row["ranked"],
                    *(Interval.of(row, name) for name in figures.MEASURES),
                )
                for row in evidence.get("slices", ())
                if ", " not in row["slice"]
            ],
            coverage=intervals.get("coverage"),
            half_widths_years=intervals.get("half_widths_years", []),
            held=Interval.of(held),
            width_years=held.get("mean_width_years"),
            accuracy_target=abstention.get("accuracy_target"),
            confidence=abstention.get("confidence"),
            answered=abstention.get("share_accepted"),
            pairs=labels.get("pairs", 0),
            label_years=Interval.of(labels.get("age_difference_years")),
            label_genders=Interval.of(labels.get("gender_disagreement")),
            mirror=Interval.of(evidence.get("mirror", {}).get("mae")),
            corrupted=evidence.get("robustness", []),
        )

    def worst(self, measure: str) -> list[Group]:
        """Return the small group that looks worst, if one does, and the worst ranked one.

        measure: "mae" or "gender_accuracy".
        """
        sign = -1 if measure == "gender_accuracy" else 1
        order = sorted(self.groups, key=lambda group: -sign * getattr(group, measure).value)
        ranked = [group for group in order if group.ranked][:1]
        return order[:1] + [group for group in ranked if group is not order[0]]
