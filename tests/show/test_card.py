"""The card says what it must in the space there is, with the numbers that it is given."""

import dataclasses
import json
from pathlib import Path

import pytest

from agegender import records
from agegender.show import card as cards
from agegender.show import intervals
from agegender.show.intervals import Interval

MODELS = Path(__file__).parents[2] / "models"

LICENCE = "Trained on UTKFace: non-commercial research use only. " + "Backbone's licence. " * 15
BACKBONE = {"name": "faceres", "licence": "MIT", "pretraining": "VGGFace2, " + "then others " * 20}


def interval(value):
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


CANDIDATE = records.Candidate(
    family="B",
    run_id="0" * 32,
    values={},
    epochs=31,
    seed=7,
    data="0123456789abcdef0123456789abcdef",
    backbone="faceres",
    val={"val_score": 0.31234, "val_age_mae": 5.4321, "val_gender_accuracy": 0.91234},
    fine_tuning_kept=True,
    test={"n": 4143, "score": 0.333} | {name: interval(0.8765432) for name in cards.METRICS},
    evidence=records.Evidence(),
)


def card(kind="utkface", backbone=BACKBONE, **changes):
    candidate = dataclasses.replace(CANDIDATE, **changes)
    return cards.model_card(
        candidate, data_kind=kind, licence=LICENCE, backbone=backbone, test_looks=3
    )


def full_evidence():
    names = [f"age {low}-{low + 9}" for low in range(0, 80, 10)] + ["age 80+", "male", "female"]
    names += ["White", "Black", "Asian", "Indian", "other", "age 0-9, male", "female, Black"]
    slices = [
        {"slice": name, "n": 1234 if name != "Indian" else 29, "ranked": name != "Indian"}
        | {"mae": 12.3 + place / 10, "mae_low": 11.1, "mae_high": 13.9}
        | {"bias": 0.1, "bias_low": -0.2, "bias_high": 0.4}
        | {"gender_accuracy": 0.876, "gender_accuracy_low": 0.85, "gender_accuracy_high": 0.9}
        for place, name in enumerate(names)
    ]
    corruptions = ("blur", "noise", "jpeg", "darkness", "occlusion", "shift")
    curves = [
        {"corruption": name, "strength": strength}
        | {"mae": 12.345, "mae_low": 11.8, "mae_high": 12.9}
        | {"gender_accuracy": 0.8765, "gender_accuracy_low": 0.85, "gender_accuracy_high": 0.9}
        for name in corruptions
        for strength in (0.125, 0.25, 0.5, 0.75)
    ]
    return records.Evidence(
        slices=slices,
        intervals={
            "coverage": 0.9,
            "half_widths_years": [3.14, 22.71],
            "test": interval(0.8912) | {"n": 4143},
        },
        abstention={"accuracy_target": 0.97, "confidence": 0.7654321, "share_accepted": 0.87654},
        label_noise={"pairs": 321, "age_difference_years": interval(3.21)},
        robustness=[curves[0] | {"corruption": "clean", "strength": 0}, *curves],
        mirror={
            "mae": {"value": -0.0765, "low": -0.084, "high": -0.069, "p": 0.01},
            "gender": {"only_a": 3},
        },
    )


def test_the_fullest_card_fits_a_description_and_holds_every_part():
    text = card(evidence=full_evidence(), fine_tuning_kept=False)
    assert len(text) < 5000
    for part in (
        "non-commercial",
        "https://susanqq.github.io/UTKFace/",
        "VGGFace2",
        "| gender accuracy | 0.88 [0.79, 0.96] |",
        "n = 4143 faces of data 0123456789abcdef0123456789abcdef, seed 7, at most 31 epochs",
        "In validation: score 0.312, 5.43 years, 91.2 %",
        "| Indian (few) | 29 | 13.7 [11.1, 13.9] |",
        "3.14 to 22.7 years",
        "on the test: 89 % [80, 98]",
        "from a confidence of 0.765, which 87.7 %",
        "321 pairs",
        "- blur, standard deviation (pixels): 0.125: 12.3, 0.88; 0.25",
        "-0.076 [-0.084, -0.069]",
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "evidence": records.Evidence(
                    abstention={"accuracy_target": 0.97, "confidence": None}
                )
            },
            "97 %: no confidence reaches it",
        ),
        ({"fine_tuning_kept": False}, "Fine-tuning was tried and discarded"),
        ({"fine_tuning_kept": None}, "Nothing was fine-tuned"),
        ({"origin": {"epochs_trained": "19"}}, "seed 7, 19 epochs"),
        # Where that was not kept, it is said that they are a limit; a release trains all of them.
        ({}, "seed 7, at most 31 epochs"),
        ({"history": []}, "seed 7, 31 epochs"),
        ({"history": []}, "shorter training without the validation faces"),
    ],
)
def test_the_card_says_what_became_of_the_training(changes, said):
    assert said in card(**changes)


def test_the_card_of_a_search_speaks_of_no_release_and_no_discarded_tuning():
    assert "shorter training" not in card() and "head on frozen features" not in card()


def table_of_groups(text):
    """The table of slices: number of faces, then both measures as they are shown, by name."""
    section = text[text.index("## Slices") : text.index("(few):")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    return {row[0]: row[1:] for row in cells[4:] if row}


@pytest.mark.parametrize(("indian", "small_is_named"), [(99.0, True), (1.0, False)])
def test_the_worst_groups_that_are_named_are_those_of_the_table(indian, small_is_named):
    slices = full_evidence().slices
    for row in slices:
        if row["slice"] == "Indian":
            row |= {"mae": indian, "gender_accuracy": 1 - indian / 100}
    text = card(evidence=records.Evidence(slices=slices))
    table = table_of_groups(text)
    sentences = text[text.index("(few):") :].splitlines()
    for column, worst, start in ((1, max, "- Error in age:"), (2, min, "- Accuracy in gender:")):
        (sentence,) = [line for line in sentences if line.startswith(start)]
        of_all = worst(table, key=lambda name: float(table[name][column].split()[0]))
        ranked = [name for name in table if not name.endswith(" (few)")]
        of_ranked = worst(ranked, key=lambda name: float(table[name][column].split()[0]))
        named = [of_all, of_ranked] if small_is_named else [of_ranked]
        for name, part in zip(named, sentence.split(";"), strict=True):
            assert f" {name.removesuffix(' (few)')} " in part
            assert table[name][column] in part and f"on {table[name][0]} faces" in part


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_the_released_cards_are_those_of_their_records(path):
    record = records.Candidate.from_json(json.loads(path.read_text())["record"])
    text = path.with_suffix(".md").read_text()
    for name, label in cards.METRICS.items():
        assert f"| {label} | {intervals.digits(Interval.of(record.test[name]))} |" in text
    assert f"seed {record.seed}, {record.origin['epochs_trained']} epochs" in text
    assert {name: row[0] for name, row in table_of_groups(text).items()} == {
        group["slice"] + " (few)" * (not group["ranked"]): str(group["n"])
        for group in record.evidence.groups
    }
