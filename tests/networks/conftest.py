import keras
import pytest

from agegender.networks import export


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
