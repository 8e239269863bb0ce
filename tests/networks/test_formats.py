"""What is converted answers as the .h5 does, in a runtime of its own."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest

from agegender.networks import export, formats, models


@pytest.fixture(scope="module")
def h5(tmp_path_factory):
    """A small network of ours that averages over the mirror image."""
    keras.utils.set_random_seed(0)
    network = export.with_mirror(models.build_scratch(width=8, stages=3))
    path = tmp_path_factory.mktemp("formats") / "age_gender_A.h5"
    export.export_h5(network, path, fresh_process=False)
    return path


def ready(name):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras exports these with TensorFlow")
    for module in formats.FORMATS[name].needs:
        pytest.importorskip(module)


@pytest.mark.system
@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_answers_for_any_number_of_faces_without_keras(h5, tmp_path, name):
    ready(name)
    path = formats.convert(h5, tmp_path, name)
    assert path == tmp_path / f"age_gender_A{formats.FORMATS[name].ending}"
    assert list(tmp_path.iterdir()) == [path]
    images = export.golden_images(5, seed=1).astype("float32") / 255
    expected = export.load_h5(h5)(images, training=False)
    tolerances = export.OTHER_BACKEND_TOLERANCE
    found = formats.answers(path, images, name)
    for one, other, tolerance in zip(found, expected, tolerances, strict=True):
        assert one.shape == (5, 1)
        assert np.abs(one - keras.ops.convert_to_numpy(other)).max() <= tolerance


@pytest.mark.system
def test_a_file_that_answers_otherwise_is_not_handed_over(h5, tmp_path):
    ready("saved_model")
    other = tmp_path / "other.h5"
    other.write_bytes(h5.read_bytes())
    with h5py.File(other, "a") as file:
        file["golden/age"][:] += 0.1
    with pytest.raises(ValueError, match="differs from its golden predictions"):
        formats.convert(other, tmp_path / "to", "saved_model")
    assert list(tmp_path.iterdir()) == [other]


def test_missing_packages_and_a_folder_in_use_are_one_line(h5, tmp_path, monkeypatch):
    lacking = dataclasses.replace(formats.FORMATS["onnx"], needs=("no_such_runtime",))
    monkeypatch.setitem(formats.FORMATS, "onnx", lacking)
    with pytest.raises(ValueError, match="FORMAT=onnx needs no-such-runtime: install the extra"):
        formats.check("onnx")
    ready("saved_model")
    (tmp_path / "age_gender_A").mkdir()
    with pytest.raises(ValueError, match="age_gender_A exists"):
        formats.convert(h5, tmp_path, "saved_model")
