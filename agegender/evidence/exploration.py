"""What is in the data: tables, pictures and a page about prepared faces, before any network.

manifest: name, age_years, gender (0 male, 1 female), race, group, split; pixels: uint8
(N, S, S, 3) RGB; row i of one is row i of the other.
"""

from collections.abc import Sequence

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from scipy import stats

from agegender.evidence import evaluation, figures, pages, report

COLOURS = (figures.BLUE, figures.ORANGE, figures.GREEN, "#E69F00", "#CC79A7")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Drawings that show faces; real ones are for the store alone.
PHOTOGRAPHS = ("samples", "mean_faces", "conflicts", "extremes")
MOST_AVERAGED, SAMPLES, EXAMPLES = 500, 12, 6


def quality(pixels: np.ndarray) -> pd.DataFrame:
    """Return brightness (mean luma, 0..1) and sharpness of each picture.

    Sharpness is the variance of the Laplacian of the luma (0..255): low where a picture is blurred.
    """
    found = []
    for start in range(0, len(pixels), 128):  # Bounds the memory.
        grey = pixels[start : start + 128] @ LUMA
        centre = grey[:, 1:-1, 1:-1]
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        laplacian -= 4 * centre
        found.append(np.stack([grey.mean(axis=(1, 2)) / 255, laplacian.var(axis=(1, 2))], axis=1))
    return pd.DataFrame(np.concatenate(found), columns=["brightness", "sharpness"])


