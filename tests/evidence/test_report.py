"""The card says what it must in the space there is; the leaderboard shows what it is given."""

import json

import pandas as pd
import pytest

from agegender.evidence import report

LICENCE = "Trained on UTKFace: non-commercial research use only. " + "Backbone's licence. " * 15
BACKBONE = {"name": "faceres", "licence": "MIT", "pretraining": "VGGFace2, " + "then others " * 20}


def interval(value):
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


def card(kind="utkface", backbone=BACKBONE, evidence=None, **changes):
    record = changes | {
        "seed": 7,
        "epochs": 31,
        "data": "0123456789abcdef0123456789abcdef",
        "val": {"val_score": 0.31234, "val_age_mae": 5.4321, "val_gender_accuracy": 0.91234},
        "test": {"n": 4143, "score": 0.333}
        | {name: interval(0.8765432) for name in report.METRICS},
    }
    return report.model_card(
        record,
        family="B",
        data_kind=kind,
        licence=LICENCE,
        backbone=backbone,
        evidence=evidence or {},
    )


def full_evidence():
    names = [f"age {low}-{low + 9}" for low in range(0, 80, 10)] + ["age 80+", "male", "female"]
    names += ["White", "Black", "Asian", "Indian", "other", "age 0-9, male", "female, Black"]
    slices = [
        {"slice": name, "n": 1234 if name != "Indian" else 29, "ranked": name != "Indian"}
        | {f"mae{end}": 12.3456 for end in ("", "_low", "_high")}
        | {f"gender_accuracy{end}": 0.87654 for end in ("", "_low", "_high")}
        for name in names
    ]
    corruptions = ("blur", "noise", "jpeg", "darkness", "occlusion", "shift")
    curves = [
        {"corruption": name, "strength": strength, "mae": 12.345, "gender_accuracy": 0.8765}
        for name in corruptions
        for strength in (0.125, 0.25, 0.5, 0.75)
    ]
    return {
        "slices": slices,
        "worst_slices": {"mae": "age 80+, Indian", "gender_accuracy": "age 0-9, male"},
        "intervals": {
            "coverage": 0.9,
            "half_widths_years": [3.14, 22.71],
            "test": interval(0.8912) | {"n": 4143},
        },
        "abstention": {"accuracy": 0.97, "confidence": 0.7654321, "share_accepted": 0.87654},
        "label_noise": {"pairs": 321, "age_difference_years": interval(3.21)},
        "robustness": [{"corruption": "clean", "strength": 0, "mae": 4.8, "gender_accuracy": 0.9}]
        + curves,
        "test_looks": 3,
        "mirror": {"mae": interval(-0.0765) | {"p": 0.01}, "gender": {"only_a": 3}},
    }


def test_the_fullest_card_fits_a_description_and_holds_every_part():
    text = card(evidence=json.loads(json.dumps(full_evidence())), fine_tuning_kept=False)
    assert len(text) < 5000
    for part in (
        "non-commercial",
        "https://susanqq.github.io/UTKFace/",
        "VGGFace2",
        "0.877 [0.789, 0.964]",  # metrics
        "n = 4143 faces of data 0123456789abcdef0123456789abcdef, seed 7, 31 epochs",
        "| Indian * | 29 |",
        "fewer than 30",
        "mae in age 80+, Indian; gender accuracy in",  # the worst slices
        "3.1 to 22.7 years",
        "0.891 [0.802, 0.98], n = 4143",
        "confidence 0.765",
        "pairs 321",
        "- blur, standard deviation (pixels): 0.125: 12.3, 0.88; 0.25",
        "-0.0765",
    ):
        assert part in text, part
    assert "| age 0-9, male |" not in text


def test_what_was_not_measured_leaves_no_heading():
    bare = card(kind="generated", backbone=None)
    headings = [line for line in bare.splitlines() if line.startswith("## ")]
    assert len(headings) == 5
    assert not {"## Slices", "## Robustness", "## Pretrained weights"} & set(headings)
    assert "models:/age-gender-B-generated@champion" in bare
    assert "nothing about people" in bare and "## Slices" in card(evidence=full_evidence())


def test_abstention_that_cannot_be_reached_is_said():
    assert "confidence none" in card(evidence={"abstention": {"confidence": None}})


def test_the_card_says_where_fine_tuning_was_discarded():
    assert "Fine-tuning was tried and discarded" in card(fine_tuning_kept=False)
    assert "Nothing was fine-tuned" in card(fine_tuning_kept=None)
    assert "head on frozen features" not in card(fine_tuning_kept=True)
    assert card() == card(fine_tuning_kept=True)  # a record of before this was noted


def test_the_leaderboard_draws_each_training_and_letter(tmp_path):
    trainings = pd.DataFrame(
        {"trial": [3, 3, 5, 5], "seed": [0, 1, 0, 1], "val_score": [0.30, 0.31, 0.4, 0.42]}
    )
    standing = pd.DataFrame({"trial": [3, 5], "setting": ["the defaults", "no augmentation"]})
    standing = standing.assign(val_score_mean=[0.305, 0.41], group=["a", "b"])
    figure = report.leaderboard(trainings, standing)
    (axis,) = figure.axes
    assert sorted(x for line in axis.lines for x in line.get_xdata()) == sorted(trainings.val_score)
    assert [text.get_text() for text in axis.texts] == ["a", "b"]
    assert [label.get_text() for label in axis.get_yticklabels()] == [*standing.setting]
    low, high = axis.get_ylim()
    assert low > high  # the best is on top
    figure.savefig(tmp_path / "leaderboard.png")


def test_a_record_without_a_test_is_an_error():
    with pytest.raises(KeyError, match="test"):
        report.model_card(
            {"val": {}}, family="A", data_kind="generated", licence="", backbone=None, evidence={}
        )
