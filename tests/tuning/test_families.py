"""The families: what a teacher may know, how a backbone is built."""

import dataclasses

import keras
import numpy as np
import pytest

from agegender import config
from agegender.networks import models
from tuning import families


@pytest.mark.system
def test_a_teacher_answers_for_faces_that_it_has_not_seen(drawn_faces, root):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 2, len(drawn_faces.manifest)).astype("float32")
    faces = dataclasses.replace(
        drawn_faces, manifest=drawn_faces.manifest.assign(gender=noise.astype(int))
    )
    rows = faces.rows("train")[:200]
    settings = dataclasses.replace(config.Settings(), views=2, head_epochs=60)
    context = families.Context(settings, root, epochs=3, seed=0)
    answers = families.teach(faces, rows, "faceres_deep", context)
    assert not np.delete(answers, rows, axis=0).any()
    np.testing.assert_allclose(answers[rows, : models.AGE_BINS].sum(1), 1, atol=1e-4)
    # It learns the noise by heart where it sees it.
    fold = families.Fold(rows, rows)
    b = families.FAMILIES["B"]
    setting = b.from_values(families.defaults(b, root) | {"backbone": "faceres_deep"})
    seen = b.train(setting, faces, fold, dataclasses.replace(context, epochs=0)).best_epoch
    assert seen["val_gender_accuracy"] > 0.9
    # By chance, but for the choice of an epoch.
    assert np.mean((answers[rows, models.AGE_BINS] > 0.5) == noise[rows]) < 0.75


def test_a_folded_backbone_is_unfolded_where_a_gpu_computes_in_bfloat16(drawn_faces, tmp_path):
    b = families.FAMILIES["B"]
    setting = b.from_values(families.defaults(b, tmp_path) | {"backbone": "faceres_deep"})
    whole = b._build(setting, drawn_faces, tmp_path)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = b._build(setting, drawn_faces, tmp_path)
    finally:
        keras.config.set_dtype_policy(policy)
    assert half.get_layer("conv1").compute_dtype == "bfloat16"
    convolutions = [layer.name for layer in whole.layers if layer.name.startswith("conv")]
    for name in convolutions:
        pairs = zip(*(net.get_layer(name).get_weights() for net in (whole, half)), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_a_setting_is_read_back_from_a_run_unless_its_choice_is_gone(tmp_path):
    space = families.searched_space(families.FAMILIES["B"], "full", tmp_path)
    params = {"age_units": "512", "trunk_dropout": "0.25", "views": "fresh"}
    read = {"age_units": 512, "trunk_dropout": 0.25, "views": "fresh"}
    assert families.typed(space, params) == dict(space.values) | read
    assert families.typed(space, params | {"backbone": "faceres_mobilenet"}) is None
