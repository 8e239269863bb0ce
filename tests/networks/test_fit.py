"""Training: labels stay with images, same seed same result, views never lose what they need."""

import dataclasses
import time

import keras
import numpy as np
import pandas as pd
import pytest

from agegender import hyperparameters
from agegender.measure import evaluation
from agegender.networks import (
    batches,
    fit,
    losses,
    models,
    predict,
    step,
)


def examples_of(toy, train_rows=range(64), validation_rows=range(64, 96)):
    _, age_years, gender = toy
    rows = (np.array(rows, int) for rows in (train_rows, validation_rows))
    return batches.Examples(*toy, *rows, evaluation.floors(age_years, gender))


def train(
    toy, seed=0, *, epochs=2, validation_rows=range(64, 96), resident=None, taught=None, **changes
):
    """Train a small network; taught: a teacher's answers; changes: hyperparameters or hooks."""
    keras.utils.set_random_seed(seed)
    hooks = {n: changes.pop(n) for n in ("on_epoch", "checkpoint", "stop_at") if n in changes}
    changes = {"batch_size": 16, "brightness": 0.0, "contrast": 0.0, "mixing": 0.0} | changes
    setting = hyperparameters.Scratch(**changes)
    network = models.build_scratch(
        image_size_pixels=32,
        width=8,
        stem_filters=8,
        stages=1,
        extra_block_stage=-1,
        age_head=setting.age_head,
    )
    history = fit.fit(
        models.for_training(network, teacher_width=0 if taught is None else taught.shape[1]),
        dataclasses.replace(examples_of(toy, validation_rows=validation_rows), taught=taught),
        setting,
        epochs=epochs,
        seed=seed,
        hooks=fit.Hooks(**hooks),
        resident=resident,
    )
    return network, history


@pytest.mark.parametrize(
    ("changes", "at_most"),
    [({}, 0.6), ({"age_head": "ordinal", "mixing": 0.4}, 0.9), ({"age_head": "regression"}, 0.6)],
)
def test_learns_what_the_pictures_show(toy, changes, at_most):
    _, history = train(toy, epochs=12, learning_rate=5e-3, **changes)
    assert history.val_score.min() < at_most * history.val_score.iloc[0]
    assert history.age_loss.iloc[-1] < history.age_loss.iloc[0]
    assert list(history.epoch) == list(range(12))


@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_a_teacher_that_knows_better_weighs_against_wrong_labels(toy, mixing, tmp_path):
    pictures, age_years, gender = toy
    ages = np.exp(-0.5 * ((np.arange(models.AGE_BINS) - age_years[:, None]) / 2.5) ** 2)
    answers = np.column_stack([ages / ages.sum(1, keepdims=True), gender, age_years / 25 - 2])
    wrong = pictures, np.where(np.arange(96) < 64, 91 - age_years, age_years), gender
    common = {"epochs": 12, "learning_rate": 5e-3, "mixing": mixing, "gender_weight": 1.0}
    _, alone = train(wrong, **common)
    taught = answers.astype("float32")
    network, history = train(wrong, **common, taught=taught)
    assert history.val_age_mae.iloc[-1] < 0.8 * alone.val_age_mae.iloc[-1]
    # An interrupted training goes on with the layer that predicts the teacher's features.
    common |= {"checkpoint": tmp_path / "checkpoint.npz", "taught": taught}
    _, part = train(wrong, **common, stop_at=0.0)
    again, whole = train(wrong, **common)
    assert len(part) == 1 and list(whole.loss) == list(history.loss)
    for one, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_trainings_with_a_teacher_do_not_share_the_layer_that_predicts_its_features(toy):
    answers = np.random.default_rng(0).random((96, models.AGE_BINS + 4), np.float32)
    examples = dataclasses.replace(examples_of(toy), taught=answers)
    setting = hyperparameters.Scratch(batch_size=16)
    network = models.build_scratch(
        image_size_pixels=32, width=8, stem_filters=8, stages=1, extra_block_stage=-1
    )
    first, kept, losses_of = network.get_weights(), step.Kept(), []
    for _ in range(2):
        network.set_weights(first)
        taught = models.for_training(network, teacher_width=answers.shape[1])
        losses_of.append(list(fit.fit(taught, examples, setting, epochs=1, kept=kept).loss))
    assert losses_of[0] == losses_of[1]


FOUR_EPOCHS = {"epochs": 4, "learning_rate": 5e-3, "schedule": "constant"}


@pytest.fixture(scope="module")
def opposite(toy):
    """The toy with the opposite labels in validation, where an early epoch is then the best."""
    pictures, age_years, gender = toy
    held_out = np.arange(96) >= 64
    return pictures, np.where(held_out, 91 - age_years, age_years), np.abs(held_out - gender)


@pytest.fixture(scope="module")
def validated(opposite):
    """A training that nothing interrupts: network, history and the rows that its hook got."""
    rows = []
    return *train(opposite, **FOUR_EPOCHS, on_epoch=rows.append), rows


