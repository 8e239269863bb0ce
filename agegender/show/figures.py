"""Figures of histories and predictions; each function returns a Figure and saves nothing.

Most functions take one table per model, by model name, and draw all models side by side. Colours
are those of Okabe and Ito (2008), which colour-blind readers can distinguish.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay

from agegender import records
from agegender.measure import evaluation, robustness

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
PALETTE = (BLUE, ORANGE, GREEN, "#E69F00", "#CC79A7")
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
MEASURES = {
    "mae": "mean absolute error (years)",
    "bias": "bias: predicted - labelled (years)",
    "gender_accuracy": "gender accuracy",
}


def blank(
    width: float, height: float, rows: int = 1, columns: int = 1, **keywords: Any
) -> tuple[matplotlib.figure.Figure, Any]:
    """Return a figure, width and height in inches, and its axes."""
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(rows, columns, **keywords)


def _beside(width: float, height: float) -> Callable:
    """Decorate a function that draws one model to draw several, each `width` inches wide."""

    def decorate(draw: Callable) -> Callable:
        @functools.wraps(draw)
        @matplotlib.rc_context(STYLE)
        def drawn(models: Mapping[str, pd.DataFrame]) -> matplotlib.figure.Figure:
            size = (width * len(models), height)
            figure = matplotlib.figure.Figure(size, dpi=110, layout="constrained")
            parts = figure.subfigures(1, len(models), squeeze=False)[0]
            for part, (name, table) in zip(parts, models.items(), strict=True):
                draw(part, table)
                part.suptitle(name, weight="bold")
            return figure

        return drawn

    return decorate


@_beside(6, 5)
def learning_curves(part: matplotlib.figure.SubFigure, history: pd.DataFrame) -> None:
    """Draw loss and metric of both tasks over the epochs, for training and validation.

    history: columns epoch (from 0), age_loss, age_mae, gender_loss, gender_accuracy, the same with
    val_, and val_score; optionally phase. Marks the kept epoch and each change of phase.
    """
    axes = part.subplots(2, 2, sharex=True)
    epoch = history["epoch"] + 1
    best = evaluation.kept_epoch(history)
    changes = []
    if "phase" in history:
        changes = epoch[history["phase"] != history["phase"].shift()].iloc[1:] - 0.5
    panels = {
        "age_loss": "Age: loss",
        "gender_loss": "Gender: loss",
        "age_mae": "Age: MAE (years)",
        "gender_accuracy": "Gender: accuracy",
    }
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(epoch, history[name], color=BLUE, marker=".", label="training")
        axis.plot(epoch, history[f"val_{name}"], color=ORANGE, marker=".", label="validation")
        axis.plot(epoch[best], history[f"val_{name}"][best], "o", ms=10, mfc="none", mec="black")
        for change in changes:
            axis.axvline(change, color=GREY, linestyle=":")
        axis.set_title(title)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    for axis in axes[1]:
        axis.set_xlabel(f"epoch (circle: best, {epoch[best]} of {len(history)})")
    axes[0, 0].legend()


@_beside(5.5, 2.3)
def search_history(part: matplotlib.figure.SubFigure, trials: pd.DataFrame) -> None:
    """Draw each trial's val_score and the best so far; columns: trial, val_score."""
    axis = part.subplots()
    trials = trials.dropna(subset=["val_score"])  # Failed trials.
    axis.plot(trials["trial"], trials["val_score"], "o", color=GREY, label="trial")
    lowest = trials["val_score"].cummin()
    axis.step(trials["trial"], lowest, where="post", color=BLUE, lw=2, label="best so far")
    axis.margins(0.06, 0.15)
    axis.set(xlabel="trial", ylabel="val_score (lower is better)")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.legend()


@_beside(5, 3.6)
def predicted_against_true(part: matplotlib.figure.SubFigure, predictions: pd.DataFrame) -> None:
    """Draw predicted against labelled ages; columns: age_years, age_predicted.

    Shade the age intervals if there are columns age_low and age_high.
    """
    axis = part.subplots()
    test = predictions.sort_values("age_predicted")
    top = float(test[["age_years", "age_predicted"]].to_numpy().max()) + 3
    axis.plot([0, top], [0, top], color="black", lw=1, label="exact")
    if "age_low" in test:
        shade = {"color": GREEN, "alpha": 0.15, "lw": 0, "label": "age interval"}
        axis.fill_betweenx(test["age_predicted"], test["age_low"], test["age_high"], **shade)
    axis.plot(
        "age_years", "age_predicted", ".", data=test, color=BLUE, alpha=0.25, mew=0, label="face"
    )
    axis.set(xlabel="labelled age (years)", ylabel="predicted age (years)", aspect="equal")
    axis.set(title=f"Age, n = {len(test):,}", xlim=(0, top), ylim=(None, top))
    axis.legend(loc="upper left")


