import keras
import numpy as np
import pytest

from agegender.networks import export


@pytest.fixture(scope="module")
def toy():
    """Pictures whose mean brightness is the age and whose redness is the gender."""
    generator = np.random.default_rng(0)
    age_years = generator.uniform(1, 90, 96).astype("float32")
    gender = generator.integers(0, 2, 96).astype("float32")
    pictures = generator.normal(0, 8, (96, 32, 32, 3)) + 60 + age_years[:, None, None, None]
    pictures[..., 0] += 60 * gender[:, None, None]
    return np.clip(pictures, 0, 255).astype("uint8"), age_years, gender


def build(*, size=128, stride=16, extra=(), outputs=("age", "gender"), gender_activation="sigmoid"):
    images = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(2.0, [-1.0, -0.9, -1.1])(images)
    x = keras.layers.Conv2D(4, 3, stride, "same")(x)
    x = keras.layers.BatchNormalization()(x)
    for layer in extra:
        x = layer(x)
    x = keras.layers.Dense(8, "relu")(keras.layers.GlobalAveragePooling2D()(x))
    age = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(30.0), name="age")(x)
    gender = keras.layers.Dense(1, gender_activation, name="gender")(x)
    heads = {"age": age, "gender": gender}
    return keras.Model(images, [heads[name] for name in outputs])


@pytest.fixture
def network():
    """A function that builds a small network; without arguments it keeps the .h5 contract."""
    return build


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A network and the file that it was exported to."""
    path = tmp_path_factory.mktemp("exports") / "new" / "age_gender_A.h5"
    original = build()
    original.compile("adam", ["mae", "binary_crossentropy"])
    # tests/test_miniature.py verifies its exports in fresh processes.
    export.export_h5(original, path, fresh_process=False)
    return original, path


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory):
    """A network and the file of its mean over mirror images."""
    path = tmp_path_factory.mktemp("mirrored") / "age_gender_B.h5"
    original = build()
    export.export_h5(export.with_mirror(original), path, fresh_process=False)
    return original, path
