import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from agegender import config
from agegender.networks import export, inspection

ROOT = Path(__file__).parents[2]


def test_export_round_trip(exported):
    original, path = exported
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert export.golden(path)[0] == keras.backend.backend()
    years, probability = export.compare_with_golden(export.load_verified(path), path)
    assert years <= 1e-3 and probability <= 1e-4
    images = np.random.default_rng(1).random((3, 128, 128, 3), "float32")
    # As the contract's readers load it: by Keras alone, with and without compile=False.
    for loaded in (keras.models.load_model(path), export.load_h5(path)):
        assert not loaded.compiled
        for new, old in zip(loaded(images), original(images), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5)


def test_golden_mismatch_is_detected(exported, tmp_path):
    path = tmp_path / "altered.h5"
    for name, difference in (("age", 0.01), ("gender", 0.001)):
        shutil.copy(exported[1], path)
        with h5py.File(path, "a") as file:
            file["golden"][name][3] += difference
        with pytest.raises(inspection.ExportError, match="differs from its golden predictions"):
            export.load_verified(path)
    with h5py.File(path, "a") as file:
        file["golden"].attrs["backend"] = "another"
        file["golden"]["gender"][3] -= 0.0005
    _, probability = export.compare_with_golden(export.load_verified(path), path)
    assert probability == pytest.approx(0.0005, abs=1e-5)
    with h5py.File(path, "a") as file:
        file["model_weights/age/age/bias"][0] = 31.0
    with pytest.raises(inspection.ExportError, match="differs from its golden predictions"):
        export.load_verified(path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"extra": [keras.layers.Lambda(lambda x: x)]}, "Lambda, which is not on the list"),
        ({"stride": 12}, r"before the fully connected layer \w+ is 11 x 11"),
        ({"extra": [keras.layers.UpSampling2D(2), keras.layers.Dense(3)]}, "16 x 16"),
        ({"size": 96}, "input must be float32"),
        ({"outputs": ("gender", "age")}, "layers age and gender, in order"),
        ({"outputs": ("age",)}, "layers age and gender, in order"),
        ({"gender_activation": "tanh"}, "sigmoid"),
        (
            {"extra": [keras.layers.Resizing(8, 8, antialias=True)]},
            "antialias, which Keras 3.6 does not have",
        ),
    ],
)
def test_a_network_off_the_contract_is_refused(arguments, reason, network, tmp_path):
    path = tmp_path / "age_gender_A.h5"
    path.write_bytes(b"the champion before")
    with pytest.raises(inspection.ExportError, match=reason):
        export.export_h5(network(**arguments), path)
    assert path.read_bytes() == b"the champion before"


def test_mirror_averaging_is_part_of_the_exported_network(mirrored):
    original, path = mirrored
    images = np.random.default_rng(1).random((3, 128, 128, 3), "float32")
    both = [original(images), original(images[:, :, ::-1])]
    for loaded in (keras.models.load_model(path), export.load_h5(path)):
        assert loaded.input_shape == (None, 128, 128, 3)
        for new, plain, turned in zip(loaded(images), *both, strict=True):
            assert np.abs(plain - turned).max() > 1e-4
            np.testing.assert_allclose(new, (plain + turned) / 2, atol=1e-5)
    export.load_verified(path)


def test_the_network_inside_a_mirror_keeps_the_contract(network, mirrored, tmp_path):
    for arguments, reason in (
        ({"stride": 12}, "is 11 x 11"),
        ({"gender_activation": "tanh"}, "sigmoid"),
        ({"extra": [keras.layers.Lambda(lambda x: x)]}, "not on the list"),
    ):
        with pytest.raises(inspection.ExportError, match=reason):
            bad = export.with_mirror(network(**arguments))
            export.export_h5(bad, tmp_path / "bad.h5")
    path = shutil.copy(mirrored[1], tmp_path / "altered.h5")
    with h5py.File(path, "a") as file:
        file["model_weights/mirror_image/mirror_image/kernel"][0, 0] = 1
    with pytest.raises(inspection.ExportError, match="mirror_image of .* does not mirror"):
        export.load_h5(path)


def test_a_network_in_mixed_precision_is_exported_in_float32(network, tmp_path):
    path = tmp_path / "network.h5"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = network()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.save(path)
    with pytest.raises(inspection.ExportError, match="float32, not mixed_bfloat16"):
        export.load_h5(path)
    export.export_h5(mixed, path, fresh_process=False)
    loaded = export.load_h5(path)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    for old, new in zip(mixed.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_golden_images_are_the_same_everywhere_and_varied():
    images = export.golden_images()
    assert images.shape == (8, 128, 128, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, export.golden_images())
    assert len({image.tobytes() for image in images}) == 8
    assert images.std(axis=(1, 2)).min() > 5


def environment_with_keras(folder, keras_version, jax_version):
    """Make an environment with these alone; return its Python, or skip where none can be had."""
    python, uv = folder / "bin" / "python", [sys.executable, "-m", "uv"]
    packages = ["h5py", f"keras=={keras_version}.*", f"jax=={jax_version}.*"]
    commands = [
        [*uv, "venv", "--quiet", "--python", sys.executable, folder],
        [*uv, "pip", "install", "--quiet", "--python", python, *packages],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no environment with Keras {keras_version}: {done.stderr[-300:]}")
    return python


# Each with a JAX of its time; the newest Keras is the one that all other tests run on.
VERSIONS = {
    "3.8": "0.5",
    "3.10": "0.6",
    "3.12": "0.7",
    "3.13": "0.8",
    "3.14": "0.9",
    "3.15": "0.10",
}


@pytest.mark.parametrize(
    ("keras_version", "jax_version"),
    [
        pytest.param("3.6", "0.4", marks=pytest.mark.system),
        *(pytest.param(*versions, marks=pytest.mark.slow) for versions in VERSIONS.items()),
    ],
)
def test_older_versions_of_keras_load_what_is_exported(
    keras_version, jax_version, exported, mirrored, tmp_path
):
    python = environment_with_keras(tmp_path / "environment", keras_version, jax_version)
    released = sorted((ROOT / "models").glob("*.h5"))
    assert len(released) == len(config.RELEASES)
    done = subprocess.run(
        [python, "-m", export.__name__, exported[1], mirrored[1], *released],
        cwd=ROOT,
        env={"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert len(done.stdout.splitlines()) == 2 + len(released)