@pytest.fixture(scope="module")
def unvalidated(opposite):
    """The same without validation: network and history."""
    return train(opposite, **FOUR_EPOCHS, validation_rows=())


def test_another_seed_gives_other_weights(opposite, unvalidated):
    other, _ = train(opposite, 1, **FOUR_EPOCHS, validation_rows=())
    pairs = zip(unvalidated[0].get_weights(), other.get_weights(), strict=True)
    assert not all(np.array_equal(*pair) for pair in pairs)


def test_the_best_epoch_is_what_is_left(opposite, validated):
    network, history, rows = validated
    pictures, age_years, gender = opposite
    age, probability = predict.predict(network, pictures, np.arange(64, 96))
    assert history.val_score.idxmin() < 3
    best = history.loc[history.val_score.idxmin()]
    assert np.abs(age - age_years[64:]).mean() == pytest.approx(best.val_age_mae, rel=1e-3)
    assert ((probability > 0.5) == gender[64:]).mean() == pytest.approx(best.val_gender_accuracy)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


def test_without_validation_the_last_epoch_is_what_is_left(opposite, validated, unvalidated):
    network, history = unvalidated
    assert not any(name.startswith("val_") for name in history)
    np.testing.assert_allclose(history.loss, validated[1].loss, rtol=1e-5)
    age, _ = predict.predict(network, opposite[0], np.arange(64, 96))
    error = np.abs(age - opposite[1][64:]).mean()
    assert error == pytest.approx(validated[1].val_age_mae.iloc[-1], rel=1e-3)


def test_time_ends_a_training_after_its_epoch(toy):
    _, history = train(toy, epochs=50, stop_at=time.monotonic())
    assert len(history) == 1


def test_a_diverged_training_says_so(toy):
    with pytest.raises(fit.TrainingDivergedError, match="Lower the learning rate"):
        train(toy, optimizer="sgd", learning_rate=1e12, age_loss="mse", epochs=3)


class Killed(BaseException):
    pass


def kill_after(epoch):
    def on_epoch(row):
        if row["epoch"] >= epoch:
            raise Killed

    return on_epoch


