"""Pages and pictures for readers: the model card, the leaderboard over seeds."""

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import pandas as pd

from agegender.evidence import figures, robustness

TITLES = {"A": "trained from scratch", "B": "a pretrained network, fine-tuned"}
DATA = {
    "utkface": "UTKFace (Zhang et al. 2017): non-commercial research only; the pictures belong to "
    "their owners. Ages are apparent: estimated by an algorithm, checked by a person.",
    "generated": "Faces drawn by a program: **the numbers say nothing about people**.",
}
# What B's weights are where they are not fine-tuned, by the record's `fine_tuning_kept`.
FINE_TUNING = {
    "False": "Fine-tuning was tried and discarded: in validation it was no better than the head on "
    "frozen features. This model is that head.",
    "None": "Nothing was fine-tuned: this model is a head on frozen features.",
}
USE = """\
Study of apparent age, and of the gender label, on aligned and cropped faces. Not for deciding \
about, identifying or watching people."""
LIMITS = """\
- Appearance is not identity, and two labels are not all genders.
- No decision about a person should rest on this model.
- The ages are apparent ages. Groups that are rare in the data have wide intervals: a difference \
that was not shown may still be there.
- To be taken out of the data: for the pictures, ask the authors of UTKFace \
(https://susanqq.github.io/UTKFace/); for this model, ask the owner of this registry, who trains \
again without them and deletes this version."""
METRICS = {
    "mae": "mean absolute error, years",
    "rmse": "root mean square error, years",
    "bias": "bias (predicted - true), years",
    "cs5": "share within 5 years",
    "gender_accuracy": "gender accuracy",
    "gender_f1": "gender F1, mean of both",
    "gender_auc": "gender AUC",
    "gender_ece": "gender calibration error",
}


def model_card(
    record: dict,
    *,
    family: str,
    data_kind: str,
    licence: str,
    backbone: dict | None,
    evidence: dict,
) -> str:
    """Return a model's card in Markdown, shorter than the 5,000 characters of a description.

    record: a candidate's, with seed, epochs, data, val, test and, of B, fine_tuning_kept.
    data_kind: "utkface" or "generated". backbone: name, licence and pretraining, or None. evidence:
    any of slices, worst_slices, intervals, abstention, label_noise, robustness and mirror, as the
    evaluation leaves them, and test_looks, their number; what is missing is left out.
    """
    name = f"age-gender-{family}" + ("" if data_kind == "utkface" else f"-{data_kind}")
    weights = backbone and "{name} ({licence}), trained on {pretraining}.".format(**backbone)
    if backbone and (frozen := FINE_TUNING.get(str(record.get("fine_tuning_kept", True)))):
        weights += f" {frozen}"
    sections = {
        "Intended use": USE,
        "How to use it": "```python\nimport mlflow\n\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")\n'
        'print(model.predict(["face.jpg"]))  # age_years, gender_probability_female, gender\n```',
        "Data and licence": f"{DATA[data_kind]}\n\n{licence}",
        "Pretrained weights": weights,
        "Metrics on the locked test": _metrics(record, evidence),
        "Slices": _slices(evidence),
        "Calibration and abstention": _calibration(evidence),
        "Robustness": _robustness(evidence),
        "Limits and ethics": LIMITS,
    }
    parts = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join([f"# {name}, {TITLES[family]}", *parts]) + "\n"


