"""A page about prepared faces, with its figures; manifest and pixels as in `measure.dataset`."""

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd

from agegender.measure import dataset, evaluation
from agegender.show import figures, pages

# Figures that show faces; those of real people are for the store only.
PHOTOGRAPHS = ("samples", "mean_faces", "conflicts", "extremes")
MOST_AVERAGED, SAMPLES, EXAMPLES = 500, 12, 6


@matplotlib.rc_context(figures.STYLE)
def ages(manifest: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw a histogram of the ages, in bins of 5 years, by gender and by race."""
    figure, axes = figures.blank(10, 4.5, 1, 2, sharey=True)
    kinds = {"gender": ("male", "female"), "race": evaluation.RACES}
    for axis, (column, labels) in zip(axes, kinds.items(), strict=True):
        axis.hist(
            [manifest["age_years"][manifest[column] == value] for value in range(len(labels))],
            bins=range(0, 121, 5),
            stacked=True,
            color=figures.PALETTE[: len(labels)],
            label=labels,
        )
        axis.set(xlabel="labelled age (years)", title=f"Ages by {column}, n = {len(manifest):,}")
        axis.legend(loc="upper right")  # Looking for the best place is slow.
    axes[0].set_ylabel("faces per 5 years")
    return figure


@matplotlib.rc_context(figures.STYLE)
def picture_quality(measured: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the brightness and, on a logarithmic axis, the sharpness of all pictures."""
    figure, (brightness, sharpness) = figures.blank(10, 3.6, 1, 2)
    brightness.hist(measured["brightness"], bins=40, color=figures.BLUE)
    brightness.set(xlabel="mean luma, 0 black to 1 white", ylabel="pictures", title="Brightness")
    positive = measured["sharpness"].clip(lower=0.1)
    bins = np.geomspace(positive.min(), positive.max() * 1.01, 40)
    sharpness.hist(positive, bins=bins, color=figures.ORANGE)
    sharpness.set(xlabel="variance of the Laplacian", xscale="log", title="Sharpness")
    return figure


@matplotlib.rc_context(figures.STYLE)
def split_ages(manifest: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draw the cumulative distribution of each split's ages."""
    figure, axis = figures.blank(7.5, 4)
    for split, colour in zip(manifest["split"].unique(), figures.PALETTE, strict=False):
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
    images: list[np.ndarray | None] = []
    labels = []
    for gender in ("male", "female"):
        for decade in decades:
            rows = np.flatnonzero(masks.get(f"{decade}, {gender}", np.zeros(len(manifest), bool)))
            step = -(-len(rows) // MOST_AVERAGED)
            images.append(pixels[rows[::step]].mean(axis=0) / 255 if len(rows) else None)
            labels.append(f"{decade.removeprefix('age ')}\n{gender}, {len(rows):,}")
    return figures.face_grid(images, labels, len(decades), (1.4, 1.8))


def samples(manifest: pd.DataFrame, pixels: np.ndarray, *, seed: int) -> matplotlib.figure.Figure:
    """Draw random faces of each decade, one row per decade."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for name, mask in evaluation.slice_masks(manifest).items():
        if name.startswith("age") and "," not in name:
            drawn = generator.permutation(np.flatnonzero(mask))[:SAMPLES]
            # If a decade has few faces, the rest of its row stays empty.
            rows += [*np.sort(drawn), *[-1] * (SAMPLES - len(drawn))]
    return grid(manifest, pixels, rows, SAMPLES)


def grid(
    manifest: pd.DataFrame, pixels: np.ndarray, rows: Sequence[int], columns: int
) -> matplotlib.figure.Figure:
    """Draw faces in rows of `columns`, each labelled with age and m or f; row -1 leaves a gap."""
    labels = [
        f"{age} {'mf'[int(gender)]}"
        for age, gender in manifest.iloc[list(rows)][["age_years", "gender"]].to_numpy()
    ]
    return figures.face_grid([None if r < 0 else pixels[r] for r in rows], labels, columns)


def drawings(
    manifest: pd.DataFrame, pixels: np.ndarray, measured: pd.DataFrame, *, seed: int
) -> dict[str, matplotlib.figure.Figure]:
    """Return all figures by name; measured: from `dataset.quality`. PHOTOGRAPHS show faces."""
    pairs = [row for group in dataset.conflicting_groups(manifest)[:EXAMPLES] for row in group[:2]]
    extremes: list[int] = []
    for column in ("brightness", "sharpness"):
        order = measured[column].to_numpy().argsort(kind="stable")
        extremes += [*order[:EXAMPLES], *order[::-1][:EXAMPLES]]
    found = {
        "ages": ages(manifest),
        "samples": samples(manifest, pixels, seed=seed),
        "mean_faces": mean_faces(manifest, pixels),
        "picture_quality": picture_quality(measured),
        "extremes": grid(manifest, pixels, extremes, min(EXAMPLES, len(manifest))),
        "split_ages": split_ages(manifest),
    }
    return found | ({"conflicts": grid(manifest, pixels, pairs, EXAMPLES)} if pairs else {})


def page(
    description: dataset.Description,
    rejected: pd.DataFrame,
    drawn: Mapping[str, matplotlib.figure.Figure],
    *,
    kind: str,
    source: str,
) -> str:
    """Return the page as HTML. drawn: from `drawings`; kind: "utkface" or "generated".

    rejected: name and reason of each unused file; source: name of the data source.
    """
    text = pages.markdown(
        "exploration.md.jinja",
        faces=description,
        rejected=rejected.groupby("reason", sort=False)["name"].agg(list).to_dict(),
        drawn=drawn,
        kind=kind,
        source=source,
        most_averaged=MOST_AVERAGED,
    )
    pictures = {
        name: pages.picture(figure, photographs=name in PHOTOGRAPHS)
        for name, figure in drawn.items()
    }
    return pages.html(text, pictures)
