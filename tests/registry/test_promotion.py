"""The gate promotes what is better and no worse, keeps a record, and can be taken back."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender import config, records
from agegender.data import pixels
from agegender.networks import predict
from agegender.registry import ledger, promotion, provenance, tracking, versions
from pipelines import __main__ as command

GATE = config.Gate()
MODEL = "age-gender-A"


def table(count=1000, error_years=6.0, wrong=0.1, seed=0):
    """Predictions of made-up faces, the same for the same count; the errors differ by seed."""
    labels, noise = np.random.default_rng(7), np.random.default_rng(seed)
    age_years = labels.integers(1, 90, count)
    gender = labels.integers(0, 2, count)
    flipped = noise.random(count) < wrong
    return pd.DataFrame(
        {
            "name": [f"{number}.jpg" for number in range(count)],
            "age_years": age_years,
            "gender": gender,
            "race": labels.integers(0, 5, count),
            "age_predicted": age_years + noise.normal(0, error_years, count),
            "gender_probability": np.where(flipped, 1 - gender, gender) * 0.8 + 0.1,
        }
    )


def decide(champion, challenger, gate=GATE):
    found = promotion.decide(champion, challenger, gate, seed=0)
    kept = dataclasses.asdict(found)
    assert json.loads(json.dumps(kept)) == kept
    return found, "; ".join(found.reasons)


def test_better_in_one_task_and_equal_in_the_other_is_promoted():
    champion = table()
    better_age = champion.assign(age_predicted=table(error_years=3, seed=1).age_predicted)
    found, reasons = decide(champion, better_age)
    assert found.promote and "better on n = 1000: MAE -2" in reasons
    assert found.mae["high"] < 0 and found.gender["p"] == 1
    better_gender = champion.assign(gender_probability=table(wrong=0).gender_probability)
    found, reasons = decide(champion, better_gender)
    assert found.promote and "better on n = 1000: gender accuracy +" in reasons
    assert found.gender["only_a"] > 50 and found.gender["only_b"] == 0
    # The other way round both are losses.
    assert not decide(better_age, champion)[0].promote
    assert not decide(better_gender, champion)[0].promote


def test_too_little_data_keeps_the_champion_and_says_so():
    found, reasons = decide(table(30), table(30, error_years=5.5, seed=1))
    assert (
        not found.promote and "no clear gain over the champion in either task, on n = 30" in reasons
    )
    found, reasons = decide(table(400), table(400, error_years=3, seed=1))
    assert not found.promote and found.mae["high"] < 0
    assert "the loss in gender cannot be shown to stay under 0.5 points on n = 400: bou" in reasons
    noisier = table(400, wrong=0, seed=1)
    found, reasons = decide(table(400, wrong=0.3), noisier)
    assert "the loss in age cannot be shown to stay under 0.1 years on n = 400: bound" in reasons
    wide = config.Gate(most_loss_years=5.0)
    assert decide(table(400, wrong=0.3), noisier, wide)[0].promote


def test_a_slice_that_gets_worse_stops_it_and_small_slices_do_not():
    champion = table(2000)
    challenger = champion.assign(age_predicted=table(2000, error_years=2, seed=1).age_predicted)
    assert decide(champion, challenger)[0].promote
    old = challenger.age_years >= 80
    challenger.loc[old, "age_predicted"] -= 8
    found, reasons = decide(champion, challenger)
    assert not found.promote and found.mae["high"] < 0
    assert {loss.slice for loss in found.worse_slices if loss.beyond} >= {"age 80+"}
    assert "worse on age 80+ (n = " in reasons and "in age: +" in reasons
    assert decide(champion, challenger, config.Gate(slice_images=500))[0].promote
    wrong = champion.assign(
        age_predicted=challenger.age_predicted.where(~old, champion.age_predicted)
    )
    wrong.loc[old, "gender_probability"] = 1 - wrong.loc[old, "gender_probability"]
    found, _ = decide(champion, wrong)
    assert "gender" in {loss.task for loss in found.worse_slices if loss.beyond}


def test_a_slice_that_loses_less_than_the_margin_does_not_stop_it_and_is_named():
    champion = table(4000)
    better = champion.assign(age_predicted=table(4000, error_years=2, seed=1).age_predicted)
    male, error = better.gender == 0, records.age_error(champion)
    # Every man 0.3 years further off; 1 % of the men lost in gender, twice as many women won.
    better.loc[male, "age_predicted"] = (champion.age_years + error + 0.3 * np.sign(error))[male]
    right = records.gender_right(champion)
    lost, won = np.flatnonzero(male & right)[:20], np.flatnonzero(~male & ~right)[:40]
    changed = [*lost, *won]
    better.loc[changed, "gender_probability"] = 1 - better.loc[changed, "gender_probability"]
    found, reasons = decide(champion, better)
    assert found.promote
    named = {loss.task: loss for loss in found.worse_slices if loss.slice == "male"}
    assert named["age"].difference == pytest.approx(0.3)
    assert named["gender"].difference == pytest.approx(-20 / male.sum())
    for loss in named.values():
        assert not loss.beyond and str(loss) in reasons and str(loss) in found.card_section()
    # With no margin each stops it.
    for task, gate in (
        ("age", config.Gate(slice_loss_years=0)),
        ("gender", config.Gate(slice_loss_accuracy=0)),
    ):
        found, _ = decide(champion, better, gate)
        assert not found.promote
        assert {loss.task for loss in found.worse_slices if loss.beyond} == {task}


def test_equal_models_show_no_difference():
    found, reasons = decide(table(), table())
    assert not found.promote and found.worse_slices == [] and found.mae["value"] == 0


def test_other_faces_or_labels_are_refused():
    champion = table(50)
    for other in (table(49), champion.assign(age_years=1), champion[::-1]):
        with pytest.raises(ValueError, match="the same test faces with the same labels"):
            promotion.decide(champion, other, GATE, 0)


@pytest.fixture
def faces(root, tmp_path):
    """Random pictures under labels of UTKFace: 30 of training and validation, 40 of the test."""
    labelled = Path(__file__).parents[2] / "models" / "age_gender_A.csv"
    manifest = records.read_predictions(labelled)[records.LABELS].head(70)
    manifest["split"] = np.repeat(["train", "validation", "test"], [20, 10, 40])
    pictures = np.random.default_rng(0).integers(0, 256, (70, 128, 128, 3), np.uint8)
    return pixels.Faces(tmp_path, manifest, pictures, "digest", "utkface", {})


def enter(faces, register, seen=None):
    """Register a version that was trained on the faces' own training and validation."""
    if seen is None:
        seen = faces.manifest[faces.manifest.split != "test"]
    with tracking.run("train", experiment="tests") as run_id:
        tracking.log_table(run_id, seen[["name", "split"]], records.TRAINING_FACES)
    return register(run_id, tags={"data.digest": faces.digest})


