"""Data passed between stages: the candidate, predictions for faces, and all file names.

A candidate's folder in a search and its run in the tracking store use the same names.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from agegender import disk

# In the folder of a family's search.
JOURNAL, SEARCH, PLAN, MEMORY = "trials.json", "search.json", "plan.json", "memory.json"
CANDIDATE = "candidate"  # the folder of the network to evaluate
# In that folder. PREFIX is followed by "A", "B" or the name of a release.
PREFIX = "age_gender_"
RECORD, FROZEN, HELD_OUT = "candidate.json", "frozen_features.h5", "held_out.csv"
PREDICTIONS, VALIDATION_PREDICTIONS = "predictions.csv", "validation_predictions.csv"
# In a run.
TRIALS, TRAINING_FACES = "trials.csv", "training_faces.csv"
CURVES, SUMMARY, LAYERS = "learning_curves.png", "model_summary.txt", "layers.json"
EVIDENCE, CARD, PROMOTION = "evidence.json", "model_card.md", "promotion.json"

# Columns of a table of predictions; gender is 0 (male) or 1 (female).
LABELS = ["name", "age_years", "gender", "race"]
PREDICTED = ["age_predicted", "gender_probability"]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Measurements of a candidate besides its metrics; None if not measured."""

    # From `uncertainty.fit_age_intervals`, plus "test": the intervals' coverage of the test.
    intervals: dict[str, Any] | None = None
    abstention: Any = None  # the dict from `uncertainty.fit_abstention`
    label_noise: dict[str, Any] | None = None  # from `evaluation.label_noise`
    slices: list[dict[str, Any]] | None = None  # the rows of `evaluation.slices`
    robustness: list[dict[str, Any]] | None = None  # the rows of `robustness.curves`
    # `evaluation.compare` with and without averaging over the mirror image: test, validation.
    mirror: dict[str, Any] | None = None
    mirror_validation: dict[str, Any] | None = None

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The slices by decade, gender or race alone, without pairs of these."""
        return [row for row in self.slices or () if ", " not in row["slice"]]

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Read what `to_json` returned, also in an earlier version of this project."""
        return cls(**_known(cls, kept))

    def to_json(self) -> dict[str, Any]:
        """Return the measurements, for a file."""
        return {name: found for name, found in vars(self).items() if found is not None}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A trained network to evaluate, promote or release, and how it was made."""

    family: str
    run_id: str
    values: dict[str, Any]  # its hyperparameters
    epochs: int  # planned for its final training run, which may have stopped earlier
    seed: int
    data: str  # the digest of the faces
    backbone: str  # "none" for A
    val: dict[str, float]  # its validation metrics
    # Tags of everything else that determines the result of a training run.
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    fine_tuning_kept: bool | None = None  # see `networks.fit.Trained`
    budget: list[float | None] | None = None  # limits of the search that found it
    # For a release: the epochs of its shorter training run without the validation faces, and the
    # number of faces it was trained on.
    history: list[dict[str, Any]] | None = None
    faces: int | None = None
    # The metrics from `evaluation.evaluate`, plus "score"; None before the evaluation.
    test: Any = None
    evidence: Evidence | None = None
    # `evaluation.compare` with the network before fine-tuning.
    against_frozen_features: dict[str, Any] | None = None

    @property
    def h5(self) -> str:
        """The name of its file."""
        return f"{PREFIX}{self.family}.h5"

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Read what `to_json` returned, also in an earlier version of this project."""
        kept = _known(cls, kept)
        # Before this was recorded, every B was fine-tuned.
        kept.setdefault("fine_tuning_kept", True if kept["family"] == "B" else None)
        if "evidence" in kept:
            kept["evidence"] = Evidence.from_json(kept["evidence"])
        return cls(**kept)

    def to_json(self) -> dict[str, Any]:
        """Return all known fields, for a file."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        known["fine_tuning_kept"] = self.fine_tuning_kept
        return known | ({"evidence": self.evidence.to_json()} if self.evidence else {})

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the candidate in a folder, or None if there is none."""
        path = folder / RECORD
        return cls.from_json(json.loads(path.read_text())) if path.exists() else None

    def save(self, folder: Path) -> None:
        """Write it into its folder."""
        disk.write(folder / RECORD, json.dumps(self.to_json(), indent=1))


def _known(kind: type, kept: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in kept.items() if name in names}


def read_predictions(path: str | os.PathLike) -> pd.DataFrame:
    """Return a table of LABELS and PREDICTED, one row per face; ValueError if a column is missing.

    For test faces of an evaluated candidate, also age_low and age_high: the age interval in years.
    """
    table = pd.read_csv(path, keep_default_na=False)
    if missing := [name for name in LABELS + PREDICTED if name not in table]:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}: it does not contain predictions for faces."
        )
    return table


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table that `read_predictions` reads."""
    disk.write(path, table.to_csv(index=False))


def is_female(gender: npt.ArrayLike) -> np.ndarray:
    """Return which labels (0 or 1) or probabilities (0 to 1) mean female: boolean (N,)."""
    return np.asarray(gender, float) >= 0.5


def age_error(predictions: pd.DataFrame) -> np.ndarray:
    """Return predicted minus labelled ages in years, (N,)."""
    return (predictions["age_predicted"] - predictions["age_years"]).to_numpy(float)


def gender_right(predictions: pd.DataFrame) -> np.ndarray:
    """Return which genders are predicted as labelled: boolean (N,)."""
    return is_female(predictions["gender_probability"]) == is_female(predictions["gender"])
