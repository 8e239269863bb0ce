import keras
import pytest


@pytest.fixture(scope="session")
def network():
    """A network with the inputs and outputs of the .h5 contract, and no sense."""
    keras.utils.set_random_seed(0)
    image = keras.Input((128, 128, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    age = keras.layers.Dense(1, name="age")(pooled)
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender")(pooled)
    return keras.Model(image, [age, gender])


@pytest.fixture(scope="session")
def network_h5(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "age_gender_A.h5"
    keras.saving.save_model(network, path)
    return path
