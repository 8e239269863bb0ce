"""Draw histories, trials and predictions. Each function returns a Figure; nothing is saved here.

Figures are made without pyplot, so they need no closing and no display. Colours are those of Okabe
and Ito (2008) and the map cividis (Nuñez et al. 2018), which the colour-blind tell apart.
"""

import matplotlib
import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from agegender.evidence import evaluation, robustness, uncertainty

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
FEW_TRIALS, FEWEST_TRIALS = 20, 5


def blank(width: float, height: float, rows: int = 1, columns: int = 1, **keywords):
    """Return a figure of so many inches and its axes."""
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(rows, columns, **keywords)


@matplotlib.rc_context(STYLE)
def learning_curves(history: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw loss and metric of both tasks over the epochs, in training and in validation.

    history: columns epoch (from 0), age_loss, age_mae, gender_loss, gender_accuracy, the same with
    val_, and val_score, whose lowest epoch is marked; where a column phase changes, a line is.
    """
    figure, axes = blank(10, 6.5, 2, 2, sharex=True)
    epoch = history["epoch"] + 1
    best = history["val_score"].idxmin()
    changes = []
    if "phase" in history:
        changes = epoch[history["phase"] != history["phase"].shift()].iloc[1:] - 0.5
    panels = {
        "age_loss": "Age: loss",
        "gender_loss": "Gender: loss",
        "age_mae": "Age: mean absolute error (years)",
        "gender_accuracy": "Gender: accuracy",
    }
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(epoch, history[name], color=BLUE, marker=".", label="training")
        axis.plot(epoch, history[f"val_{name}"], color=ORANGE, marker=".", label="validation")
        axis.plot(epoch[best], history[f"val_{name}"][best], "o", ms=10, mfc="none", mec="black")
        for change in changes:
            axis.axvline(change, color=GREY, linestyle=":")
        axis.annotate(
            f"{history[f'val_{name}'][best]:.3g}",
            (epoch[best], history[f"val_{name}"][best]),
            # On the side where the training curve is not.
            xytext=(0, -18 if name == "gender_accuracy" else 9),
            textcoords="offset points",
            ha="center",
        )
        axis.margins(y=0.15)
        axis.set_title(title)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    axes[0, 0].legend()
    figure.suptitle(
        f"Best epoch (circle): {epoch[best]} of {len(history)}, "
        f"val_score {history['val_score'][best]:.3f}"
    )
    return figure


@matplotlib.rc_context(STYLE)
def best_so_far(trials: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw each trial's val_score and the lowest until then; columns trial and val_score."""
    figure, axis = blank(8, 4.5)
    lowest = trials["val_score"].cummin()
    axis.plot(trials["trial"], trials["val_score"], "o", color=GREY, label="trial")
    axis.step(trials["trial"], lowest, where="post", color=BLUE, lw=2, label="best so far")
    best = trials["val_score"].idxmin()
    axis.annotate(
        f"trial {trials['trial'][best]}: {trials['val_score'][best]:.3f}",
        (trials["trial"][best], trials["val_score"][best]),
        xytext=(0, -16),
        textcoords="offset points",
        ha="center",
        color=BLUE,
    )
    axis.margins(0.06, 0.15)
    axis.set(
        xlabel="trial",
        ylabel="val_score (lower is better)",
        title=f"Best of {len(trials)} trials so far",
    )
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.legend()
    return figure


@matplotlib.rc_context(STYLE)
def parallel_coordinates(
    trials: pd.DataFrame, parameters: list[str], score: str = "val_score"
) -> matplotlib.figure.Figure:
    """Draw a line a trial through its value of each parameter, coloured by score, the best on top.

    Numbers over a factor of 30, most of them small, are placed by their logarithm; what is no
    number is listed; a parameter that a trial does not have is 'not used'. ValueError where
    `parameters` is empty.
    """
    if not parameters:
        raise ValueError("Nothing to draw: no parameter varies over these trials.")
    names = [*parameters, score]
    figure, axis = blank(max(7.0, 1.7 * len(names) + 1), 5.5)
    placed = [_place(trials[name]) for name in names]
    norm = matplotlib.colors.Normalize(trials[score].min(), trials[score].max())
    colours = matplotlib.colormaps["cividis"]
    order = trials[score].to_numpy().argsort()[::-1]
    for rank, row in enumerate(order):
        axis.plot(
            range(len(names)),
            [heights[row] for heights, _ in placed],
            color=colours(norm(trials[score].iloc[row])),
            lw=3 if rank == len(order) - 1 else 1.3,
            alpha=0.9,
        )
    for position, (_, ticks) in enumerate(placed):
        axis.axvline(position, color="black", lw=0.8)
        for height, label in ticks:
            axis.annotate(
                label,
                (position, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
            )
    axis.set_xticks(range(len(names)), [_wrap(name) for name in names])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_xlim(-0.1, len(names) - 0.5)
    axis.set_title(f"{len(trials)} trials; the thick line is the best")
    shades = matplotlib.cm.ScalarMappable(norm, colours)
    figure.colorbar(shades, ax=axis, label=f"{score} (lower is better)", pad=0.01)
    return figure


def _place(values: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return heights in 0..1 for the values of one parameter, and labelled ticks."""
    absent = values.isna().to_numpy()
    if absent.all():
        return np.zeros(len(values)), [(0.0, "not used")]
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(float)
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        # A range drawn evenly has its median in the middle, even if it happens to begin near 0.
        logarithmic = low > 0 and high / low > 30 and np.nanmedian(numbers) < high / 4
        scale = np.log if logarithmic else np.asarray
        span = scale(high) - scale(low) or 1.0
        bottom = 0.12 if absent.any() else 0.0
        heights = bottom + (1 - bottom) * (scale(numbers) - scale(low)) / span
        shown = np.unique(numbers[~absent])
        if len(shown) > 5:
            shown = np.geomspace(low, high, 5) if logarithmic else np.linspace(low, high, 5)
        ticks = [
            (float(bottom + (1 - bottom) * (scale(v) - scale(low)) / span), f"{v:.3g}")
            for v in shown
        ]
    else:
        labels = sorted(values[~absent].astype(str).unique())
        steps = len(labels) - 1 + absent.any() or 1
        levels = {label: (i + absent.any()) / steps for i, label in enumerate(labels)}
        heights = np.array([levels.get(label, 0.0) for label in values.astype(str)])
        ticks = [(float(height), label) for label, height in levels.items()]
    if absent.any():
        heights[absent] = 0.0
        ticks.append((0.0, "not used"))
    return heights, ticks


def _wrap(name: str) -> str:
    return name.replace("_", "\n")


@matplotlib.rc_context(STYLE)
def hyperparameter_importance(
    trials: pd.DataFrame, parameters: list[str], score: str = "val_score"
) -> matplotlib.figure.Figure:
    """Draw how much each parameter has to do with the score, and which measure that is.

    From 20 trials on, the permutation importance (Breiman 2001) in a random forest: by how much its
    R² falls when the parameter's values are shuffled, with the standard deviation over shuffles.
    With fewer a forest only fits noise: then the size of Spearman's rank correlation (eta, the root
    of the share of variance between the groups, for what is no number), grey where p > .05; 0 where
    fewer than 5 trials have the parameter.
    """
    figure, axis = blank(8, max(2.6, 0.42 * len(parameters) + 1.8))
    count = len(trials)
    if count >= FEW_TRIALS:
        values, deviations, title = _forest_importance(trials, parameters, score)
        colours = [BLUE] * len(parameters)
        label = "loss of R² when shuffled"
    else:
        pairs = [association(trials[name], trials[score]) for name in parameters]
        values, deviations = np.array([size for size, _ in pairs]), None
        colours = [BLUE if p <= 0.05 else GREY for _, p in pairs]
        title = f"Only {count} trials: associations, grey where it may be chance (p > .05)"
        label = "size of the rank correlation with val_score (categories: eta)"
    order = np.argsort(values)
    axis.barh(
        [parameters[i] for i in order],
        values[order],
        xerr=None if deviations is None else deviations[order],
        color=[colours[i] for i in order],
        ecolor="black",
    )
    axis.set(xlabel=label.replace("val_score", score), title=title)
    axis.grid(False, axis="y")
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    return figure


def _forest_importance(trials, parameters, score):
    """Return mean and deviation of the permutation importances, and a title with the fit."""
    table = pd.DataFrame(
        {
            name: trials[name].fillna(-1)
            if pd.api.types.is_numeric_dtype(trials[name])
            else pd.factorize(trials[name].astype(str), sort=True)[0]
            for name in parameters
        }
    ).astype(float)
    forest = RandomForestRegressor(100, min_samples_leaf=2, oob_score=True, random_state=0)
    forest.fit(table, trials[score])
    found = permutation_importance(forest, table, trials[score], n_repeats=10, random_state=0)
    title = (
        f"Random forest over {len(trials)} trials, R² on trials left out {forest.oob_score_:.2f}"
    )
    if forest.oob_score_ < 0.2:
        title += ": uncertain"
    return found.importances_mean, found.importances_std, title


def association(values: pd.Series, score: pd.Series) -> tuple[float, float]:
    """Return the size of the association and its p; (0, 1) where nothing can be said."""
    present = values.notna()
    values, score = values[present], score[present]
    if len(values) < FEWEST_TRIALS or values.nunique() < 2 or score.nunique() < 2:
        return 0.0, 1.0
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        found = stats.spearmanr(values.to_numpy(float), score)
        return abs(float(found.statistic)), float(found.pvalue)
    groups = [group.to_numpy() for _, group in score.groupby(values.astype(str))]
    between = sum(len(group) * (group.mean() - score.mean()) ** 2 for group in groups)
    eta = float(np.sqrt(between / ((score - score.mean()) ** 2).sum()))
    return eta, float(stats.kruskal(*groups).pvalue)


@matplotlib.rc_context(STYLE)
def pareto_front(trials: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the trials' MAE against gender accuracy and mark those that no other beats in both.

    Columns: trial, val_age_mae (years), val_gender_accuracy, val_score.
    """
    figure, axis = blank(7.5, 5.5)
    mae = trials["val_age_mae"].to_numpy(float)
    accuracy = trials["val_gender_accuracy"].to_numpy(float)
    front = pareto_members(mae, accuracy)
    axis.plot(mae[~front], accuracy[~front], "o", color=GREY, label="trial")
    order = np.argsort(mae[front])
    axis.step(
        mae[front][order],
        accuracy[front][order],
        "o-",
        where="post",
        color=BLUE,
        label="not beaten in both",
    )
    best = int(np.argmin(trials["val_score"]))
    axis.plot(
        mae[best], accuracy[best], "o", ms=13, mfc="none", mec=ORANGE, mew=2, label="lowest score"
    )
    for row in np.flatnonzero(front):
        axis.annotate(
            str(trials["trial"].iloc[row]),
            (mae[row], accuracy[row]),
            xytext=(-6, 7),
            textcoords="offset points",
            ha="right",
        )
    axis.margins(0.08)
    axis.set(
        xlabel="age: mean absolute error on validation (years)",
        ylabel="gender: accuracy on validation",
        title="Better is up and to the left; numbers are trials",
    )
    axis.legend(loc="best")
    return figure


def pareto_members(mae: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Say, boolean (N,), for which points no other is as good in both and better in one."""
    no_worse = (mae[None] <= mae[:, None]) & (accuracy[None] >= accuracy[:, None])
    better = (mae[None] < mae[:, None]) | (accuracy[None] > accuracy[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))


@matplotlib.rc_context(STYLE)
def predicted_against_true(
    age_true: np.ndarray,
    age_predicted: np.ndarray,
    intervals: tuple[np.ndarray, np.ndarray] | None = None,
) -> matplotlib.figure.Figure:
    """Draw predicted over true ages, years (N,), with the median and the middle 80 % per decade.

    intervals: lowest and highest age for each prediction; the shade over which they reach.
    """
    age_true, age_predicted = np.asarray(age_true, float), np.asarray(age_predicted, float)
    figure, axis = blank(6.5, 6)
    top = float(max(age_true.max(), age_predicted.max())) + 3
    axis.plot([0, top], [0, top], color="black", lw=1, label="exact")
    if intervals:
        order = np.argsort(age_predicted)
        low, high = (np.asarray(bound)[order] for bound in intervals)
        axis.fill_betweenx(
            age_predicted[order], low, high, color=GREEN, alpha=0.15, lw=0, label="age interval"
        )
    size = float(np.clip(9000 / len(age_true), 5, 20))
    axis.scatter(age_true, age_predicted, s=size, color=BLUE, alpha=0.25, linewidths=0)
    decade = (age_true // 10).astype(int)
    rows = []
    for start in np.unique(decade):
        chosen = age_predicted[decade == start]
        # Quantiles of fewer faces say nothing.
        if len(chosen) >= 10:
            rows.append((start * 10 + 5, *np.quantile(chosen, [0.1, 0.5, 0.9])))
    if rows:
        centre, low, middle, high = np.array(rows).T
        axis.errorbar(
            centre,
            middle,
            [middle - low, high - middle],
            fmt="o",
            color=ORANGE,
            capsize=4,
            label="median and middle 80 % of a decade",
        )
    error = np.abs(age_predicted - age_true).mean()
    axis.set(
        xlim=(0, top),
        ylim=(min(0, float(age_predicted.min())), top),
        xlabel="labelled age (years)",
        ylabel="predicted age (years)",
        title=f"Age: mean absolute error {error:.2f} years, n = {len(age_true)}",
    )
    axis.set_aspect("equal")
    axis.legend(loc="upper left")
    return figure


@matplotlib.rc_context(STYLE)
def confusion(gender_true: np.ndarray, gender_probability: np.ndarray) -> matplotlib.figure.Figure:
    """Draw counts and shares of labelled (0 male, 1 female) against predicted gender, (N,) each."""
    actual = np.asarray(gender_true) > 0.5
    predicted = np.asarray(gender_probability) >= 0.5
    counts = np.array(
        [[int(((actual == a) & (predicted == p)).sum()) for p in (0, 1)] for a in (0, 1)]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axis = blank(5.2, 4.6)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        axis.text(
            column,
            row,
            f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=14,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axis.set_xticks([0, 1], ["male", "female"])
    axis.set_yticks([0, 1], ["male", "female"])
    axis.grid(False)
    axis.set(
        xlabel="predicted gender",
        ylabel="labelled gender",
        title=f"Gender: accuracy {(actual == predicted).mean():.3f}, n = {len(actual)}",
    )
    return figure


@matplotlib.rc_context(STYLE)
def error_by_age(predictions: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw MAE and bias of each decade of the labelled age, with 95 % intervals.

    predictions: columns age_years, gender, race, age_predicted and gender_probability.
    """
    masks = evaluation.slice_masks(predictions)
    names = [name for name in masks if name.startswith("age") and "," not in name]
    table = pd.DataFrame([evaluation.summary(predictions[masks[name]], seed=0) for name in names])
    figure, axes = blank(9, 6.5, 2, 1, sharex=True)
    labels = {"mae": "mean absolute error (years)", "bias": "bias: predicted - labelled (years)"}
    for axis, (name, label), colour in zip(axes, labels.items(), (BLUE, ORANGE), strict=True):
        axis.errorbar(table.index, table[name], bars(table, name), fmt="o", color=colour, capsize=4)
        axis.axhline(0, color="black", lw=1)
        axis.set_ylabel(label)
    ticks = [
        f"{name.removeprefix('age ')}\nn = {n}" for name, n in zip(names, table.n, strict=True)
    ]
    axes[1].set_xticks(table.index, ticks)
    axes[1].set_xlabel("labelled age (years)")
    axes[0].set_title(f"Error by age with 95 % intervals, n = {len(predictions)}")
    return figure


def bars(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return how far the interval of a column reaches below and above it."""
    bars = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
    # Rounding may leave a value a little outside.
    return np.maximum(bars, 0)


@matplotlib.rc_context(STYLE)
def reliability_diagram(
    gender_true: np.ndarray, gender_probability: np.ndarray
) -> matplotlib.figure.Figure:
    """Draw the share of women over the predicted probability, in 15 bins, and the faces in each.

    Arrays (N,), 1 is female; intervals: Wilson's, 95 %.
    """
    table = pd.DataFrame(
        {"female": np.asarray(gender_true) > 0.5, "probability": np.asarray(gender_probability)}
    )
    groups = table.groupby(evaluation.probability_bins(table.probability.to_numpy()))
    bins = groups.agg(
        n=("female", "size"),
        share=("female", "mean"),
        women=("female", "sum"),
        probability=("probability", "mean"),
    )
    bounds = [
        stats.binomtest(int(row.women), int(row.n)).proportion_ci(method="wilson")
        for row in bins.itertuples()
    ]
    bins[["share_low", "share_high"]] = [(bound.low, bound.high) for bound in bounds]
    error = float((bins.n * (bins.share - bins.probability).abs()).sum() / len(table))
    figure, (axis, histogram) = blank(6, 7, 2, 1, sharex=True, height_ratios=(4, 1))
    axis.plot([0, 1], [0, 1], color="black", lw=1, label="calibrated")
    axis.errorbar(
        bins.probability,
        bins.share,
        bars(bins, "share"),
        fmt="o",
        color=BLUE,
        capsize=4,
        label="labelled, 95 % interval",
    )
    axis.set(ylabel="share labelled female", ylim=(-0.03, 1.03))
    axis.set_title(f"Gender: expected calibration error {error:.3f}, n = {len(table)}")
    axis.legend(loc="upper left")
    width = 1 / evaluation.CALIBRATION_BINS
    histogram.bar((bins.index + 0.5) * width, bins.n, 0.9 * width, color=GREY)
    histogram.set(xlabel="predicted probability of female", ylabel="faces")
    return figure


@matplotlib.rc_context(STYLE)
def risk_coverage(age: pd.DataFrame, gender: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw what is left of the error where the least certain faces are not answered.

    age, gender: of `uncertainty.risk_coverage`; the risks are the MAE in years and the error rate.
    """
    figure, axes = blank(10, 4.5, 1, 2)
    panels = {"Age: MAE (years)": age, "Gender: share wrong": gender}
    for axis, (title, curve), colour in zip(axes, panels.items(), (BLUE, ORANGE), strict=True):
        # A share of few faces says nothing, and its swings would hide the rest.
        shown = curve[curve["coverage"] >= min(0.05, curve["coverage"].max())]
        few = len(shown) <= 20
        axis.plot(shown["coverage"], shown["risk"], color=colour, marker="o" if few else None)
        whole = curve.iloc[-1]
        axis.axhline(whole["risk"], color=GREY, linestyle=":")
        axis.set(
            title=f"{title}; of all {whole['risk']:.3g}, n = {whole['n']:.0f}",
            xlabel="share of faces answered, the most certain first",
            xlim=(0, 1.02),
            ylim=(0, None),
        )
    return figure


@matplotlib.rc_context(STYLE)
def robustness_curves(table: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw MAE and gender accuracy over the strengths of each corruption, with 95 % intervals.

    table: of `robustness.curves`.
    """
    clean = table[table["corruption"] == "clean"]
    names = [name for name in table["corruption"].unique() if name != "clean"]
    figure, axes = blank(2.6 * len(names), 6, 2, len(names), sharey="row", squeeze=False)
    labels = {
        "mae": "age: mean absolute error\n(years)",
        "gender_accuracy": "gender: accuracy",
    }
    for column, name in enumerate(names):
        rows = pd.concat([clean, table[table["corruption"] == name]], ignore_index=True)
        for axis, measure, colour in zip(axes[:, column], labels, (BLUE, ORANGE), strict=True):
            axis.errorbar(
                rows.index, rows[measure], bars(rows, measure), fmt="o-", color=colour, capsize=4
            )
            axis.axhline(clean[measure].iloc[0], color=GREY, linestyle=":")
            axis.set_xticks(rows.index, ["none", *(f"{each:g}" for each in rows["strength"][1:])])
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(robustness.CORRUPTIONS[name][2])
    for axis, label in zip(axes[:, 0], labels.values(), strict=True):
        axis.set_ylabel(label)
    figure.suptitle(f"Worse pictures, 95 % intervals, n = {clean['n'].iloc[0]} each")
    return figure


@matplotlib.rc_context(STYLE)
def slices(table: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw MAE and gender accuracy of each slice with 95 % intervals; small ones are faded.

    table: of `evaluation.slices`. Pairs too small to be ranked are left out.
    """
    table = table[table["ranked"] | ~table["slice"].str.contains(",")].reset_index(drop=True)
    figure, axes = blank(10, 1.4 + 0.2 * len(table), 1, 2, sharey=True)
    labels = {"mae": "age: mean absolute error (years)", "gender_accuracy": "gender: accuracy"}
    for axis, (name, label), colour in zip(axes, labels.items(), (BLUE, ORANGE), strict=True):
        for rows, alpha in ((table[table["ranked"]], 1.0), (table[~table["ranked"]], 0.35)):
            axis.errorbar(
                rows[name],
                rows.index,
                xerr=bars(rows, name),
                fmt="o",
                ms=4,
                color=colour,
                alpha=alpha,
            )
        axis.set_xlabel(label)
    ticks = [f"{row.slice}, n = {row.n}" for row in table.itertuples()]
    axes[0].set_yticks(table.index, ticks, fontsize=9)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(f"Slices with 95 % intervals; faded: fewer than {evaluation.SMALL_SLICE} faces")
    return figure


@matplotlib.rc_context(STYLE)
def occlusion_maps(images: np.ndarray, maps: list[dict]) -> matplotlib.figure.Figure:
    """Draw faces, uint8 (N, S, S, 3), and what covering each place changes in age and gender.

    maps: N of `robustness.occlusion_map`, of one patch and stride.
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
            shown = axis.imshow(
                each[name],
                cmap="PuOr_r",
                vmin=-most,
                vmax=most,
                alpha=0.65,
                extent=(low, high, high, low),
            )
            axis.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        figure.colorbar(shown, ax=list(axes[row]), label=f"change of the\n{label}")
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle("Change of the prediction where a grey patch covers a place")
    return figure


@matplotlib.rc_context(STYLE)
def most_wrong(images: np.ndarray, labels: list[str]) -> matplotlib.figure.Figure:
    """Draw a grid of faces, uint8 (N, S, S, 3), each under its label."""
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure, axes = blank(2 * columns, 2.5 * rows, rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image)
        axis.set_title(label, fontsize=9)
    return figure


def of_test(
    test: pd.DataFrame, slices_table: pd.DataFrame, robustness_table: pd.DataFrame
) -> dict[str, matplotlib.figure.Figure]:
    """Draw all that an evaluation shows without a face, by name.

    test: a row a face with age_years, gender, race, age_predicted, gender_probability, age_low and
    age_high; the tables are those of `evaluation.slices` and `robustness.curves`.
    """
    age_error = (test.age_predicted - test.age_years).abs()
    wrong = (test.gender_probability - test.gender).abs() > 0.5
    return {
        "predicted_against_true": predicted_against_true(
            test.age_years, test.age_predicted, intervals=(test.age_low, test.age_high)
        ),
        "confusion": confusion(test.gender, test.gender_probability),
        "error_by_age": error_by_age(test),
        "reliability_diagram": reliability_diagram(test.gender, test.gender_probability),
        "risk_coverage": risk_coverage(
            uncertainty.risk_coverage(age_error, test.age_high - test.age_low),
            uncertainty.risk_coverage(wrong, -(test.gender_probability - 0.5).abs()),
        ),
        "robustness": robustness_curves(robustness_table),
        "slices": slices(slices_table),
    }
