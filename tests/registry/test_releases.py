"""Released models: written whole, registered once, a first rival for every search."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender import config, records
from agegender.data import pixels, splits, utkface
from agegender.registry import ledger, promotion, releases, tracking, versions

MODEL = "age-gender-A"
PROJECT = Path(__file__).parents[2]
RELEASED = PROJECT / "models" / "age_gender_A.h5"


@pytest.fixture
def candidate(network_h5, tmp_path):
    """A folder as an evaluated release leaves it."""
    folder = tmp_path / "candidate"
    folder.mkdir()
    shutil.copy(network_h5, folder / record().h5)
    shutil.copy(RELEASED.with_suffix(".csv"), folder / records.PREDICTIONS)
    return folder


def record():
    kept = json.loads(RELEASED.with_suffix(".json").read_text())["record"]
    return records.Candidate.from_json(kept | {"data": "digest"})


def write(folder, candidate, name):
    faces = pixels.Faces(folder, pd.DataFrame(), np.array([]), "digest", "utkface", {})
    assert "Written" in releases.publish(name, record(), candidate, faces, folder)


def test_a_release_becomes_the_first_champion_with_its_evidence(root, candidate):
    write(root / "models", candidate, "A")
    assert releases.register(root / "models", full=False) == {"A": 1}
    version = versions.get(MODEL, "champion")
    assert version["version"] == "1" and version["release"] == "age_gender_A"
    assert version["epochs"] == str(record().epochs)
    assert version["test_mae"] == f"{record().test['mae']['value']:.4g}"
    assert version["trained_without"] == splits.test_names_checksum()
    evidence = json.loads(tracking.read_text(version["run_id"], records.EVIDENCE))
    assert records.Evidence.from_json(evidence) == record().evidence
    drawn = list(root.glob(f"mlruns/artifacts/*/{version['run_id']}/artifacts/test/*.png"))
    assert len(drawn) == 5
    layers = json.loads(tracking.read_text(version["run_id"], "layers.json"))
    assert layers[0]["shape"] == [128, 128, 3] and layers[-1]["parameters"] > 0
    assert list(ledger.looks().purpose) == ["release, before it came here"]
    assert f"{record().origin['epochs_trained']} epochs" in tracking.read_text(
        version["run_id"], records.CARD
    )
    kept = records.read_predictions(RELEASED.with_suffix(".csv"))
    assert str(kept.age_predicted[0]) in tracking.read_text(version["run_id"], "predictions.csv")
    pulled = versions.pull(MODEL, "champion", root / "A.h5")
    assert pulled.read_bytes() == (root / "models" / "age_gender_A.h5").read_bytes()
    # Once: neither it nor another takes the place of what the registry has.
    assert releases.register(root / "models", full=False) == {}
    assert versions.aliases(MODEL) == {"champion": 1}


def test_all_of_utkface_takes_the_models_that_were_trained_on_it(root, candidate):
    for name in ("A", "A_full"):
        write(root / "models", candidate, name)
    releases.register(root / "models", full=True)
    assert versions.get(MODEL, "champion")["release"] == "age_gender_A_full"


def test_nothing_released_registers_nothing_and_a_torn_release_is_none(root, candidate):
    assert releases.register(root / "models", full=True) == {}
    write(root / "models", candidate, "A")
    (root / "models" / "age_gender_A.json").unlink()
    assert releases.register(root / "models", full=True) == {}


@pytest.fixture
def manifest():
    """The labels of 20 faces of the committed test list."""
    keys = sorted(splits.read_test_names())[:20]
    names = [f"{key}.jpg.chip.jpg" for key in keys]
    assert {utkface.face_key(name) for name in names} == set(keys)
    labels = [utkface.parse_name(name)._asdict() for name in names]
    return pd.DataFrame(labels).assign(name=names, split="test")


def with_pictures(manifest, root):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), np.uint8)
    return pixels.Faces(root, manifest, pictures, "digest", "utkface", {})


def test_only_a_better_release_is_written_and_its_card_says_what_it_beat(root, candidate, manifest):
    write(root / "models", candidate, "A")
    before = {path.name: path.read_bytes() for path in (root / "models").iterdir()}

    def publish(**predicted):
        found = manifest.assign(**predicted)
        records.write_predictions(found, candidate / records.PREDICTIONS)
        faces = with_pictures(manifest, root)
        return releases.publish("A", record(), candidate, faces, root / "models")

    assert "stays: " in publish(age_predicted=manifest.age_years + 50, gender_probability=0.5)
    assert {path.name: path.read_bytes() for path in (root / "models").iterdir()} == before
    perfect = {"age_predicted": manifest.age_years, "gender_probability": manifest.gender}
    assert "Written" in publish(**perfect)
    card = (root / "models" / "age_gender_A.md").read_text()
    assert "better on n = 20: MAE -" in card.partition("## Compared with the model before")[2]
    assert len(ledger.looks()) == 2


def test_the_gate_can_judge_a_release_by_other_test_faces(root, candidate, manifest):
    write(root / "models", candidate, "A")
    records.write_predictions(  # Perfect on its own test faces, which are not asked here.
        manifest.assign(age_predicted=manifest.age_years, gender_probability=manifest.gender),
        candidate / records.PREDICTIONS,
    )
    faces = dataclasses.replace(with_pictures(manifest, root), digest="other")
    said = releases.publish("A", record(), candidate, faces, root / "models")
    assert "no clear gain over the champion in either task, on n = 20" in said
    assert list(ledger.looks()["data"]) == ["other"]


def test_training_faces_and_their_copies_are_no_test_of_a_release(root, manifest):
    def faces(split, groups):
        table = manifest.assign(split=split, group=groups)
        return dataclasses.replace(with_pictures(table, root), manifest=table)

    trained = faces(["train"] * 5 + ["test"] * 15, range(20))
    judged = faces(["excluded"] * 5 + ["test"] * 15, range(20))
    releases.check_unseen(trained, judged)
    with pytest.raises(ValueError, match="holds 1 of the 5 training faces as test faces"):
        releases.check_unseen(trained, faces(["excluded"] * 5 + ["test"] * 15, [5, *range(1, 20)]))
    part = dataclasses.replace(judged, manifest=judged.manifest.iloc[2:])
    with pytest.raises(ValueError, match="lacks 2: expected all of UTKFace"):
        releases.check_unseen(trained, part)


def test_a_release_is_comparable_on_the_committed_test_faces_alone(
    root, candidate, manifest, register
):
    write(root / "models", candidate, "A")
    releases.register(root / "models", full=False)

    def judge(manifest):
        faces = with_pictures(manifest, root)
        version = register(tags={"data.digest": "digest"})
        predictions = manifest.assign(
            age_predicted=manifest.age_years, gender_probability=manifest.gender * 1.0
        )
        return promotion.judge(MODEL, version, predictions, faces, config.Gate(), seed=0)

    other = manifest.assign(name=["9_0_0_20010101000000001.jpg", *manifest.name[1:]])
    assert judge(other).decision == "not comparable"
    assert judge(manifest).decision in ("kept", "promoted")


def test_both_readmes_state_the_results_of_the_released_models():
    front, table = ((PROJECT / path).read_text() for path in ("README.md", "models/README.md"))
    for name in config.RELEASES:
        path = PROJECT / "models" / f"{records.PREFIX}{name}.json"
        kept = records.Candidate.from_json(json.loads(path.read_text())["record"])
        age, gender = (kept.test[metric].values() for metric in ("mae", "gender_accuracy"))
        row = f"| `{path.stem}` | {kept.faces:,} | {kept.epochs} | {kept.test['n']:,} | "
        row += "{:.2f} [{:.2f}, {:.2f}]".format(*age)
        assert row + " | {:.3f} [{:.3f}, {:.3f}] |".format(*gender) in table
        rounded = "{:.1f} years [{:.1f}, {:.1f}], ".format(*age)
        percent = (100 * share for share in gender)
        assert rounded + "{:.1f} % [{:.1f}, {:.1f}]".format(*percent) in front