@_beside(5, 2.7)
def confusion(part: matplotlib.figure.SubFigure, predictions: pd.DataFrame) -> None:
    """Draw how often each labelled gender (0 male, 1 female) is predicted as male or female."""
    axis = part.subplots()
    actual = records.is_female(predictions["gender"])
    ConfusionMatrixDisplay.from_predictions(
        actual,
        records.is_female(predictions["gender_probability"]),
        labels=[False, True],
        display_labels=["male", "female"],
        normalize="true",
        values_format=".1%",
        cmap="Blues",
        ax=axis,
        colorbar=False,
    )
    axis.grid(False)
    axis.set(xlabel="predicted gender", ylabel="labelled gender")
    axis.set_title(f"{(~actual).sum():,} men, {actual.sum():,} women")


@_beside(5, 3.1)
def reliability_diagram(part: matplotlib.figure.SubFigure, predictions: pd.DataFrame) -> None:
    """Draw the share of women and the number of faces in each bin of `evaluation.reliability`.

    predictions: columns gender (0 male, 1 female) and gender_probability.
    """
    bins = evaluation.reliability(
        predictions["gender"].to_numpy(), predictions["gender_probability"].to_numpy()
    )
    axis, histogram = part.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axis.plot([0, 1], [0, 1], color="black", lw=1, label="calibrated")
    marks = {"fmt": "o", "color": BLUE, "capsize": 4, "label": "labelled, 95 % interval"}
    axis.errorbar(bins["probability"], bins["share"], bars(bins, "share"), **marks)
    axis.set(ylabel="share labelled female", title=f"Gender, n = {bins['n'].sum():,}")
    axis.legend(loc="upper left")
    width = 1 / evaluation.CALIBRATION_BINS
    histogram.bar((bins.index + 0.5) * width, bins["n"], 0.9 * width, color=GREY)
    histogram.set(xlabel="predicted probability of female", ylabel="faces")


