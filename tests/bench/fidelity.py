"""Do short trials rank settings as long ones do? Records both and compares the ranks.

Trains every setting for each number of epochs on the training split and measures in validation. The
test is not used.
"""

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

# Epochs of A, or of B's fine-tuning, ascending; the others are compared with the last.
EPOCHS = {"A": (1, 3, 9, 30), "B": (0, 2, 8)}


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
    """Return one row per setting and length: setting, epochs, seconds, val_score, setting_values.

    path: a JSON file of the rows, read first and written after each training run.
    """
    rows = json.loads(path.read_text()) if path.exists() else []
    known = {(row["setting"], row["epochs"]) for row in rows}
    family, kept = families.FAMILIES[letter], step.Kept()
    fold = families.Fold(*splits.folds(faces.manifest, 1, 0)[0])
    settings = settings_to_record(letter, count, cache)
    for epochs, (number, values) in itertools.product(EPOCHS[letter], enumerate(settings)):
        if (number, epochs) in known:
            continue
        started = time.monotonic()
        context = families.Context(config.Settings(), cache, epochs, seed=0, kept=kept)
        trained = family.train(family.from_values(values), faces, fold, context)
        seconds, score = time.monotonic() - started, float(trained.best_epoch["val_score"])
        rows.append(
            {"setting": number, "epochs": epochs, "seconds": seconds}
            | {"val_score": score, "setting_values": values}
        )
        disk.write(path, json.dumps(rows, indent=1))
        print(f"{letter} {number:>2}  {epochs} epochs: {score:.4f}, {seconds:.0f} s", flush=True)
    return pd.DataFrame(rows)


def compare_ranks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per length: how well its ranks of the settings agree with the longest's.

    spearman: of the scores, with a 95 % bootstrap interval over the settings (low, high).
    stays_in_top: share of draws of 20 settings whose best at this length is among the three best
    at the longest. seconds: median of a training run.
    """
    scores = rows.pivot(index="setting", columns="epochs", values="val_score").dropna()
    seconds = rows.groupby("epochs")["seconds"].median()
    longest = scores.columns[-1]
    generator = np.random.default_rng(0)
    size = min(OF_SETTINGS, len(scores) - 1)
    found = []
    for epochs in scores:
        correlations, stays = [], []
        for _ in range(DRAWS):
            again = scores.iloc[generator.integers(len(scores), size=len(scores))]
            correlations.append(stats.spearmanr(again[epochs], again[longest]).statistic)
            some = scores.iloc[generator.permutation(len(scores))[:size]]
            stays.append(some[epochs].idxmin() in some[longest].nsmallest(TOP).index)
        low, high = np.nanpercentile(correlations, [2.5, 97.5])
        spearman = stats.spearmanr(scores[epochs], scores[longest]).statistic
        found.append(
            {"epochs": epochs, "settings": len(scores), "seconds": seconds[epochs]}
            | {"spearman": spearman, "low": low, "high": high, "stays_in_top": np.mean(stays)}
        )
    return pd.DataFrame(found)
