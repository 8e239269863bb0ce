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


def test_defaults_that_did_not_get_as_far_are_not_compared():
    done = [trial(1, 0.51), trial(2, 0.5)]
    for one, rung in zip(done, (0, 1), strict=True):
        one.values[journal.RUNG] = rung
    assert finalists.to_train_again(done, 1, 0.05) == [done[1]]