def perfect(faces):
    test = faces.manifest.iloc[faces.rows("test")]
    return test.assign(age_predicted=test.age_years + 0.5, gender_probability=test.gender * 0.9)


def judge(version, predictions, faces):
    return promotion.judge(MODEL, version, predictions, faces, GATE, seed=0)


def test_the_gate_promotes_keeps_a_record_and_is_taken_back(
    faces, register, network, root, client, monkeypatch, capsys
):
    assert enter(faces, register) == 1
    assert judge(1, None, faces).decision == "champion"
    assert ledger.looks().empty
    # No better: the champion's own predictions.
    rows = faces.rows("test")
    age_years, gender = predict.predict(network, faces.pixels, rows)
    same = perfect(faces).assign(age_predicted=age_years, gender_probability=gender)
    assert enter(faces, register) == 2
    found = judge(2, same, faces)
    assert found.decision == "kept" and "on n = 40: MAE +0.00 years" in found.reasons
    assert versions.aliases(MODEL) == {"champion": 1, "challenger": 2}
    # Judged once against one champion, whatever is brought.
    assert judge(2, None, faces) == found
    looks = ledger.looks()
    assert list(looks.purpose) == ["promotion gate"] and list(looks.version) == ["1"]

    assert enter(faces, register) == 3
    promoted = judge(3, perfect(faces), faces)
    assert promoted.decision == "promoted" and promoted.against == 1
    assert versions.aliases(MODEL) == {"champion": 3, "previous": 1}
    tags = versions.get(MODEL, 3)
    assert tags["gate.decision"] == "promoted" and tags["gate.against"] == "1"
    assert tags["gate.user"] == provenance.user() and tags["gate.time"].endswith("+00:00")
    record = json.loads(tracking.read_text(tags["run_id"], records.PROMOTION))
    assert (record["champion"], record["challenger"], record["n"]) == (1, 3, 40)
    assert record["gate"]["most_loss_years"] == 0.1
    described = client.get_model_version(MODEL, "3").description
    assert described.count("Compared with the model before") == 1
    assert "Compared with" not in client.get_model_version(MODEL, "2").description
    assert judge(3, None, faces).decision == "champion"

    monkeypatch.chdir(root)
    assert command.main(["rollback", "--model", "A"]) == 0
    assert "version 1 is champion again, version 3 is previous" in capsys.readouterr().out
    assert versions.aliases(MODEL) == {"champion": 1, "previous": 3}
    assert versions.get(MODEL, 3)["rolled_back.user"] == provenance.user()
    again = judge(3, None, faces)
    assert again.decision == "rolled back"
    assert versions.aliases(MODEL) == {"champion": 1, "previous": 3}
    assert promotion.roll_back(MODEL) == (3, 1)
    assert len(ledger.looks()) == 2


