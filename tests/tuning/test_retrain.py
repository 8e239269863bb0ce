"""The statistics of retrained settings: which differ, intervals that cover, verdicts."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender import config, hyperparameters
from agegender.data import pixels
from tuning import experiment, families, journal, reproduction, retrain, spaces


def job(faces, folder, **changes):
    return experiment.Job("A", faces, config.Settings(), folder, folder, **changes)


def trainings(*scores):
    """A row a training: one list of val_scores a setting, seeds from 0."""
    rows = [
        {"trial": number, "seed": seed, "val_score": score, "val_age_mae": 10 * score}
        | {"val_gender_accuracy": 1 - score / 2}
        for number, of_one in enumerate(scores, start=1)
        for seed, score in enumerate(of_one)
    ]
    return pd.DataFrame(rows)


def test_standing_tells_apart_what_differs_by_more_than_its_noise():
    table = trainings([0.50, 0.51, 0.49], [0.30, 0.31, 0.32], [0.31, 0.30, 0.33])
    summary = retrain.standing(table)
    assert summary.trial.tolist() == [2, 3, 1]
    assert summary.like_best.tolist() == [True, True, False]
    assert summary.val_score_std.iloc[2] == pytest.approx(0.01)
    assert summary.val_age_mae_mean.iloc[2] == pytest.approx(5.0)
    assert retrain.conclusion(summary).endswith("No clear difference from it at 95 %: 3.")


def test_one_seed_tells_nothing_apart_and_a_diverged_training_does_not_count():
    summary = retrain.standing(trainings([0.5, 0.51], [0.1, np.nan]))
    assert summary.seeds.tolist() == [1, 2] and summary.like_best.all()
    assert retrain.conclusion(summary).startswith("A comparison takes at least 2 settings")


def test_the_prediction_interval_holds_a_new_observation_95_times_in_100():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        *seen, new = generator.normal(5.0, 0.2, 4)
        low, high = reproduction.prediction_interval(seen)
        inside += low <= new <= high
    assert 0.935 < inside / 2000 < 0.965


OTHERS = pd.DataFrame(
    {"val_age_mae": [6.0, 6.2, 6.1], "val_gender_accuracy": [0.900, 0.904, 0.902]}
)


@pytest.mark.parametrize(
    ("registered_mae", "same_seed_mae", "verdict", "identical"),
    [
        (6.15, 6.149, "reproduced", False),
        (4.10, 6.15, "not reproduced", False),
        # The same numbers again are a reproduction, however unusual the seed.
        (4.123, 4.12345, "reproduced", True),
    ],
)
def test_verdicts(registered_mae, same_seed_mae, verdict, identical):
    result = reproduction.compare_with_registered(
        {"val_age_mae": registered_mae, "val_gender_accuracy": 0.903},
        {"val_age_mae": same_seed_mae, "val_gender_accuracy": 0.90301},
        OTHERS,
    )
    assert (result["verdict"], result["identical"]) == (verdict, identical)
    found = result["measures"]["val_age_mae"]
    assert found["difference"] == pytest.approx(same_seed_mae - registered_mae)
    assert found["inside"] == (registered_mae > 5)


def test_a_version_without_its_origin_is_named_with_what_it_lacks():
    tags = dict.fromkeys((*reproduction.NEEDED, *retrain.MEASURES), "1")
    assert reproduction.needed(tags, "age-gender-A/3") is tags
    del tags["preset"], tags["val_age_mae"]
    with pytest.raises(ValueError, match="age-gender-A/3 has no tags preset, val_age_mae"):
        reproduction.needed(tags, "age-gender-A/3")


def test_other_data_are_refused_before_anything_is_trained():
    faces = pixels.Faces(None, None, None, "here", "generated", {})
    with pytest.raises(ValueError, match="age-gender-A/3 .* digest there; .* have here.*DATA="):
        reproduction.reproduce(
            job(faces, Path("nowhere")), {"data.digest": "there"}, "age-gender-A/3"
        )


@pytest.mark.parametrize(("letter", "first_epochs"), [("A", 15), ("B", 14)])
def test_a_version_cut_in_the_first_part_of_its_training_is_refused(tmp_path, letter, first_epochs):
    faces = pixels.Faces(None, None, None, "here", "generated", {})
    asked = dataclasses.replace(job(faces, tmp_path), letter=letter)
    values = families.defaults(asked.family, tmp_path)
    version = {"data.digest": "here", "backbone": values.get("backbone", "none"), "epochs": "30"}
    version |= {"settings": json.dumps(values), "epochs_trained": str(first_epochs)}
    with pytest.raises(ValueError, match=f"age-gender-{letter}/3 short in the first part"):
        reproduction.reproduce(asked, version, f"age-gender-{letter}/3")


def test_finished_trainings_are_taken_and_none_is_started_out_of_time(tmp_path):
    values = {"width": 8, "rate": 0.1}
    path, said = tmp_path / "finished.json", []
    row = {"trial": 4, "values": values, "seed": 0, "epochs": 3, "seconds": 60.0, "run_id": "r"}
    row |= {"parent_run_id": "p"} | dict.fromkeys(retrain.MEASURES, 0.3)
    path.write_text(json.dumps([row, row | {"seed": 1, "epochs": 2}]))
    plan = retrain.Plan({4: values, 5: values | {"width": 16}}, range(2), epochs=3)
    late = job(None, tmp_path, stop_at=-math.inf, report=said.append)
    table = retrain.retrain(late, plan, path=path, parent_run_id="p")
    assert table[["trial", "seed", "val_score"]].values.tolist() == [[4, 0, 0.3]]
    # Of another length, or with other values, it is another training.
    left = (
        f"A setting {name} · laptop · seed {seed}"
        for name, seed in (("005", 0), ("004", 1), ("005", 1))
    )
    assert said[-1].endswith(f"{', '.join(left)}.")


def test_settings_are_compared_as_their_search_trained_them_last(root, drawn_faces, monkeypatch):
    monkeypatch.setattr(spaces, "LONG_EPOCHS", 1)
    values = {"width": 8, "stem_filters": 8, "internal_size_pixels": 64, "stages": 3}
    values |= {"extra_block_stage": -1, "augmentation_strength": 0.25, "mixing": 0.0}
    done = journal.Trial(1, values, "COMPLETED", {"val_score": 0.5})
    (root / "trials.json").write_text(json.dumps([dataclasses.asdict(done)]))
    retrain.compare_best(job(drawn_faces, root), count=1, seeds=1, epochs=1)
    (row,) = json.loads((root / "leaderboard.json").read_text())
    assert row["values"] == values | {
        "internal_size_pixels": 96,
        "augmentation_strength": 1.0,
        "mixing": hyperparameters.Scratch.mixing,
    }


def test_a_released_version_names_the_command_that_trains_it_again():
    with pytest.raises(ValueError, match="`make release MODEL=B_full` trains it again"):
        reproduction.needed({"release": "age_gender_B_full"}, "age-gender-B/1")
