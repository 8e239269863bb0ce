import contextlib
import socket
import threading

import keras
import numpy as np
import PIL.Image
import pytest
import uvicorn

from agegender.data import generated_faces
from agegender.photos import detection, estimate, service


@pytest.fixture(scope="session")
def coloured_model():
    """A function that makes a model that sees colours alone.

    The age in years is 100 times a face's mean red, the gender its mean green; both in [0, 1].
    """

    def call(name, confidence=0.75):
        image = keras.Input((128, 128, 3))
        mean = keras.layers.GlobalAveragePooling2D()(image)
        layers = [keras.layers.Dense(1, use_bias=False) for _ in range(2)]
        network = keras.Model(image, [layer(mean) for layer in layers])
        for layer, weights in zip(layers, ([100, 0, 0], [0, 1, 0]), strict=True):
            layer.set_weights([np.reshape(weights, (3, 1)).astype("float32")])
        intervals = {"coverage": 0.9, "edges": [40.0], "half_widths_years": [5.0, 10.0]}
        return estimate.Model(f"age-gender-{name} version 1", network, intervals, confidence)

    return call


@pytest.fixture(scope="session")
def models(coloured_model):
    return {name: coloured_model(name) for name in "AB"}


@pytest.fixture(scope="session")
def detector():
    return detection.load_detector()


@pytest.fixture(scope="session")
def face():
    """A function that draws a face, 192 x 192; the detector finds the seeds 13, 16 and 19."""

    def call(seed):
        generator = np.random.default_rng(seed)
        return PIL.Image.fromarray(
            generated_faces.draw_face(5 + 2 * seed, seed % 2, seed % 5, generator, 192)
        )

    return call


@pytest.fixture(scope="session")
def drawn(face):
    """A function that makes a photo of drawn faces, from left to right ever smaller."""

    def call(*seeds):
        photo = PIL.Image.new("RGB", (max(450 * len(seeds), 450), 400), (120, 125, 130))
        for number, seed in enumerate(seeds):
            side = 240 - 48 * number
            photo.paste(face(seed).resize((side, side)), (40 + 430 * number, 60))
        return photo

    return call


@pytest.fixture(scope="session")
def serving():
    """A function that serves an application in a thread and yields its port of 127.0.0.1."""

    @contextlib.contextmanager
    def call(application):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            yield listener.getsockname()[1]
            server.should_exit = True
            thread.join()

    return call


@pytest.fixture(scope="module")
def port(serving, detector, models):
    """The port of 127.0.0.1 where the application answers."""
    with serving(service.application(detector, models)) as port:
        yield port
