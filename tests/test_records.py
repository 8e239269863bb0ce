"""What stages hand over comes back as it was, and as earlier versions of the project wrote it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender import config, records

MODELS = Path(__file__).parents[1] / "models"
TRAINED = {"family": "B", "run_id": "r", "values": {"width": 8}, "epochs": 3, "seed": 1}
TRAINED |= {"data": "digest", "backbone": "faceres", "val": {"val_score": 0.5}}


@pytest.mark.parametrize("changes", [{}, {"fine_tuning_kept": None, "budget": [None, 12]}])
@pytest.mark.parametrize("evidence", [None, records.Evidence(abstention={"confidence": None})])
def test_a_candidate_comes_back_from_its_folder(tmp_path, changes, evidence):
    candidate = records.Candidate(**TRAINED, **{"fine_tuning_kept": False} | changes)
    assert records.Candidate.load(tmp_path / "nowhere") is None
    if evidence:
        candidate = records.Candidate(
            **vars(candidate) | {"test": {"n": 3}, "evidence": evidence, "history": []}
        )
    candidate.save(tmp_path)
    assert records.Candidate.load(tmp_path) == candidate
    kept = json.loads((tmp_path / records.RECORD).read_text())
    # Earlier versions tell by these whether it was evaluated, released and fine-tuned.
    assert ("evidence" in kept) == ("history" in kept) == (evidence is not None)
    assert "fine_tuning_kept" in kept


def test_what_an_earlier_version_wrote_is_read():
    kept = TRAINED | {"folds": {"1": []}, "evidence": {"worst_slices": {}, "slices": []}}
    candidate = records.Candidate.from_json(kept)
    assert candidate.fine_tuning_kept is True and candidate.origin == {}
    assert candidate.evidence == records.Evidence(slices=[])
    assert records.Candidate.from_json(kept | {"family": "A"}).fine_tuning_kept is None


@pytest.mark.parametrize("name", config.RELEASES)
def test_the_records_of_the_released_models_are_read_whole(name):
    kept = json.loads((MODELS / f"{records.PREFIX}{name}.json").read_text())["record"]
    candidate = records.Candidate.from_json(kept)
    written = candidate.to_json()
    kept["evidence"].pop("worst_slices", None)  # Of the first releases alone.
    assert written == kept | {"fine_tuning_kept": candidate.fine_tuning_kept}
    predictions = records.read_predictions(MODELS / f"{records.PREFIX}{name}.csv")
    assert len(predictions) == candidate.test["n"]
    error = np.abs(records.age_error(predictions)).mean()
    assert error == pytest.approx(candidate.test["mae"]["value"], abs=1e-3)
    right = records.gender_right(predictions).mean()
    assert right == pytest.approx(candidate.test["gender_accuracy"]["value"])


def test_predictions_come_back_and_a_table_of_something_else_is_told(tmp_path):
    table = pd.DataFrame([["NA", 30, 1, 0, 31.5, 0.75]], columns=records.LABELS + records.PREDICTED)
    records.write_predictions(table, tmp_path / "p.csv")
    pd.testing.assert_frame_equal(records.read_predictions(tmp_path / "p.csv"), table)
    table.drop(columns="race").to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ValueError, match=r"p\.csv has no column race"):
        records.read_predictions(tmp_path / "p.csv")


def test_one_half_and_more_is_female():
    assert records.is_female([0, 0.4999, 0.5, 1]).tolist() == [False, False, True, True]
