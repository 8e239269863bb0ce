"""Results of a search as lines for a terminal."""

import pandas as pd

from agegender import records
from agegender.measure import evaluation
from agegender.show import card, intervals


def tested(candidate: records.Candidate) -> str:
    """Return a line with an evaluated candidate's test results, their intervals and n."""
    mae, gender = (
        intervals.digits(intervals.Interval.of(candidate.test[name]))
        for name in ("mae", "gender_accuracy")
    )
    return f"test MAE {mae} years, gender accuracy {gender}, n = {candidate.test['n']}"


def verdicts(b: records.Candidate, of_a: pd.DataFrame, of_b: pd.DataFrame) -> list[str]:
    """Return lines that compare B with A and with B's own frozen head on the test set.

    of_a, of_b: predictions for the same test faces.
    """
    lines = verdict("B", "A", evaluation.compare(of_b, of_a, seed=b.seed))
    if b.against_frozen_features:
        return lines + verdict("B", "B's frozen head", b.against_frozen_features)
    return [*lines, f"B  {card.FINE_TUNING[str(b.fine_tuning_kept)]}"]


def verdict(first: str, second: str, pair: dict) -> list[str]:
    """Return one line for age and one for gender on what `evaluation.compare` shows at 95 %."""
    mae, gender = pair["mae"], pair["gender"]
    clear = {True: "a clear difference", False: "no clear difference"}
    return [
        f"{first} against {second}, age: {intervals.digits(intervals.Interval.of(mae))} years, "
        f"{clear[not mae['low'] <= 0 <= mae['high']]}",
        f"{first} against {second}, gender: {gender['only_a']} faces right only in {first}, "
        f"{gender['only_b']} only in {second}, {intervals.probability(gender['p'])}, "
        f"{clear[gender['p'] < 0.05]}",
    ]