def _told(entry: dict) -> str:
    """Return a dict of numbers, or of those with intervals, as a phrase."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in entry.items())


def _number(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else f"{value}"


def _metrics(record: dict, evidence: dict) -> str:
    test, val = record["test"], record["val"]
    lines = ["| metric | value [95 % interval] |", "|---|---|"]
    lines += [f"| {METRICS[name]} | {_number(test[name])} |" for name in METRICS if name in test]
    lines.append(
        f"\nn = {test['n']} faces of data {record['data']}, seed {record['seed']}, "
        f"{record['epochs']} epochs. Score {test['score']:.3f} (1 is trivial, 0 perfect); in "
        f"validation {val['val_score']:.3f}: {val['val_age_mae']:.2f} years, "
        f"{val['val_gender_accuracy']:.3f}."
    )
    if noise := evidence.get("label_noise"):
        lines.append(f"\nThe labels' own disagreement, over near-duplicates: {_told(noise)}.")
    if looks := evidence.get("test_looks"):
        lines.append(f"\nLooks at the test noted in this store so far: {looks}.")
    if mirror := evidence.get("mirror"):
        lines.append(f"\nAveraged with the mirror image, the MAE changes by {_mae(mirror)} years.")
    return "\n".join(lines)


def _mae(difference: dict) -> str:
    return _number(difference.get("mae", difference))


def _slices(evidence: dict) -> str:
    rows = [row for row in evidence.get("slices", []) if ", " not in row["slice"]]
    if not rows:
        return ""
    lines = ["| slice | n | MAE, years | gender accuracy |", "|---|---|---|---|"]
    for row in rows:
        measures = " | ".join(
            f"{row[name]:.{digits}f} [{row[f'{name}_low']:.{digits}f}, "
            f"{row[f'{name}_high']:.{digits}f}]"
            for name, digits in (("mae", 1), ("gender_accuracy", 2))
        )
        lines.append(f"| {row['slice']}{'' if row['ranked'] else ' *'} | {row['n']} | {measures} |")
    if not all(row["ranked"] for row in rows):
        lines.append("\n\\* fewer than 30 faces: not ranked.")
    if worst := evidence.get("worst_slices"):
        told = "; ".join(f"{name.replace('_', ' ')} in {where}" for name, where in worst.items())
        lines.append(f"\nWorst, pairs included: {told}.")
    return "\n".join(lines)


def _calibration(evidence: dict) -> str:
    lines = []
    if intervals := evidence.get("intervals"):
        halves = intervals["half_widths_years"]
        lines.append(
            f"- Age intervals for {intervals['coverage']:.0%} of faces (split conformal): "
            f"predicted age -+ {min(halves):.1f} to {max(halves):.1f} years by band of age."
        )
        if "test" in intervals:
            measured = intervals["test"]
            lines.append(f"- Measured on the test: {_number(measured)}, n = {measured['n']}.")
    if abstention := evidence.get("abstention"):
        lines.append(f"- Abstention in gender, set in validation: {_told(abstention)}.")
    return "\n".join(lines)


def _robustness(evidence: dict) -> str:
    """Return a line a corruption: its strengths, and what they leave of both tasks."""
    if not evidence.get("robustness"):
        return ""
    units = {name: f", {unit}" for name, (*_, unit) in robustness.CORRUPTIONS.items()}
    return "MAE in years and gender accuracy at each strength:\n" + "\n".join(
        f"- {name}{units.get(name, '')}: "
        + "; ".join(
            f"{_number(row.strength)}: {row.mae:.1f}, {row.gender_accuracy:.2f}"
            for row in rows.itertuples()
        )
        for name, rows in pd.DataFrame(evidence["robustness"]).groupby("corruption", sort=False)
    )


@matplotlib.rc_context(figures.STYLE)
def leaderboard(trainings: pd.DataFrame, standing: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw a dot a training, a line at each setting's mean, and the group letters.

    trainings: trial, seed and val_score; standing: trial, setting (its name), val_score_mean and
    group, the best first.
    """
    figure = matplotlib.figure.Figure((8, 1.8 + 0.6 * len(standing)), 110, layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(standing.itertuples()):
        scores = trainings.val_score[trainings.trial == row.trial]
        axis.plot(scores, [place] * len(scores), "o", color=figures.BLUE, alpha=0.6, ms=8)
        axis.vlines(row.val_score_mean, place - 0.3, place + 0.3, color=figures.ORANGE, lw=3)
        axis.annotate(
            row.group, (1.01, place), xycoords=("axes fraction", "data"), va="center", weight="bold"
        )
    axis.set_yticks(range(len(standing)), standing.setting)
    axis.set_ylim(len(standing) - 0.5, -0.5)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(7))
    axis.set(
        xlabel="val_score (lower is better)",
        title=f"{trainings.val_score.count()} trainings: a dot a seed, a line at the mean.\n"
        "Settings that share a letter are not told apart (95 %)",
    )
    return figure