def bars(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return how far a column's interval reaches below and above its value."""
    reach = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
    # Rounding can put a value slightly outside its interval.
    return np.maximum(reach, 0)


def _coloured(models: Mapping[str, Any]) -> Sequence[tuple[float, str, Any, str]]:
    """Return shift, name, data and colour of each model drawn on the same axes."""
    shifts = np.linspace(-0.15, 0.15, len(models)) if len(models) > 1 else [0.0]
    return [
        (float(shift), name, data, colour)
        for shift, (name, data), colour in zip(shifts, models.items(), PALETTE, strict=False)
    ]


@matplotlib.rc_context(STYLE)
def robustness_curves(curves: Mapping[str, pd.DataFrame]) -> matplotlib.figure.Figure:
    """Draw MAE and gender accuracy at each strength of each corruption, with 95 % intervals."""
    names = list(robustness.CORRUPTIONS)
    figure, axes = blank(1.75 * len(names), 3.8, 2, len(names), sharey="row", squeeze=False)
    for shift, model, table, colour in _coloured(curves):
        clean = table[table["corruption"] == "clean"]
        for column, name in enumerate(names):
            rows = pd.concat([clean, table[table["corruption"] == name]], ignore_index=True)
            for axis, measure in zip(axes[:, column], ("mae", "gender_accuracy"), strict=True):
                reach, places = bars(rows, measure), rows.index + shift
                axis.errorbar(places, rows[measure], reach, fmt="o-", color=colour, label=model)
                strengths = ["none", *(f"{strength:g}" for strength in rows["strength"][1:])]
                axis.set_xticks(rows.index, strengths, fontsize=8)
            axes[0, column].set_title(name)
            axes[1, column].set_xlabel(robustness.CORRUPTIONS[name][2].replace(" (", "\n("))
    axes[0, 0].set_ylabel("age: MAE (years)")
    axes[1, 0].set_ylabel("gender accuracy")
    axes[0, 0].legend()
    figure.suptitle(f"Degraded pictures, 95 % intervals, n = {clean['n'].iloc[0]} each")
    return figure


@matplotlib.rc_context(STYLE)
def slices(tables: Mapping[str, pd.DataFrame]) -> matplotlib.figure.Figure:
    """Draw age error, age bias and gender accuracy of each slice with 95 % intervals.

    tables: from `evaluation.slices`. Small slices are faded; unranked pairs are left out.
    """
    shown = {
        name: table[table["ranked"] | ~table["slice"].str.contains(",")].set_index("slice")
        for name, table in tables.items()
    }
    first = next(iter(shown.values()))
    figure, axes = blank(8.5, 1.2 + 0.21 * len(first), 1, len(MEASURES), sharey=True)
    places = pd.Series(range(len(first)), first.index)
    for shift, model, table, colour in _coloured(shown):
        for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
            for rows, alpha in ((table[table["ranked"]], 1.0), (table[~table["ranked"]], 0.35)):
                marks = {"fmt": "o", "ms": 4, "color": colour, "alpha": alpha}
                marks |= {"label": model} if alpha == 1 else {}
                heights = places.reindex(rows.index) + shift
                axis.errorbar(rows[measure], heights, xerr=bars(rows, measure), **marks)
            axis.set_xlabel(label)
    axes[1].axvline(0, color="black", lw=1)
    axes[0].set_yticks(places, [f"{row.Index}, n = {row.n:,}" for row in first.itertuples()])
    axes[0].set_ylim(len(first) - 0.5, -0.5)
    if len(tables) > 1:
        axes[0].legend()
    figure.suptitle(f"95 % intervals; faded: fewer than {evaluation.SMALL_SLICE} faces")
    return figure


def of_test(
    tested: Mapping[str, tuple[pd.DataFrame, records.Evidence]],
) -> dict[str, matplotlib.figure.Figure]:
    """Return all figures of an evaluation that show no faces, by name.

    tested: by model: predictions with age_low and age_high, evidence with slices and robustness.
    """
    predictions = {name: table for name, (table, _) in tested.items()}
    measured = {name: evidence for name, (_, evidence) in tested.items()}
    return {
        "predicted_against_true": predicted_against_true(predictions),
        "confusion": confusion(predictions),
        "reliability_diagram": reliability_diagram(predictions),
        "slices": slices({name: pd.DataFrame(each.slices) for name, each in measured.items()}),
        "robustness": robustness_curves(
            {name: pd.DataFrame(each.robustness) for name, each in measured.items()}
        ),
    }


@matplotlib.rc_context(STYLE)
def occlusion_maps(images: np.ndarray, maps: list[dict]) -> matplotlib.figure.Figure:
    """Draw faces, uint8 (N, S, S, 3), and how covering each place changes age and gender.

    maps: N results of `robustness.occlusion_map`, all with the same patch and stride.
    """
    figure, axes = blank(2 + 1.9 * len(images), 6, 3, len(images), squeeze=False)
    labels = {"age_years": "age (years)", "gender_probability": "probability of female"}
    for axis, image in zip(axes[0], images, strict=True):
        axis.imshow(image)
    for row, (name, label) in enumerate(labels.items(), start=1):
        most = max(float(np.abs(each[name]).max()) for each in maps) or 1.0
        for axis, image, each in zip(axes[row], images, maps, strict=True):
            centres = each["centres_pixels"]
            half = (centres[1] - centres[0] if len(centres) > 1 else 2 * centres[0]) / 2
            low, high = centres[0] - half, centres[-1] + half
            axis.imshow(image.mean(axis=2), cmap="gray")
            shade = {"cmap": "PuOr_r", "vmin": -most, "vmax": most, "alpha": 0.65}
            shown = axis.imshow(each[name], extent=(low, high, high, low), **shade)
            axis.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        figure.colorbar(shown, ax=list(axes[row]), label=f"change in\n{label}")
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle("Change in the prediction when a grey patch covers a place")
    return figure


@matplotlib.rc_context(STYLE)
def face_grid(
    images: Sequence[np.ndarray | None],
    labels: Sequence[str],
    columns: int,
    inches: tuple[float, float] = (0.95, 1.15),
) -> matplotlib.figure.Figure:
    """Draw labelled faces, uint8 (S, S, 3), in rows of `columns`; None leaves a gap.

    inches: width and height of a face with the label above it.
    """
    rows, cell_height = -(-len(images) // columns), inches[1] / inches[0]
    # All faces share one axes: laying out one axes per face takes seconds.
    figure, axis = blank(inches[0] * columns, inches[1] * rows)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        if image is not None:
            left, bottom = place % columns + 0.03, -cell_height * (place // columns + 1)
            axis.imshow(image, extent=(left, left + 0.94, bottom, bottom + 0.94))
            axis.text(left + 0.47, bottom + 0.96, label, ha="center", va="bottom", fontsize=8)
    axis.set(xlim=(0, columns), ylim=(-cell_height * rows, 0))
    axis.axis("off")
    return figure
