"""The gate, which decides whether a challenger becomes champion, its record, and rolling back.

A version is judged once against a champion, on the same faces of the locked test. The result is
kept in the tags `gate.*` of the version and in records.PROMOTION in its run.
"""

import dataclasses
import datetime
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from agegender import config, records
from agegender.data import pixels, splits, utkface
from agegender.measure import evaluation
from agegender.networks import export, predict
from agegender.registry import ledger, provenance, tracking, versions
from agegender.show import intervals
from agegender.show.intervals import Interval

# Tag of a model in models/: checksum of the committed list of test faces, none of which it saw.
RELEASED_WITHOUT = "trained_without"


@dataclasses.dataclass(frozen=True)
class SliceLoss:
    """A slice in which a challenger is shown to lose.

    task: "age" or "gender".
    difference: challenger minus champion, in MAE (years) or in the share of correct genders.
    p: one-sided p-value of the hypothesis of no loss.
    beyond: whether the loss is shown to exceed the gate's margin, which blocks the challenger.
    """

    slice: str
    task: str
    n: int
    difference: float
    p: float
    beyond: bool

    def __str__(self) -> str:
        years, points = f"{self.difference:+.2f} years", f"{100 * self.difference:+.1f} points"
        lost = years if self.task == "age" else points
        return f"{self.slice} (n = {self.n}) in {self.task}: {lost}, p = {self.p:.2g}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A challenger and the champion on the same test faces; differences: challenger minus champion.

    promote, reasons: the decision and its grounds.
    n: faces; mae, gender_accuracy: in years and as a share, from `evaluation.paired_difference`.
    gender: from `evaluation.mcnemar`, where a is the challenger.
    worse_slices: those in which the challenger is shown to lose.
    """

    promote: bool
    reasons: list[str]
    n: int
    mae: dict[str, float]
    gender_accuracy: dict[str, float]
    gender: dict[str, float]
    worse_slices: list[SliceLoss]

    def card_section(self) -> str:
        """Return the comparison as a section for a promoted challenger's card, in Markdown."""
        lines = ["", "## Compared with the model before", ""]
        lines += [f"- {reason}" for reason in self.reasons]
        return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The outcome for a version.

    decision: champion (already), promoted, kept (the champion), not comparable or rolled back.
    against: the champion's version.
    """

    decision: str
    against: int
    reasons: str


def decide(
    champion: pd.DataFrame, challenger: pd.DataFrame, gate: config.Gate, seed: int
) -> Comparison:
    """Decide whether the challenger should become champion.

    It must be better in one task (paired bootstrap of the absolute error in years, exact McNemar
    test) and lose no more than the gate allows in the other (end of the 95 % bootstrap interval).
    No slice may be shown to lose more than the gate's margin (see `_slice_losses`). Both tables
    hold records.LABELS and records.PREDICTED of the same faces in the same order. Raises ValueError
    if faces or labels differ.
    """
    if not len(champion) or any(
        champion[column].tolist() != challenger[column].tolist() for column in records.LABELS
    ):
        raise ValueError(
            f"Expected the same test faces with the same labels, at least one; got {len(champion)} "
            f"for the champion and {len(challenger)} for the challenger: use one split for both."
        )
    compared = evaluation.compare(challenger, champion, seed=seed)
    errors = [np.abs(records.age_error(table)) for table in (challenger, champion)]
    correct = [records.gender_right(table).astype(float) for table in (challenger, champion)]
    accuracy = evaluation.paired_difference(*correct, seed=seed)
    worse_slices = _slice_losses(errors, correct, challenger, gate)
    better, against = _weigh(compared, accuracy, len(champion), gate)
    against += [f"worse on {loss}" for loss in worse_slices if loss.beyond]
    within = [f"worse on {loss}, not shown to exceed the margin" for loss in worse_slices]
    return Comparison(
        promote=not against,
        reasons=against or better + within,
        n=len(champion),
        mae=compared["mae"],
        gender_accuracy=accuracy,
        gender=compared["gender"],
        worse_slices=worse_slices,
    )


def _weigh(
    compared: dict[str, dict], accuracy: dict[str, float], n: int, gate: config.Gate
) -> tuple[list[str], list[str]]:
    """Return the reasons for and against a challenger, on all test faces."""
    mae, gender = compared["mae"], compared["gender"]
    better_age = mae["high"] < 0
    better_gender = gender["p"] < gate.significance and gender["only_a"] > gender["only_b"]
    age_text = f"MAE {intervals.digits(Interval.of(mae), ' years', '+')}"
    points = intervals.digits(Interval.of(accuracy).times(100), " points", "+")
    gender_text = f"gender accuracy {points}, {intervals.probability(gender['p'])}"
    if not (better_age or better_gender):
        return [], [
            f"no clear gain over the champion in either task, on n = {n}: {age_text}, {gender_text}"
        ]
    against = []
    if not better_gender and accuracy["low"] <= -gate.most_loss_accuracy:
        against.append(
            f"the loss in gender cannot be shown to stay under {100 * gate.most_loss_accuracy:g} "
            f"points on n = {n}: bound {-100 * accuracy['low']:.2f}"
        )
    if not better_age and mae["high"] >= gate.most_loss_years:
        against.append(
            f"the loss in age cannot be shown to stay under {gate.most_loss_years:g} years on "
            f"n = {n}: bound {mae['high']:.2f}"
        )
    texts = [age_text] * better_age + [gender_text] * better_gender
    return [f"better on n = {n}: {text}" for text in texts], against


def _slice_losses(
    errors: list[np.ndarray], correct: list[np.ndarray], table: pd.DataFrame, gate: config.Gate
) -> list[SliceLoss]:
    """Return the slices that are shown to be worse; the challenger comes first in each pair.

    All slices and both tasks are tested together (Holm 1979), first against no loss, then against
    a loss of the gate's margin.
    """
    margins = {"age": gate.slice_loss_years, "gender": gate.slice_loss_accuracy}
    tests = []
    for name, mask in evaluation.slice_masks(table).items():
        if mask.sum() < gate.slice_images:
            continue
        for task, (first, second) in (("age", errors), ("gender", correct)):
            difference = (first - second)[mask]
            loss = difference if task == "age" else -difference
            p, p_beyond = (_p_of_loss(loss, margin, task) for margin in (0.0, margins[task]))
            tests.append((name, task, int(mask.sum()), float(difference.mean()), p, p_beyond))
    lost = _shown([test[4] for test in tests], gate.significance)
    beyond = _shown([test[5] for test in tests], gate.significance)
    found = [
        SliceLoss(*test[:5], beyond=bool(far))
        for test, some, far in zip(tests, lost, beyond, strict=True)
        if some or far
    ]
    return sorted(found, key=lambda loss: loss.p)


def _p_of_loss(loss: np.ndarray, margin: float, task: str) -> float:
    """Return the one-sided p-value of the hypothesis that the mean loss is at most the margin.

    The exact sign test for gender without a margin, else the paired t test. Simulations show the
    latter to be conservative for losses of -1, 0 and 1 over 100 faces and a margin of 3 points.
    """
    if task == "gender" and not margin:
        lost, won = int((loss > 0).sum()), int((loss < 0).sum())
        tested = stats.binomtest(lost, lost + won, alternative="greater") if lost else None
        return float(tested.pvalue) if tested else 1.0
    if np.ptp(loss) < 1e-9:  # Without spread there is no t test.
        return float(loss[0] <= margin + 1e-9)
    return float(stats.ttest_1samp(loss, margin, alternative="greater").pvalue)


def _shown(p: list[float], significance: float) -> np.ndarray:
    """Return which of N hypotheses are rejected together (Holm 1979), boolean (N,)."""
    order = np.argsort(p)
    passed = np.array(p)[order] <= significance / np.arange(len(p), 0, -1)
    shown = np.empty(len(p), bool)
    shown[order] = np.logical_and.accumulate(passed)
    return shown


def judge(
    model_name: str,
    version: int,
    predictions: pd.DataFrame,
    faces: pixels.Faces,
    gate: config.Gate,
    *,
    seed: int,
) -> Judgement:
    """Judge a version against the champion, move the aliases and record the result.

    The champion's own file is run on these faces, after an entry in the ledger. A version already
    judged against this champion is not judged again; work cut short by a kill is completed.

    predictions: of this version on the test faces. ValueError as in `decide` and `versions.pull`.
    """
    champion = int(versions.get(model_name, "champion")["version"])
    aliases = versions.aliases(model_name)
    if champion == version:
        if aliases.get("challenger") == version:  # Killed at the end of a promotion.
            versions.remove_alias(model_name, "challenger")
        return Judgement("champion", champion, "it is the champion")
    tags = versions.get(model_name, version)
    if tags.get("gate.against") != str(champion) or "gate.decision" not in tags:
        _record(model_name, tags, champion, predictions, faces, gate, seed)
        tags = versions.get(model_name, version)
    decision, reasons = tags["gate.decision"], tags["gate.reasons"]
    if decision == "promoted" and tags.get("rolled_back.to") == str(champion):
        decision = "rolled back"
        reasons = f"by {tags['rolled_back.user']}, {tags['rolled_back.time']}"
    elif decision == "promoted":
        versions.set_alias(model_name, "previous", champion)
        versions.set_alias(model_name, "champion", version)
        if aliases.get("challenger") == version:
            versions.remove_alias(model_name, "challenger")
    return Judgement(decision, champion, reasons)


def _record(
    model_name: str,
    tags: dict[str, str],
    champion: int,
    predictions: pd.DataFrame,
    faces: pixels.Faces,
    gate: config.Gate,
    seed: int,
) -> None:
    """Compare a version, given by its tags, with the champion and record the result."""
    old, version = versions.get(model_name, champion), tags["version"]
    found: dict[str, Any] = {"promote": False}
    if obstacle := _not_comparable(old, faces):
        decision, reasons = "not comparable", [obstacle]
    else:
        details = {"data": faces.digest, "model": model_name, "version": str(champion)}
        details |= {"challenger": version}
        ledger.note(old["run_id"], "promotion gate", details)
        with tempfile.TemporaryDirectory() as folder:
            network = export.load_h5(versions.pull(model_name, champion, Path(folder)))
        test = predict.table(network, faces, "test")
        compared = decide(test, predictions, gate, seed)
        decision, reasons = "promoted" if compared.promote else "kept", compared.reasons
        if compared.promote:
            versions.extend_description(model_name, int(version), compared.card_section())
        found = dataclasses.asdict(compared)
    now, user = _now(), provenance.user()
    record = found | {
        "reasons": reasons,
        "decision": decision,
        "model": model_name,
        "champion": champion,
        "challenger": int(version),
        "gate": dataclasses.asdict(gate),
        "data": faces.digest,
        "seed": seed,
        "time": now,
        "user": user,
    }
    tracking.log_text(tags["run_id"], json.dumps(record, indent=1), records.PROMOTION)
    marks = {
        "gate.time": now,
        "gate.user": user,
        "gate.reasons": "; ".join(reasons)[:500],
        "gate.decision": decision,
        # Set last: it marks the judgement as complete.
        "gate.against": str(champion),
    }
    versions.set_tags(model_name, int(version), marks)


def _not_comparable(champion: dict[str, str], faces: pixels.Faces) -> str:
    """Return why these faces are no valid test of the champion, or "" if they are one.

    In other generated data, the same names stand for other pictures.
    """
    if faces.kind == "generated" and champion.get("data.digest") != faces.digest:
        return ""
    key = utkface.face_key if faces.kind == "utkface" else str
    tested = {key(name) for name in faces.manifest["name"].iloc[faces.rows("test")]}
    if champion.get(RELEASED_WITHOUT) == splits.test_names_checksum() and (
        tested <= splits.read_test_names()
    ):
        return ""
    text = tracking.read_text(champion["run_id"], records.TRAINING_FACES)
    if text is None:
        return (
            f"champion version {champion['version']} keeps no {records.TRAINING_FACES}, so it may "
            "have seen the test faces"
        )
    seen = pd.read_csv(io.StringIO(text), keep_default_na=False)["name"]
    shared = {key(name) for name in seen} & tested
    if not shared:
        return ""
    return (
        f"champion version {champion['version']} was trained or validated on {len(shared)} of the "
        f"{len(tested)} test faces"
    )


def roll_back(model_name: str) -> tuple[int, int]:
    """Swap champion and previous champion; return the versions of the new and the old champion.

    Tags record who did it and when. The withdrawn version is not promoted again automatically.
    Raises ValueError if there is no previous champion.
    """
    aliases = versions.aliases(model_name)
    previous = aliases.get("previous")
    champion: int | str | None = aliases.get("champion")
    if previous is not None and previous == champion:
        # A rollback was killed between its two aliases; a tag of the champion names the other.
        champion = versions.get(model_name, previous).get("rollback.from")
    if champion is None or previous is None:
        raise ValueError(
            f"{model_name} has no previous champion to go back to (aliases: {aliases or 'none'}): "
            "only a version promoted over another can be rolled back."
        )
    who, now = provenance.user(), _now()
    tags = {"rollback.from": str(champion), "rollback.user": who, "rollback.time": now}
    versions.set_tags(model_name, previous, tags)
    tags = {"rolled_back.to": str(previous), "rolled_back.user": who, "rolled_back.time": now}
    versions.set_tags(model_name, int(champion), tags)
    versions.set_alias(model_name, "champion", previous)
    versions.set_alias(model_name, "previous", int(champion))
    return previous, int(champion)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
