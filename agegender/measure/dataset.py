"""Facts about the prepared faces: picture quality, balance of the splits, conflicting labels.

manifest: name, age_years, gender (0 male, 1 female), race, group, split. pixels: uint8
(N, S, S, 3) RGB; row i of both is the same face.
"""

import dataclasses

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from agegender.measure import evaluation

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def quality(pixels: np.ndarray) -> pd.DataFrame:
    """Return brightness (mean luma, 0 to 1) and sharpness of each picture.

    Sharpness is the variance of the Laplacian of the luma (0 to 255): low in blurred pictures.
    """
    found = []
    for start in range(0, len(pixels), 128):  # Limits the memory used.
        grey = pixels[start : start + 128] @ LUMA
        laplacian = ndimage.laplace(grey, axes=(1, 2))[:, 1:-1, 1:-1]
        found.append(np.stack([grey.mean(axis=(1, 2)) / 255, laplacian.var(axis=(1, 2))], axis=1))
    return pd.DataFrame(np.concatenate(found), columns=["brightness", "sharpness"])


def balance(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return one row for all faces and one per split: faces, share, ages, female, each race.

    p: of the two-sample Kolmogorov-Smirnov test of a split's ages against those of training.
    """
    train = manifest["age_years"][manifest["split"] == "train"]
    rows = []
    for split, part in [("all", manifest), *manifest.groupby("split", sort=False)]:
        ages = part["age_years"]
        masks = {"under 10": ages < 10, "from 70 on": ages >= 70, "female": part["gender"]}
        masks |= {race: part["race"] == value for value, race in enumerate(evaluation.RACES)}
        row = {"split": split, "faces": len(part), "share": f"{len(part) / len(manifest):.1%}"}
        row |= {"median age": float(ages.median())}
        row |= {name: f"{mask.mean():.1%}" for name, mask in masks.items()}
        same = split in ("all", "train")
        row["p"] = np.nan if same else float(stats.ks_2samp(train, ages, method="asymp").pvalue)
        rows.append(row)
    return pd.DataFrame(rows).sort_values("faces", ascending=False, ignore_index=True)


def conflicting_groups(manifest: pd.DataFrame) -> list[np.ndarray]:
    """Return the rows of each near-duplicate group with several labels, widest age range first."""
    faces = manifest.reset_index(drop=True)[["group", "age_years", "gender"]]
    labels = faces.drop_duplicates()
    several = labels["group"][labels.duplicated("group")]
    found = [group for _, group in faces[faces["group"].isin(several)].groupby("group")]
    found.sort(key=lambda group: -np.ptp(group["age_years"]))
    return [group.index.to_numpy() for group in found]


@dataclasses.dataclass(frozen=True)
class Description:
    """Facts about prepared faces. Shares are 0 to 1, ages in years.

    least_female, most_female: decade of the labelled age, its female share, its number of faces.
    twins, twin_groups, conflicts: numbers of near-duplicates, their groups, groups with conflicts.
    luma: mean brightness. dark, bright: share under 0.2, over 0.8.
    blurred: share with less than a tenth of the median sharpness.
    few: slices of the test with fewer than SMALL_SLICE faces.
    accuracy_half_width: of the 95 % interval of an accuracy of 0.9 on the test.
    """

    ages: pd.Series
    least_female: tuple[str, float, int]
    most_female: tuple[str, float, int]
    twins: int
    twin_groups: int
    conflicts: int
    label_noise: dict
    luma: float
    dark: float
    bright: float
    blurred: float
    balance: pd.DataFrame
    floors: evaluation.Floors
    few: dict[str, int]
    accuracy_half_width: float


def describe(manifest: pd.DataFrame, measured: pd.DataFrame) -> Description:
    """Return the facts about prepared faces; measured: from `quality`."""
    decades = np.minimum(manifest["age_years"] // 10, evaluation.OLDEST_DECADE)
    women = manifest.groupby(decades)["gender"].agg(["mean", "size"])
    women.index = ["80 and more" if d == 8 else f"{10 * d} to {10 * d + 9}" for d in women.index]
    least, most = women["mean"].idxmin(), women["mean"].idxmax()
    twins = manifest[manifest.duplicated("group", keep=False)]
    train, test = (manifest[manifest["split"] == name] for name in ("train", "test"))
    masks = evaluation.slice_masks(test)
    sizes = {name: int(mask.sum()) for name, mask in masks.items() if ", " not in name}
    brightness, sharpness = measured["brightness"], measured["sharpness"]
    return Description(
        ages=manifest["age_years"],
        least_female=(least, *women.loc[least]),
        most_female=(most, *women.loc[most]),
        twins=len(twins),
        twin_groups=int(twins["group"].nunique()),
        conflicts=len(conflicting_groups(manifest)),
        label_noise=evaluation.label_noise(manifest),
        luma=float(brightness.mean()),
        dark=float((brightness < 0.2).mean()),
        bright=float((brightness > 0.8).mean()),
        blurred=float((sharpness < sharpness.median() / 10).mean()),
        balance=balance(manifest),
        floors=evaluation.floors(train["age_years"].to_numpy(), train["gender"].to_numpy()),
        few={name: n for name, n in sizes.items() if n < evaluation.SMALL_SLICE},
        accuracy_half_width=float(1.96 * np.sqrt(0.9 * 0.1 / len(test))),
    )