def test_work_that_was_killed_is_completed(faces, register, client):
    for _ in range(2):
        enter(faces, register)
    judge(2, perfect(faces), faces)
    for state in (
        {"champion": 1, "challenger": 2},
        {"champion": 1, "challenger": 2, "previous": 1},
        {"champion": 2, "challenger": 2, "previous": 1},
    ):
        for alias in versions.aliases(MODEL):
            versions.remove_alias(MODEL, alias)
        for alias, version in state.items():
            versions.set_alias(MODEL, alias, version)
        judge(2, None, faces)
        assert versions.aliases(MODEL) == {"champion": 2, "previous": 1}
    # Killed before the last tag: judged again.
    client.delete_model_version_tag(MODEL, "2", "gate.against")
    versions.set_alias(MODEL, "champion", 1)
    assert judge(2, perfect(faces), faces).decision == "promoted"
    assert len(ledger.looks()) == 2
    # A roll-back killed between its two aliases.
    promotion.roll_back(MODEL)
    versions.set_alias(MODEL, "previous", 1)
    assert promotion.roll_back(MODEL) == (1, 2)
    assert versions.aliases(MODEL) == {"champion": 1, "previous": 2}


def test_a_champion_that_saw_the_test_is_not_compared(faces, register):
    name = faces.manifest.name.iloc[-1]
    seen = pd.DataFrame({"name": [name.removesuffix(".chip.jpg")], "split": ["train"]})
    for _ in range(2):
        enter(faces, register, seen)
    found = judge(2, perfect(faces), faces)
    assert found.decision == "not comparable"
    assert "version 1 was trained or validated on 1 of the 40 test faces" in found.reasons
    assert ledger.looks().empty
    assert versions.aliases(MODEL) == {"champion": 1, "challenger": 2}


def test_generated_faces_of_other_data_are_other_pictures(faces, register):
    register(tags={"data.digest": "other"})
    assert enter(faces, register) == 2
    assert "keeps no training_faces.csv" in judge(2, perfect(faces), faces).reasons
    assert enter(faces, register) == 3
    drawn = pixels.Faces(faces.folder, faces.manifest, faces.pixels, "digest", "generated", {})
    assert judge(3, perfect(faces), drawn).decision == "promoted"


def test_a_damaged_champion_is_refused_and_nothing_moves(faces, register, root):
    enter(faces, register)
    (stored,) = root.glob("mlruns/artifacts/**/artifacts/*.h5")
    enter(faces, register)
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(ValueError, match="SHA-256"):
        judge(2, perfect(faces), faces)
    assert versions.aliases(MODEL) == {"champion": 1, "challenger": 2}


def test_without_a_previous_champion_there_is_no_way_back(
    faces, register, root, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    enter(faces, register)
    for arguments in (["--model", "A"], ["--model", "B", "--generated"]):
        assert command.main(["rollback", *arguments]) == 2
        assert "has no previous champion to go back to" in capsys.readouterr().err
    assert versions.aliases(MODEL) == {"champion": 1}
