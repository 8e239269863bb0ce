"""What becomes of a candidate in the registry; its evaluation is in tests/test_miniature.py."""

import json

from agegender import records
from agegender.networks import backbones
from agegender.registry import candidates

CANDIDATE = records.Candidate(
    family="B",
    run_id="0" * 32,
    values={"backbone": "faceres_deep"},
    epochs=8,
    seed=3,
    data="digest",
    backbone="faceres_deep",
    val={"val_score": 0.3, "val_age_mae": 5.0, "val_gender_accuracy": 0.9, "epoch_seconds": 1.0},
    origin={"device": "cpu"},
    fine_tuning_kept=False,
    test={"n": 60, "score": 0.4, "mae": {"value": 5.5, "low": 5.0, "high": 6.0}},
    evidence=records.Evidence(),
)


def test_a_version_is_described_by_what_made_it_and_what_it_is_worth(root):
    text, metrics, tags = candidates.describe(CANDIDATE, "utkface")
    assert "5.5 [5.0, 6.0]" in text and "non-commercial" in text
    assert metrics == {"val_score": 0.3, "val_age_mae": 5.0, "val_gender_accuracy": 0.9} | {
        "test_n": 60,
        "test_score": 0.4,
        "test_mae": 5.5,
    }
    licence = backbones.BACKBONES["faceres_deep"].licence
    assert tags["backbone.licence"] == licence and licence in text
    assert json.loads(tags["settings"]) == CANDIDATE.values and tags["device"] == "cpu"
    assert tags["fine_tuning_kept"] == "False" and "discarded" in text


def test_the_export_of_drawn_faces_never_takes_the_place_of_a_real_one(root, register):
    register(model_name="age-gender-A-generated")
    usual = root / "exports" / "age_gender_A.h5"
    assert candidates.export_champion(root, "A", "generated") == usual and usual.exists()
    register()
    apart = root / "exports" / "generated" / "age_gender_A.h5"
    assert candidates.export_champion(root, "A", "generated") == apart and apart.exists()
    assert candidates.export_champion(root, "A", "utkface") == usual
