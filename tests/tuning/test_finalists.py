"""What is trained again after a search."""

import dataclasses
import time

import pytest

from agegender import config
from tuning import experiment, finalists, journal


def trial(number, val_score):
    if val_score is None:
        return journal.Trial(number, {"width": number}, "FAILED")
    return journal.Trial(number, {"width": number}, "COMPLETED", {"val_score": val_score})


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.9, 0.5, 0.6, 0.7], 3, [2, 1, 3]),
        ([0.5, 0.9, 0.6, 0.7], 3, [1, 3, 4]),
        ([0.9, 0.88, 0.95, 0.97], 3, [1, 2, 3]),
        ([0.9], 3, [1]),
        ([0.9, 0.5, 0.6, 0.7], 1, [2]),
        ([0.9, 0.88, 0.6, 0.7], 1, [3]),
        ([0.9, 0.88, 0.95, 0.97], 1, [1]),
        ([None, 0.5, 0.6, 0.7], 2, [2, 3]),
        ([None, 0.5, 0.6, 0.7], 1, [2]),
    ],
)
def test_the_defaults_are_trained_again_first_if_no_setting_is_much_better(scores, count, expected):
    done = [trial(number, score) for number, score in enumerate(scores, start=1)]
    assert [one.number for one in finalists.to_train_again(done, count, 0.05)] == expected


def test_fewer_faces_must_show_a_larger_gain():
    needed = [finalists.needed_gain(0.08, faces) for faces in (2000, 500, 125)]
    assert needed == pytest.approx([0.08, 0.08, 0.16])


@pytest.mark.parametrize(
    ("rungs_and_scores", "expected"),
    [
        ([(0, 0.71), (0, 0.7), (1, 0.5)], 3),  # The defaults did not get as far.
        ([(0, 0.71), (1, 0.51), (0, 0.7), (1, 0.5)], 2),
        ([(0, 0.71), (1, 0.51), (0, 0.7), (1, 0.48)], 4),
        # The other did not get as far.
        ([(0, 0.71), (1, 0.51), (0, 0.72), (0, 0.65)], 4),
        ([(0, 0.71), (1, 0.51), (0, 0.72), (0, 0.7)], 2),
        ([(1, 0.51), (0, 0.3), (0, 0.4)], 1),
    ],
)
def test_the_defaults_are_compared_where_they_got_to(rungs_and_scores, expected):
    done = [trial(number, score) for number, (_, score) in enumerate(rungs_and_scores, start=1)]
    for one, (rung, _) in zip(done, rungs_and_scores, strict=True):
        one.values[journal.RUNG] = rung
    defaults, others = done[:-2], done[-2:]  # Two settings, each on one or two rungs.
    for one in others:
        one.values["width"] = 0
    for one in defaults:
        one.values["width"] = 1
    assert [one.number for one in finalists.to_train_again(done, 1, 0.05)] == [expected]


@pytest.mark.parametrize(
    ("minutes", "trainings", "epochs"),
    [
        (10, [(1, 0)], 53),
        (30, [(1, 0)], 100),
        (40, [(1, 0), (2, 0)], 100),
        (70, [(1, 0), (2, 0)], 100),
        (80, [(1, 0), (2, 0), (1, 1), (2, 1)], 100),
    ],
)
def test_more_time_lengthens_a_final_run_then_adds_settings_then_folds(
    drawn_faces, tmp_path, minutes, trainings, epochs
):
    effort = config.FamilySettings(9, (2,), 100, 0.2, 0.5, finalists=2, folds=2)
    settings = dataclasses.replace(config.Settings(), tier="full", scratch=effort)
    stop_at = time.monotonic() + 60 * minutes
    job = experiment.Job("A", drawn_faces, settings, tmp_path, tmp_path, stop_at)
    metrics = {"val_score": 0.5, "epoch_seconds": 10.0}
    values = {"internal_size_pixels": 64, "first_size_pixels": 0}
    done = [journal.Trial(n, values, "COMPLETED", metrics, 20.0) for n in (1, 2)]
    plan = finalists.make_plan(job, done, done)
    assert (plan.trainings, plan.epochs) == (trainings, epochs)
