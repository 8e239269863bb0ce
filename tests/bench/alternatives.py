"""Alternatives that `make bench` compares with: the notebook's generator, plain Keras Tuner.

Everything is compiled without XLA, which halves the speed on a CPU.
"""

import statistics
import tempfile
import time

import keras
import keras_tuner
import numpy as np
from PIL import Image

from agegender.networks import notebook
from tests.bench import levers


def timed(call, repeats: int) -> list[float]:
    """Return the seconds of each call after the first."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


class EpochClock(keras.callbacks.Callback):
    """Records the seconds of each epoch over several calls of fit."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.started)


def notebook_way(faces, arguments) -> dict:
    """Train the notebook's A with Keras' ImageDataGenerator on decoded pictures in memory."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    rows = faces.rows("train")[: arguments.faces]
    flow = ImageDataGenerator(
        rotation_range=20, width_shift_range=0.1, height_shift_range=0.1, horizontal_flip=True
    ).flow(
        faces.pixels[rows].astype("float32") / 255,
        np.stack([faces.age_years[rows], faces.gender[rows]], axis=1),
        batch_size=32,
        seed=0,
    )
    clock = EpochClock()
    network = notebook.build_scratch()
    network.compile(keras.optimizers.Adam(1e-3), loss=levers.LOSSES, jit_compile=False)
    network.fit(
        ((x, (y[:, :1], y[:, 1:])) for x, y in flow),
        steps_per_epoch=len(flow),
        epochs=arguments.repeats + 1,
        callbacks=[clock],
        verbose=0,
    )
    return {"images_per_second": len(rows) / statistics.median(clock.seconds[1:])}


def notebook_b(faces, arguments) -> dict:
    """Run the forward pass of the notebook's VGG16, which it repeats each epoch; random weights."""
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(128, 128, 3))
    images = faces.pixels[faces.rows("train")[:32]].astype("float32") / 255
    seconds = timed(lambda: network.predict_on_batch(images), arguments.repeats)
    return {"images_per_second": len(images) / statistics.median(seconds)}


def plain_tuner(faces, arguments) -> dict:
    """Tune the notebook's A as in Keras Tuner's guide: tf.data decodes the files each epoch."""
    import tensorflow as tf

    rows = faces.rows("train")[: arguments.faces]
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{row}.jpg" for row in rows]
        for path, row in zip(paths, rows, strict=True):
            Image.fromarray(faces.pixels[row]).save(path, quality=95)
        augment = keras.Sequential(
            [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomRotation(20 / 360),
                keras.layers.RandomTranslation(0.1, 0.1),
            ]
        )

        def decode(path, labels):
            picture = tf.io.decode_jpeg(tf.io.read_file(path), 3)
            return tf.cast(picture, tf.float32) / 255, labels

        labels = (faces.age_years[rows][:, None], faces.gender[rows][:, None])
        dataset = (
            tf.data.Dataset.from_tensor_slices((paths, labels))
            .shuffle(len(paths))
            .map(decode, tf.data.AUTOTUNE)
            .batch(32)
            .map(lambda x, y: (augment(x, training=True), y), tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )

        def build(hp):
            network = notebook.build_scratch()
            rate = hp.Float("learning_rate", 3e-4, 3e-3, sampling="log")
            network.compile(keras.optimizers.Adam(rate), loss=levers.LOSSES, jit_compile=False)
            return network

        tuner = keras_tuner.RandomSearch(
            build, objective="loss", max_trials=2, seed=1, directory=folder
        )
        clock, started = EpochClock(), time.perf_counter()
        # The tuner copies callbacks for each trial; this one must be shared.
        EpochClock.__deepcopy__ = lambda self, memo: self
        tuner.search(dataset, epochs=arguments.repeats + 1, callbacks=[clock], verbose=0)
        seconds = time.perf_counter() - started
    epochs = arguments.repeats + 1
    steady = statistics.median(clock.seconds[1:epochs] + clock.seconds[epochs + 1 :])
    return {
        "images_per_second": len(rows) / steady,
        "overhead_seconds_a_trial": seconds / 2 - epochs * steady,
    }


MEASUREMENTS = (notebook_way, plain_tuner, notebook_b)
