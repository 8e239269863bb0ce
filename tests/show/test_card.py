"""The card says what it must in the space there is, with the numbers that it is given."""

import dataclasses
import json
from pathlib import Path

import pytest

from agegender import records
from agegender.networks import backbones
from agegender.show import card as cards
from agegender.show import intervals
from agegender.show.intervals import Interval

MODELS = Path(__file__).parents[2] / "models"
LICENCE = "Trained on UTKFace: non-commercial research use only. " + "Backbone's licence. " * 15
BACKBONE = {"name": "faceres", "licence": "MIT", "pretraining": "VGGFace2, " + "then others " * 20}


def released(path):
    return records.Candidate.from_json(json.loads(path.read_text())["record"])


RELEASE = released(MODELS / "age_gender_B.json")
# As it would be if it came from a search.
CANDIDATE = dataclasses.replace(RELEASE, history=None, origin={}, fine_tuning_kept=True)


def card(candidate=CANDIDATE, kind="utkface", backbone=BACKBONE, **changes):
    return cards.model_card(
        dataclasses.replace(candidate, **changes),
        data_kind=kind,
        licence=LICENCE,
        backbone=backbone,
        test_looks=3,
    )


def test_the_fullest_card_fits_a_description_and_holds_every_part():
    mirror = {"mae": {"value": -0.0765, "low": -0.084, "high": -0.069}}
    evidence = dataclasses.replace(RELEASE.evidence, mirror=mirror)
    text = card(evidence=evidence, fine_tuning_kept=False)
    assert len(text) < 5000
    test, measured = RELEASE.test, RELEASE.evidence.intervals
    widths = measured["half_widths_years"]
    for part in (
        "non-commercial",
        "https://susanqq.github.io/UTKFace/",
        "VGGFace2",
        f"| gender accuracy | {intervals.digits(Interval.of(test['gender_accuracy']))} |",
        f"n = {test['n']} faces of data {RELEASE.data}, seed {RELEASE.seed}",
        f"{intervals.digits(RELEASE.val['val_age_mae'])} years",
        f"{intervals.digits(min(widths))} to {intervals.digits(max(widths))} years",
        f"on the test set: {intervals.percent(Interval.of(measured['test']))}",
        f"{intervals.percent(RELEASE.evidence.abstention['share_accepted'])} of the validation",
        f"{RELEASE.evidence.label_noise['pairs']} pairs",
        "- blur, standard deviation (pixels): 1: ",
        "-0.076 [-0.084, -0.069]",
    ):
        assert part in text, part
    assert "| age 0-9 | " in text and "| age 0-9, male |" not in text


def test_what_was_not_measured_leaves_no_heading():
    bare = card(kind="generated", backbone=None, evidence=records.Evidence())
    headings = [line for line in bare.splitlines() if line.startswith("## ")]
    assert len(headings) == 5
    assert not {"## Slices", "## Robustness", "## Pretrained weights"} & set(headings)
    assert "models:/age-gender-B-generated@champion" in bare
    assert "nothing about people" in bare and "## Slices" in card()


NEVER_SURE = records.Evidence(abstention={"accuracy_target": 0.97, "confidence": None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evidence": NEVER_SURE}, "97 %: no confidence reaches it"),
        ({"fine_tuning_kept": False}, "Fine-tuning was tried and discarded"),
        ({"fine_tuning_kept": None}, "Nothing was fine-tuned"),
        ({"origin": {"epochs_trained": "19"}}, f"seed {RELEASE.seed}, 19 epochs"),
        # Where that was not kept, it is said that they are a limit; a release trains all of them.
        ({}, f"seed {RELEASE.seed}, at most {RELEASE.epochs} epochs"),
        ({"history": []}, f"seed {RELEASE.seed}, {RELEASE.epochs} epochs"),
        ({"history": []}, "shorter training run without the validation faces"),
    ],
)
def test_the_card_says_what_became_of_the_training(changes, said):
    assert said in card(**changes)


def test_the_card_of_a_search_speaks_of_no_release_and_no_discarded_tuning():
    assert "shorter training" not in card() and "head on frozen features" not in card()


@pytest.mark.parametrize(("oldest", "small_is_named"), [(99.0, True), (1.0, False)])
def test_the_worst_groups_that_are_named_are_those_of_the_table(oldest, small_is_named):
    changed = {"mae": oldest, "gender_accuracy": 1 - oldest / 100, "n": 9, "ranked": False}
    slices = [
        row | (changed if row["slice"] == "age 80+" else {}) for row in RELEASE.evidence.slices
    ]
    evidence = records.Evidence(slices=slices)
    text = card(evidence=evidence)
    for measure, worst, start in (
        ("mae", max, "- Age error:"),
        ("gender_accuracy", min, "- Gender accuracy:"),
    ):
        (sentence,) = [line for line in text.splitlines() if line.startswith(start)]
        ranked = [group for group in evidence.groups if group["ranked"]]
        candidates = [evidence.groups, ranked] if small_is_named else [ranked]
        for groups, part in zip(candidates, sentence.split(";"), strict=True):
            group = worst(groups, key=lambda group: group[measure])
            assert f" {group['slice']} " in part and f"on {group['n']} faces" in part
            assert intervals.digits(Interval.of(group, measure)) in part


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_the_released_cards_are_those_of_their_records(path):
    record = released(path)
    text = path.with_suffix(".md").read_text()
    for name, label in cards.METRICS.items():
        assert f"| {label} | {intervals.digits(Interval.of(record.test[name]))} |" in text
    assert f"seed {record.seed}, {record.origin['epochs_trained']} epochs" in text
    # What it knows of other pictures, from inside or from its teacher.
    known = backbones.BACKBONES.get(record.backbone)
    assert (known is None) == (path.stem in ("age_gender_A", "age_gender_A_full"))
    if known:
        assert f"{record.backbone} ({known.licence}), trained on {known.pretraining}" in text
        assert ("## Teacher" in text) == (record.values.get("teacher") == record.backbone)
    for group in record.evidence.groups:
        name = group["slice"] + " (few)" * (not group["ranked"])
        mae = intervals.digits(Interval.of(group, "mae"))
        assert f"| {name} | {group['n']} | {mae} |" in text