def balance(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return a row a split: faces, share, ages (median, under 10, from 70 on), female, each race.

    Besides p, of the two-sample Kolmogorov-Smirnov test of the ages against training.
    """
    train = manifest["age_years"][manifest["split"] == "train"]
    rows = []
    for split, part in manifest.groupby("split", sort=False):
        ages = part["age_years"]
        row = {"split": split, "faces": len(part), "share": f"{len(part) / len(manifest):.1%}"}
        row |= {"median age": float(ages.median()), "under 10": f"{(ages < 10).mean():.1%}"}
        row |= {"from 70 on": f"{(ages >= 70).mean():.1%}"}
        row |= {"female": f"{part['gender'].mean():.1%}"}
        for value, race in enumerate(evaluation.RACES):
            row[race] = f"{(part['race'] == value).mean():.1%}"
        p = stats.ks_2samp(train, ages, method="asymp").pvalue if split != "train" else np.nan
        rows.append(row | {"p": float(p)})
    return pd.DataFrame(rows).sort_values("faces", ascending=False, ignore_index=True)


def conflicting_groups(manifest: pd.DataFrame) -> list[np.ndarray]:
    """Return the rows of each near-duplicate group with several labels, the widest ages first."""
    twins = manifest.reset_index(drop=True)
    twins = twins[twins.duplicated("group", keep=False)]
    found = [
        (int(np.ptp(group["age_years"])), group.index.to_numpy())
        for _, group in twins.groupby("group")
        if len(group[["age_years", "gender"]].drop_duplicates()) > 1
    ]
    return [rows for _, rows in sorted(found, key=lambda pair: -pair[0])]


@matplotlib.rc_context(figures.STYLE)
def ages(manifest: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw how many faces there are of each age, in steps of 5 years, by gender and by race."""
    figure, axes = figures.blank(10, 4.5, 1, 2, sharey=True)
    kinds = {"gender": ("male", "female"), "race": evaluation.RACES}
    for axis, (column, labels) in zip(axes, kinds.items(), strict=True):
        axis.hist(
            [manifest["age_years"][manifest[column] == value] for value in range(len(labels))],
            bins=range(0, 121, 5),
            stacked=True,
            color=COLOURS[: len(labels)],
            label=labels,
        )
        axis.set(xlabel="labelled age (years)", title=f"Ages by {column}, n = {len(manifest):,}")
        axis.legend()
    axes[0].set_ylabel("faces in 5 years")
    return figure


@matplotlib.rc_context(figures.STYLE)
def picture_quality(table: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the brightness and, on a logarithmic axis, the sharpness of all pictures."""
    figure, (brightness, sharpness) = figures.blank(10, 3.6, 1, 2)
    brightness.hist(table["brightness"], bins=40, color=figures.BLUE)
    brightness.set(xlabel="mean luma, 0 black to 1 white", ylabel="pictures", title="Brightness")
    positive = table["sharpness"].clip(lower=0.1)
    bins = np.geomspace(positive.min(), positive.max() * 1.01, 40)
    sharpness.hist(positive, bins=bins, color=figures.ORANGE)
    sharpness.set(xlabel="variance of the Laplacian", xscale="log", title="Sharpness")
    return figure


@matplotlib.rc_context(figures.STYLE)
def split_ages(manifest: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the share of each split's faces that are at most so old."""
    figure, axis = figures.blank(7.5, 4)
    for split, colour in zip(balance(manifest)["split"], COLOURS, strict=False):
        part = manifest["age_years"][manifest["split"] == split]
        axis.ecdf(part, color=colour, label=f"{split}, n = {len(part):,}")
    axis.set(xlabel="labelled age (years)", ylabel="share of the split", title="Ages of the splits")
    axis.legend(loc="lower right")
    return figure


@matplotlib.rc_context(figures.STYLE)
def mean_faces(manifest: pd.DataFrame, pixels: np.ndarray) -> matplotlib.figure.Figure:
    """Draw the mean of up to 500 faces of each decade and gender."""
    masks = evaluation.slice_masks(manifest)
    decades = [name for name in masks if name.startswith("age") and "," not in name]
    figure, axes = figures.blank(1.4 * len(decades), 3.6, 2, len(decades), squeeze=False)
    for column, decade in enumerate(decades):
        for axis, gender in zip(axes[:, column], ("male", "female"), strict=True):
            axis.axis("off")
            rows = np.flatnonzero(masks.get(f"{decade}, {gender}", np.zeros(len(manifest), bool)))
            if len(rows):
                step = -(-len(rows) // MOST_AVERAGED)
                axis.imshow(pixels[rows[::step]].mean(axis=0) / 255)
            axis.set_title(f"{decade.removeprefix('age ')}\n{gender}, {len(rows):,}", fontsize=9)
    return figure


def samples(manifest: pd.DataFrame, pixels: np.ndarray, *, seed: int) -> matplotlib.figure.Figure:
    """Draw some faces of each decade at random, a row a decade."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for name, mask in evaluation.slice_masks(manifest).items():
        if name.startswith("age") and "," not in name:
            found = np.flatnonzero(mask)
            drawn = generator.permutation(found)[:SAMPLES]
            # Decades with few faces leave the rest of their row empty.
            rows += [*np.sort(drawn), *[-1] * (SAMPLES - len(drawn))]
    return grid(manifest, pixels, rows, SAMPLES)


def conflicts(manifest: pd.DataFrame, pixels: np.ndarray) -> matplotlib.figure.Figure | None:
    """Draw near-duplicates with different labels, side by side; None where there are none."""
    groups = conflicting_groups(manifest)[:EXAMPLES]
    rows = [row for group in groups for row in group[:2]]
    return grid(manifest, pixels, rows, EXAMPLES) if rows else None


def extremes(
    manifest: pd.DataFrame, pixels: np.ndarray, measured: pd.DataFrame
) -> matplotlib.figure.Figure:
    """Draw the darkest, brightest, most blurred and sharpest pictures, a row each."""
    rows: list[int] = []
    for column in ("brightness", "sharpness"):
        order = measured[column].to_numpy().argsort(kind="stable")
        rows += [*order[:EXAMPLES], *order[::-1][:EXAMPLES]]
    return grid(manifest, pixels, rows, min(EXAMPLES, len(manifest)))


@matplotlib.rc_context(figures.STYLE)
def grid(
    manifest: pd.DataFrame, pixels: np.ndarray, rows: Sequence[int], columns: int
) -> matplotlib.figure.Figure:
    """Draw faces in rows of so many columns, each under its age and m or f; -1 leaves a gap."""
    height = -(-len(rows) // columns)
    figure, axes = figures.blank(0.95 * columns + 1, 1.15 * height, height, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, rows, strict=False):
        if row >= 0:
            face = manifest.iloc[row]
            axis.imshow(pixels[row])
            axis.set_title(f"{face['age_years']} {'mf'[int(face['gender'])]}", fontsize=8, pad=2)
    return figure


def drawings(
    manifest: pd.DataFrame, pixels: np.ndarray, measured: pd.DataFrame, *, seed: int
) -> dict[str, matplotlib.figure.Figure]:
    """Return all figures by name; measured: of `quality`. Those of PHOTOGRAPHS show faces."""
    found = {
        "ages": ages(manifest),
        "samples": samples(manifest, pixels, seed=seed),
        "mean_faces": mean_faces(manifest, pixels),
        "conflicts": conflicts(manifest, pixels),
        "picture_quality": picture_quality(measured),
        "extremes": extremes(manifest, pixels, measured),
        "split_ages": split_ages(manifest),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def page(
    manifest: pd.DataFrame,
    rejected: pd.DataFrame,
    measured: pd.DataFrame,
    drawn: dict[str, matplotlib.figure.Figure],
    *,
    kind: str,
    source: str,
) -> list[pages.Part]:
    """Return the parts of the page. drawn: of `drawings`; kind: "utkface" or "generated".

    rejected: name and reason of each file that was not used; source: what the files came from.
    """

    def shown(name, caption):
        if name not in drawn:
            return []
        return [pages.picture(drawn[name], caption, photographs=name in PHOTOGRAPHS)]

    found = len(manifest) + len(rejected)
    ages_years = manifest["age_years"]
    decades = np.minimum(ages_years // 10, evaluation.OLDEST_DECADE)
    common, often = ages_years.mode()[0], ages_years.value_counts().iloc[0]
    female = manifest.groupby(decades)["gender"].mean()
    races = [
        f"{(manifest['race'] == value).mean():.1%} {race}"
        for value, race in enumerate(evaluation.RACES)
    ]
    names = [f"{10 * d} to {10 * d + 9}" if d < 8 else "80 and more" for d in female.index]
    least, most = (names[place(female.to_numpy())] for place in (np.argmin, np.argmax))
    groups = manifest[manifest.duplicated("group", keep=False)]
    conflicting = conflicting_groups(manifest)
    dark, bright = ((measured["brightness"] < 0.2).mean(), (measured["brightness"] > 0.8).mean())
    middle = measured["sharpness"].median()
    blurred = (measured["sharpness"] < middle / 10).mean()
    return [
        f"# What is in the data: {len(manifest):,} faces",
        report.DATA[kind],
        "## Files",
        f"{found:,} files in `{source}`: {len(manifest):,} can be used, {len(rejected):,} cannot"
        + (". Each reason, with the first names:" if len(rejected) else "."),
        *([_reasons(rejected)] if len(rejected) else []),
        "## Ages, genders, races",
        f"The labelled ages run from {ages_years.min()} to {ages_years.max()} years; half of the "
        f"faces lie between {ages_years.quantile(0.25):.0f} and {ages_years.quantile(0.75):.0f}, "
        f"the median is {ages_years.median():.0f}. The most frequent age is {common}, with "
        f"{often / len(manifest):.1%} of all faces. {(ages_years < 10).mean():.1%} are under 10, "
        f"{(ages_years >= 70).mean():.1%} are 70 or older.",
        f"{manifest['gender'].mean():.1%} are labelled female: least at {least} years "
        f"({female.min():.0%}), most at {most} ({female.max():.0%}). By race: {', '.join(races)}.",
        *shown("ages", "How many faces there are of each age, by gender and by race."),
        "## Faces of each age",
        *shown("samples", "Faces drawn at random, a row a decade: labelled age, m or f."),
        "### The mean face of each decade",
        *shown(
            "mean_faces",
            f"The mean of up to {MOST_AVERAGED} faces, with the number there is. The sharper a "
            "mean is, the more alike its faces are, and the better they are aligned.",
        ),
        "## Duplicates and their labels",
        f"{len(groups):,} faces in {groups['group'].nunique():,} groups are near-duplicates: the "
        "same photograph again, re-encoded, resized or grey. No group lies in two splits. In "
        f"{len(conflicting):,} groups the labels differ; these are kept for training only. "
        + _noise(manifest),
        *shown("conflicts", "The same photograph under different labels, in pairs."),
        "## Brightness and sharpness",
        f"The mean luma is {measured['brightness'].mean():.2f}; {dark:.1%} of the pictures are "
        f"darker than .2 and {bright:.1%} brighter than .8. {blurred:.1%} have less than a tenth "
        f"of the median sharpness of {middle:.0f}.",
        *shown("picture_quality", "Brightness and sharpness of all pictures."),
        *shown("extremes", "From the top: the darkest, brightest, most blurred and sharpest."),
        "## Splits",
        _split_text(manifest),
        balance(manifest),
        *shown("split_ages", "The share of each split's faces that are at most so old."),
        "## What this means for training and judging",
        _consequences(manifest),
    ]


def _reasons(rejected: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"reason": reason, "files": len(names), "such as": ", ".join(names.iloc[:3])}
        for reason, names in rejected.groupby("reason", sort=False)["name"]
    ).sort_values("files", ascending=False)


def _noise(manifest: pd.DataFrame) -> str:
    noise = evaluation.label_noise(manifest)
    if not noise["pairs"]:
        return "How far the labels can be trusted cannot be measured without them."
    years, gender = noise["age_difference_years"], noise["gender_disagreement"]
    return (
        f"Over {noise['pairs']:,} pairs the ages differ by {years['value']:.1f} years on average "
        f"[{years['low']:.1f}, {years['high']:.1f}] and the genders in {gender['value']:.1%} "
        f"[{gender['low']:.1%}, {gender['high']:.1%}] (95 % intervals): part of what any network "
        "is measured to have wrong is in the labels."
    )


def _split_text(manifest: pd.DataFrame) -> str:
    table = balance(manifest).set_index("split")
    odd = [name for name in ("validation", "test") if name in table.index and table.p[name] < 0.05]
    text = (
        "The ages of validation and test look like a random draw beside training's"
        if not odd
        else f"The ages of {' and '.join(odd)} differ from training's by more than chance"
    )
    excluded = int((manifest["split"] == "excluded").sum())
    return (
        text
        + " (p, Kolmogorov-Smirnov)."
        + (
            f" {excluded:,} faces are excluded as near-duplicates of test faces."
            if excluded
            else ""
        )
    )


def _consequences(manifest: pd.DataFrame) -> str:
    train, test = (manifest[manifest["split"] == name] for name in ("train", "test"))
    floors = evaluation.floors(train["age_years"].to_numpy(), train["gender"].to_numpy())
    masks = evaluation.slice_masks(test)
    single = {name: int(mask.sum()) for name, mask in masks.items() if ", " not in name}
    few = [f"{name} ({n})" for name, n in single.items() if n < evaluation.SMALL_SLICE]
    half_width = 196 * np.sqrt(0.9 * 0.1 / len(test))
    lines = [
        f"- To know nothing is to be wrong by {floors.age_mae:.1f} years (always the median age) "
        f"and in {floors.gender_error:.1%} of the genders (always the majority). A `val_score` of "
        "1 is that.",
        f"- An accuracy near 90 % is known to within {half_width:.1f} points on the {len(test):,} "
        "test faces (95 %): models closer to each other than that need a paired comparison.",
        "- Too few test faces for a judgement of their own: " + ", ".join(few) + "."
        if few
        else "- Every decade, gender and race has enough test faces for a judgement of its own.",
    ]
    return "\n".join(lines)
