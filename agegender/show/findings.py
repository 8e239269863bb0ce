"""What the test of a network found: the facts behind what card and report say."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from agegender import records
from agegender.measure import evaluation
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
    gender_accuracy: Interval


@dataclasses.dataclass(frozen=True)
class Findings:
    """The facts; None or empty where something was not measured.

    metrics: of METRICS; score: 1 is trivial, 0 perfect; n: test faces.
    groups: without the pairs of groups. fewest: faces that a ranked group has.
    """

    fewest: ClassVar[int] = evaluation.SMALL_SLICE
    metrics: Mapping[str, Interval | None]
    score: float | None
    n: int | None
    groups: list[Group]
    evidence: records.Evidence

    @classmethod
    def of(cls, test: Mapping[str, float], evidence: records.Evidence) -> Self:
        """Read what `evaluation.flatten` returns, and the evidence."""
        groups = [
            Group(
                *(row[name] for name in ("slice", "n", "ranked")),
                *(Interval.of(row, name) for name in ("mae", "gender_accuracy")),
            )
            for row in evidence.slices or ()
            if ", " not in row["slice"]
        ]
        metrics = {name: Interval.of(test, name) for name in METRICS}
        n = int(test["n"]) if "n" in test else None
        return cls(metrics, test.get("score"), n, groups, evidence)

    def worst(self, measure: str) -> list[Group]:
        """Return the small group that looks worst, if one does, and the worst ranked one.

        measure: "mae" or "gender_accuracy".
        """
        sign = -1 if measure == "gender_accuracy" else 1
        order = sorted(self.groups, key=lambda group: -sign * getattr(group, measure).value)
        ranked = [group for group in order if group.ranked][:1]
        return order[:1] + [group for group in ranked if group is not order[0]]
