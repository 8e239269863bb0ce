"""The search's own oracle: what it proposes first, what goes on, and that this pays."""

import math
import random
import statistics

from agegender import hyperparameters
from tuning import journal, oracle, search


def space(hp):
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("dropout", 0.0, 0.5, default=0.2)
    hp.Choice("width", [8, 16, 32, 64], default=32, ordered=True)
    hp.Choice("kind", ["plain", "deep"], default="plain", ordered=False)
    with hp.conditional_scope("kind", ["deep"]):
        hp.Int("depth", 2, 6)


def asks(tmp_path, algorithm="priorband", seed=0, rungs=(1, 3, 9), later_rungs=()):
    plan = search.Plan(space, algorithm, seed, 1000, rungs=rungs, later_rungs=later_rungs)
    return search.proposals(search.make_oracle(plan, str(tmp_path)))


def test_the_defaults_and_the_best_third_of_a_rung_go_on_and_nothing_twice(tmp_path):
    proposed, scores = asks(tmp_path), {}
    for number in range(60):
        values, tell = next(proposed)
        setting = tuple(sorted(hyperparameters.setting(values).items()))
        rung = values[journal.RUNG]
        assert values[journal.EPOCHS] == (1, 3, 9)[rung]
        on_rung = scores.setdefault(rung, {})
        defaults = next(iter(scores[0]), setting)
        assert setting not in on_rung
        if rung and setting != defaults:
            below = scores[rung - 1]
            better = [one for one, score in below.items() if score < below[setting]]
            assert len(better) < len(below) // 3
        failed = number % 7 == 6
        score = 0.9 if setting == defaults else random.Random(number).random()
        on_rung[setting] = math.inf if failed else score
        tell(None if failed else on_rung[setting])
    assert all(defaults in on_rung for on_rung in scores.values())
    assert len(scores[0]) > 35 and len(scores[1]) > 9 and len(scores[2]) > 2


def test_none_goes_on_to_a_later_rung_before_enough_settings_have_been_tried(tmp_path):
    proposed, seen = asks(tmp_path, rungs=(3,), later_rungs=(9, 27)), []
    for number in range(60):
        values, tell = next(proposed)
        seen.append((values[journal.RUNG], values[journal.EPOCHS]))
        tell(None if number == 5 else random.Random(number).random())
    # The failed one does not count.
    assert seen[: oracle.SHORT_TRIALS + 1] == [(0, 3)] * (oracle.SHORT_TRIALS + 1)
    # Then the defaults and the best third go on, and of three of those the defaults.
    assert [rung for rung, _ in seen[oracle.SHORT_TRIALS + 1 :]][:4] == [1, 1, 1, 2]
    assert set(seen) == {(0, 3), (1, 9), (2, 27)}


def test_a_setting_has_what_counts_for_it_and_lies_in_the_space(tmp_path):
    proposed, seen = asks(tmp_path, rungs=(1,)), []
    for _ in range(60):
        values, tell = next(proposed)
        tell(abs(math.log10(values["learning_rate"]) + 3))
        assert 1e-4 <= values["learning_rate"] <= 1e-1 and 0 <= values["dropout"] <= 0.5
        assert values["width"] in (8, 16, 32, 64)
        assert ("depth" in values) == (values["kind"] == "deep")
        seen.append(values)
    assert seen[0]["learning_rate"] == 1e-2 and seen[0]["kind"] == "plain"
    # It comes closer to what was good.
    early, late = (
        statistics.median(abs(math.log10(one["learning_rate"]) + 3) for one in part)
        for part in (seen[:20], seen[-20:])
    )
    assert late < early


def test_where_the_first_rung_has_no_epoch_the_defaults_begin_on_the_last_one(tmp_path):
    proposed, seen = asks(tmp_path, rungs=(0, 2)), []
    for number in range(9):
        values, tell = next(proposed)
        seen.append((values[journal.RUNG], values[journal.EPOCHS]))
        tell(-number)
    assert seen[:4] == [(1, 2), (0, 0), (0, 0), (0, 0)]
    assert seen[4] == (1, 2) and "learning_rate" in values


def test_no_more_than_the_third_of_the_heads_go_on_though_each_is_the_best_so_far(tmp_path):
    proposed, rungs = asks(tmp_path, rungs=(0, 2)), []
    for number in range(60):
        values, tell = next(proposed)
        rungs.append(values[journal.RUNG])
        tell(-number)
    # A head that is proposed again counts, but is not run again.
    assert 12 < sum(rungs) < 20


def test_fine_tuning_is_searched_among_the_settings_that_are_fine_tuned(tmp_path):
    proposed, heads, tuned = asks(tmp_path, rungs=(0, 2)), set(), []
    for number in range(60):
        values, tell = next(proposed)
        setting = hyperparameters.setting(values)
        rate = setting.pop("learning_rate")  # The only one here that a head does not depend on.
        head = tuple(sorted(setting.items()))
        if values[journal.RUNG]:
            tuned.append((head, rate))
        else:
            assert rate == 1e-2
            heads.add(head)
        tell(random.Random(number).random())
    moved = [head for head, _ in tuned[1:]]
    assert len(moved) > 10 and len(set(moved)) == len(moved) and set(moved) <= heads
    assert [rate for _, rate in tuned[:2]] == [1e-2, 1e-2]
    assert len({rate for _, rate in tuned[2:]}) > 5


def regret(tmp_path, algorithm, seed, budget_epochs=120):
    """The distance to the best setting after so many epochs; a short trial shows it with noise."""
    noise, best, spent = random.Random(seed), math.inf, 0
    proposed = asks(tmp_path, algorithm, seed)
    while spent < budget_epochs:
        values, tell = next(proposed)
        epochs = values.get(journal.EPOCHS, 9)
        distance = abs(math.log10(values["learning_rate"]) + 2.7) + abs(values["dropout"] - 0.3)
        distance += (values["kind"] == "deep") + 0.2 * abs(math.log2(values["width"] / 16))
        seen = distance + 1 / epochs + noise.gauss(0, 0.3 / epochs)
        if epochs == 9:
            best = min(best, distance)
        tell(seen)
        spent += epochs
    return best


def test_in_the_same_time_it_finds_better_settings_than_whole_trials_at_random(tmp_path):
    ours, theirs = (
        [regret(tmp_path, algorithm, seed) for seed in range(16)]
        for algorithm in ("priorband", "random")
    )
    assert statistics.mean(ours) < 0.85 * statistics.mean(theirs)
    assert sum(a < b for a, b in zip(ours, theirs, strict=True)) > 9
