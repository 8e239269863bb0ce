"""Do short trials rank settings as long ones do? Records both and compares the ranks.

Trains every setting at every fidelity on the training split and measures in validation. The test is
not used.
"""

import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from agegender import config, disk
from agegender.data import pixels, splits
from agegender.networks import step
from tuning import families, search

TIER = "short"
OF_SETTINGS, TOP, DRAWS = 20, 3, 1000


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How a setting is judged: number of epochs, share of the training faces, picture size.

    epochs: of A, or of B's fine-tuning. size_pixels: of A's pictures; None for that of its setting.
    """

    epochs: int
    faces_share: float = 1.0
    size_pixels: int | None = None

    def __str__(self) -> str:
        """Return its name in the tables."""
        size = f", {self.size_pixels} pixels" if self.size_pixels else ""
        share = f", {self.faces_share:.0%} of the faces" if self.faces_share < 1 else ""
        return f"{self.epochs} epochs{size}{share}"


# From short to long; the others are compared with the last one.
FIDELITIES = {
    "A": (Fidelity(1, 0.5), Fidelity(1, size_pixels=48), Fidelity(1), Fidelity(3), Fidelity(9)),
    "B": (Fidelity(0), Fidelity(2), Fidelity(6)),
}


def settings_to_record(letter: str, count: int, cache: Path) -> list[dict]:
    """Return the defaults and settings from the whole space and from around the defaults.

    These are what the search's own oracle proposes before it knows any result.
    """
    family = families.FAMILIES[letter]
    plan = search.Plan(lambda hp: family.space(hp, TIER, cache), "priorband", 0, count)
    with tempfile.TemporaryDirectory() as folder:
        asked = search.proposals(search.make_oracle(plan, folder))
        return [values for values, _ in filter(None, itertools.islice(asked, count))]


def record(letter: str, faces: pixels.Faces, count: int, path: Path, cache: Path) -> pd.DataFrame:
    """Return one row per setting and fidelity: setting, fidelity, epochs, seconds, val_score,
    setting_values.

    path: a JSON file of the rows, read first and written after each training run.
    """
    rows = json.loads(path.read_text()) if path.exists() else []
    known = {(row["setting"], row["fidelity"]) for row in rows}
    family, kept = families.FAMILIES[letter], step.Kept()
    train, validation = splits.folds(faces.manifest, 1, 0)[0]
    settings = settings_to_record(letter, count, cache)
    for fidelity in FIDELITIES[letter]:
        for number, values in enumerate(settings):
            if (number, str(fidelity)) in known:
                continue
            setting = family.from_values(values)
            if fidelity.size_pixels:
                setting = dataclasses.replace(setting, internal_size_pixels=fidelity.size_pixels)
            part = np.random.default_rng(0).permutation(train)
            fold = families.Fold(np.sort(part[: int(fidelity.faces_share * len(part))]), validation)
            started = time.monotonic()
            trained = family.train(
                setting,
                faces,
                fold,
                families.Context(config.Settings(), cache, fidelity.epochs, seed=0, kept=kept),
            )
            score = float(trained.best_epoch["val_score"])
            seconds = time.monotonic() - started
            rows.append(
                {"setting": number, "fidelity": str(fidelity), "epochs": fidelity.epochs}
                | {"seconds": seconds, "val_score": score, "setting_values": values}
            )
            disk.write(path, json.dumps(rows, indent=1))
            print(f"{letter} {number:>2}  {fidelity}: {score:.4f}, {seconds:.0f} s", flush=True)
    return pd.DataFrame(rows)


def compare_ranks(rows: pd.DataFrame, longest: str) -> pd.DataFrame:
    """Return one row per fidelity: how well its ranks of the settings agree with `longest`.

    spearman: of the scores, with a 95 % bootstrap interval over the settings (low, high).
    stays_in_top: share of draws of 20 settings whose best by this fidelity is among the three best
    by the longest. seconds: median of a training run.
    """
    scores = rows.pivot(index="setting", columns="fidelity", values="val_score").dropna()
    seconds = rows.groupby("fidelity", sort=False)["seconds"].median()
    generator = np.random.default_rng(0)
    size = min(OF_SETTINGS, len(scores) - 1)
    found = []
    for fidelity in seconds.index:
        correlations, stays = [], []
        for _ in range(DRAWS):
            again = scores.iloc[generator.integers(len(scores), size=len(scores))]
            correlations.append(stats.spearmanr(again[fidelity], again[longest]).statistic)
            some = scores.iloc[generator.permutation(len(scores))[:size]]
            stays.append(some[fidelity].idxmin() in some[longest].nsmallest(TOP).index)
        low, high = np.nanpercentile(correlations, [2.5, 97.5])
        spearman = stats.spearmanr(scores[fidelity], scores[longest]).statistic
        found.append(
            {"fidelity": fidelity, "settings": len(scores), "seconds": seconds[fidelity]}
            | {"spearman": spearman, "low": low, "high": high, "stays_in_top": np.mean(stays)}
        )
    return pd.DataFrame(found)