@pytest.mark.parametrize(
    ("uninterrupted", "validation_rows", "kills"),
    [("validated", range(64, 96), (0, 2)), ("unvalidated", (), (1,))],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    opposite, request, tmp_path, uninterrupted, validation_rows, kills
):
    network, history, *_ = request.getfixturevalue(uninterrupted)
    arguments = FOUR_EPOCHS | {"validation_rows": validation_rows}
    path = tmp_path / "folder" / "checkpoint.npz"
    for epoch in kills:
        with pytest.raises(Killed):
            train(opposite, **arguments, checkpoint=path, on_epoch=kill_after(epoch))
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    for _ in range(2):  # The second finds it finished.
        rows = []
        parts, joined = train(opposite, **arguments, checkpoint=path, on_epoch=rows.append)
        assert [row["epoch"] for row in rows] == list(range(4))
        for one, other in zip(network.get_weights(), parts.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        timing = ["seconds", "images_per_second"]
        pd.testing.assert_frame_equal(history.drop(columns=timing), joined.drop(columns=timing))


@pytest.mark.system
@pytest.mark.parametrize("mixing", [0.0, 0.4])
def test_pictures_that_stay_on_the_device_train_the_same(toy, tmp_path, monkeypatch, mixing):
    monkeypatch.setattr(step, "STEPS_PER_EXECUTION", 3)  # of 4 an epoch
    arguments = {"epochs": 3, "brightness": 0.2, "contrast": 0.3, "erasing": 0.5, "mixing": mixing}
    network, history = train(toy, **arguments, resident=False)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train(toy, **arguments, resident=True, checkpoint=path, on_epoch=kill_after(1))
    with np.load(path) as file:
        assert not any(array.shape == toy[0].shape for array in file.values())
    resident, joined = train(toy, **arguments, resident=True, checkpoint=path)
    measured = [name for name in history if "second" not in name]
    np.testing.assert_allclose(joined[measured], history[measured], rtol=1e-4)
    for kept, sent in zip(resident.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(kept, sent, rtol=1e-3, atol=1e-5)


def train_head(validated, **hooks):
    """Train the head of a network on vectors, three views of each face; return weights, history."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(72, 3, 8)).astype("float32")
    age_years = generator.uniform(1, 90, 72).astype("float32")
    gender = (vectors[:, 0, 0] > 0).astype("float32")
    rows = np.arange(56), np.arange(56, 72 if validated else 56)
    floors = evaluation.floors(age_years, gender)
    keras.utils.set_random_seed(0)
    image = keras.Input((8,))
    network = keras.Model(image, models.head(image))
    history = fit.fit(
        models.for_training(network),
        batches.Examples(vectors, age_years, gender, *rows, floors),
        hyperparameters.Scratch(batch_size=16),  # The last batch of an epoch is half full.
        epochs=3,
        hooks=fit.Hooks(**hooks),
    )
    return network.get_weights(), history[[name for name in history if "second" not in name]]


@pytest.mark.parametrize("validated", [True, False])
def test_a_head_that_is_fed_whole_epochs_trains_as_if_fed_batches(monkeypatch, validated):
    weights, history = train_head(validated)
    monkeypatch.setattr(step, "takes_vectors", lambda network: False)
    others, expected = train_head(validated)
    pd.testing.assert_frame_equal(history, expected, rtol=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_an_interrupted_head_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "HEAD_SECONDS", 0.0)
    weights, history = train_head(True)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train_head(True, checkpoint=path, on_epoch=kill_after(1))
    others, joined = train_head(True, checkpoint=path)
    pd.testing.assert_frame_equal(history, joined, check_exact=True)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_head_trained_in_a_second_writes_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "HEAD_SECONDS", 60.0)
    train_head(True, checkpoint=tmp_path / "checkpoint.npz")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_torn_or_of_another_training_is_named(toy, tmp_path):
    path = tmp_path / "checkpoint.npz"
    train(toy, epochs=1, checkpoint=path)
    with pytest.raises(fit.CheckpointError, match=r"checkpoint.npz was left by another"):
        train(toy, epochs=1, checkpoint=path, learning_rate=0.1)
    whole = path.read_bytes()
    for torn in (whole[:-100], whole[:50], b"", b"foreign"):
        path.write_bytes(torn)
        with pytest.raises(fit.CheckpointError, match=r"Remove .*checkpoint.npz"):
            train(toy, epochs=1, checkpoint=path)


def test_views_change_pictures_only_in_training_and_by_their_strengths(toy):
    pictures, plain = toy[0][:8], toy[0][:8] / np.float32(255)
    view = batches.RandomView(erasing=1.0)
    np.testing.assert_allclose(view(pictures), plain, rtol=1e-6)
    seen = np.asarray(view(pictures, training=True))
    assert seen.shape == plain.shape and seen.min() >= 0 and seen.max() <= 1
    assert np.abs(seen - plain).mean() > 0.02
    off = dict.fromkeys(("rotation", "zoom", "shift", "brightness", "contrast"), 0.0)
    seen = np.asarray(batches.RandomView(**off)(pictures, training=True))
    for face, original in zip(seen, plain, strict=True):  # Only mirrored, if at all.
        errors = [np.abs(face - view).max() for view in (original, original[:, ::-1])]
        assert min(errors) < 1e-3


def test_batches_hold_every_row_once_with_its_own_labels():
    inputs = np.arange(50)[:, None] * np.ones((1, 3))
    labels = np.arange(50, dtype="float32")
    rows = np.arange(5, 45)
    examples = batches.Examples(inputs, labels, labels, rows, rows, None)
    fed = batches.Batches(examples, rows, ["age", "gender"], 16, seed=1)
    orders = []
    for _ in range(2):
        parts = [fed[index] for index in range(len(fed))]
        seen = np.concatenate([part[0][:, 0] for part in parts])
        assert np.array_equal(np.sort(seen), rows)
        assert np.array_equal(seen, np.concatenate([part[1]["age"][:, 0] for part in parts]))
        orders.append(seen)
        fed.next_epoch()
    assert not np.array_equal(*orders)


def test_mixed_pictures_are_the_means_of_two_with_both_labels(toy):
    pictures, age_years, gender = toy
    examples, rows = examples_of(toy), np.arange(64)
    fed = batches.Batches(examples, rows, ["age", "gender"], 16, seed=0, mixing=0.4)
    inputs, labels = fed[1]
    first = fed.order[16:32]
    own, other, share = labels["age"].T
    np.testing.assert_array_equal(own, age_years[first])
    np.testing.assert_array_equal(labels["gender"][:, 0], gender[first])
    assert share.min() >= 0.5 and share.max() <= 1 and len(set(share)) == 16
    second = [int(np.flatnonzero(age_years == age)[0]) for age in other]
    assert set(second) <= set(range(64)) and second != list(first)
    expected = share[:, None, None, None] * pictures[first]
    expected += (1 - share)[:, None, None, None] * pictures[second]
    np.testing.assert_allclose(inputs, expected, atol=0.51)
    plain, whole = batches.Batches(examples, rows, ["age"], 16, mixing=0.4)[0]
    np.testing.assert_array_equal(plain, pictures[:16])
    np.testing.assert_array_equal(whole["age"][:, 2], 1)


def test_the_loss_of_a_mixed_picture_is_shared():
    labels = np.array([[20.0, 60.0, 0.75]], "float32")
    loss = losses.mixed(losses.AGE_LOSSES["mae"])(labels, np.array([[30.0]], "float32"))
    assert float(loss[0]) == pytest.approx((0.75 * 10 + 0.25 * 30) / 20)
