"""What is trained again after a search."""

import pytest

from tuning import finalists, journal


def trial(number, val_score):
    if val_score is None:
        return journal.Trial(number, {"width": number}, "FAILED")
    return journal.Trial(number, {"width": number}, "COMPLETED", {"val_score": val_score})


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.9, 0.5, 0.6, 0.7], 3, [2, 3, 1]),
        ([0.5, 0.9, 0.6, 0.7], 3, [1, 3, 4]),
        ([0.9, 0.5, 0.6, 0.7], 1, [2]),
        ([0.9, 0.88, 0.6, 0.7], 1, [3]),
        ([0.9, 0.88, 0.95, 0.97], 1, [1]),
        ([None, 0.5, 0.6, 0.7], 2, [2, 3]),
        ([None, 0.5, 0.6, 0.7], 1, [2]),
    ],
)
def test_the_defaults_are_trained_again_beside_the_best_or_if_it_is_hardly_better(
    scores, count, expected
):
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
