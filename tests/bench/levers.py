"""The effect of each lever on speed, and how cost grows with the data; for `make bench`."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import keras
import keras_tuner
import numpy as np

from agegender import config
from agegender.data import splits
from agegender.measure import evaluation
from agegender.networks import backbones, backend, batches, fit, models
from agegender.registry import tracking
from tuning import experiment, families, spaces

IMAGES = (1_000, 10_000, 100_000, 200_000)
TRIALS = (10, 100, 1_000)
HEADS = 20
LOSSES = ["mse", "binary_crossentropy"]


def step_rate(network: keras.Model, count: int, repeats: int, **how) -> float:
    """Return images/s of training steps on `count` random inputs, without the first two steps."""
    network.compile("adam", loss=LOSSES, **how)
    inputs = np.random.default_rng(0).random((count, *network.input.shape[1:]), np.float32)
    labels = [np.zeros((count, 1), np.float32)] * 2
    seconds = []
    for _ in range(2 + max(repeats, 3)):
        started = time.perf_counter()
        network.train_on_batch(inputs, labels)
        seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds[2:])


def scratch(image_size_pixels: int = 128, **changes) -> keras.Model:
    """Build A's defaults with `changes`."""
    setting = spaces.scratch(keras_tuner.HyperParameters(), "short")
    return models.build_scratch(image_size_pixels=image_size_pixels, **setting.layers | changes)


def levers_a(faces, arguments) -> dict:
    """Measure a step of A's first trial with one thing changed at a time, images/s."""
    backend.prepare()
    found = {
        f"{title}_images_per_second": step_rate(scratch(**changes), count, arguments.repeats, **how)
        for title, changes, count, how in (
            ("default", {}, 64, {}),
            ("batch_32", {}, 32, {}),
            ("batch_128", {}, 128, {}),
            ("at_64_pixels", {"internal_size_pixels": 64}, 64, {}),
            ("at_128_pixels", {"internal_size_pixels": 128}, 64, {}),
            ("stem_of_16", {"stem_filters": 16}, 64, {}),
            ("width_24", {"width": 24}, 64, {}),
        )
    }
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    found["bfloat16_images_per_second"] = step_rate(scratch(), 64, arguments.repeats)
    return found


def one_thread(faces, arguments) -> dict:
    """Measure the same step with one thread: two such processes share two cores."""
    if keras.backend.backend() != "tensorflow":
        return {}
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    backend.prepare()
    return {"images_per_second": step_rate(scratch(), 64, arguments.repeats)}


def compiled_by_xla(faces, arguments) -> dict:
    """Measure the same step compiled by XLA, which Keras would choose without determinism."""
    rate = step_rate(scratch(), 64, arguments.repeats, jit_compile=True)
    return {"images_per_second": rate}


def levers_b(faces, arguments) -> dict:
    """Measure a step of B from pixels and from the activations cached at each cut, images/s."""
    backend.prepare()
    weights = families.weights(faces.folder.parents[1])
    name = backbones.available(weights)[0]
    found = {}
    for share in (None, config.Settings().cut_share, 0.5, 1.0):
        backbone = backbones.load(name, 128, weights, internal_size_pixels=160)
        network = models.build_pretrained(backbone)
        cuts = backbones.BACKBONES[name].cut_layers
        if share is None:
            title, inputs = "pixels", network.input
        elif share < 1:
            title = f"cut_at_{share}"
            inputs = network.get_layer(cuts[round(share * len(cuts))]).output
        else:
            title, inputs = "features", network.get_layer("features").output
        part = keras.Model(inputs, network.outputs)
        found[f"{title}_images_per_second"] = step_rate(part, 64, arguments.repeats)
    return found


def growth_of_images(faces, arguments) -> dict:
    """Draw random batches from more and more images: the faces, repeated in one mapped file."""
    found, size = {}, faces.pixels.shape[1:]
    for count in IMAGES:
        with tempfile.TemporaryDirectory(dir=faces.folder.parent) as folder:
            with open(f"{folder}/pixels", "wb") as file:
                for first in range(0, count, len(faces.pixels)):
                    file.write(faces.pixels[: count - first].tobytes())
            pixels = np.memmap(f"{folder}/pixels", np.uint8, "r", shape=(count, *size))
            labels = np.zeros(count, np.float32)
            rows, floors = np.arange(count), evaluation.Floors(1.0, 1.0)  # never used
            examples = batches.Examples(pixels, labels, labels, rows, rows[:0], floors)
            fed = batches.Batches(examples, rows, ["age", "gender"], 64, seed=0)
            steps, started = min(len(fed), 400), time.perf_counter()
            for step in range(steps):
                fed[step]
            seconds = time.perf_counter() - started
            found[f"input_of_{count}_images_per_second"] = min(64 * steps, count) / seconds
            status = Path("/proc/self/status")  # on Linux
            if status.exists():
                kilobytes = int(status.read_text().split("RssAnon:")[1].split()[0])
                found[f"input_of_{count}_memory_gigabytes"] = kilobytes * 1024 / 1e9
            del pixels, examples, fed
    return found


def growth_of_trials(faces, arguments) -> dict:
    """Measure what tracking a trial of four epochs costs as the store grows."""
    params = {f"hyperparameter_{number}": 0.1 * number for number in range(10)}
    metrics = [f"{prefix}{name}" for prefix in ("", "val_") for name in fit.METRICS]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        tracking.connect(Path(folder))
        with tracking.run("search", experiment="growth") as parent_run_id:
            for number in range(TRIALS[-1]):
                started = time.perf_counter()
                with tracking.run(
                    f"trial {number}",
                    experiment="growth",
                    parent_run_id=parent_run_id,
                    params=params,
                ) as run_id:
                    for epoch in range(4):
                        tracking.log_epoch(run_id, dict.fromkeys(metrics, 0.5) | {"epoch": epoch})
                seconds.append(time.perf_counter() - started)
    return {
        f"tracking_of_trial_{count}_milliseconds": 1000
        * statistics.median(seconds[count - 10 :][:10])
        for count in TRIALS
    }


def tracked_heads(faces, arguments) -> dict:
    """Train heads of B as a search does and, in turns, without run and checkpoint; seconds each."""
    backend.prepare()
    seconds: dict[str, list[float]] = {"with_tracking": [], "without": []}
    with tempfile.TemporaryDirectory(dir=faces.folder.parent) as name:
        folder, settings = Path(name), config.Settings()
        cache, chosen = folder / "cache", families.FAMILIES["B"]
        context = families.Context(settings, cache, 0, 0)
        cache.mkdir()
        (cache / "weights").symlink_to(families.weights(faces.folder.parents[1]))
        tracking.connect(folder)
        job = experiment.Job("B", faces, settings, folder, cache, report=lambda said: None)
        values = families.searched_space(chosen, settings.tier, cache).values
        names, _ = families.searched(chosen, settings.tier, cache)
        shown = {name: values[name] for name in names}
        (rows,) = splits.folds(faces.manifest, 1, 0)
        with tracking.run("search", experiment=experiment.name_of(faces)) as parent:
            for number in range(HEADS + 2):
                started = time.perf_counter()
                training = experiment.Training(
                    values, 0, 0, f"B {number}", "trial", number, parent, shown, folder / "c"
                )
                experiment.train_and_log(job, training, rows, context.kept)
                shutil.rmtree(folder / "c")
                seconds["with_tracking"].append(time.perf_counter() - started)
                started = time.perf_counter()
                chosen.train(chosen.from_values(values), faces, families.Fold(*rows), context)
                seconds["without"].append(time.perf_counter() - started)
    return {f"head_{way}_seconds": statistics.median(each[2:]) for way, each in seconds.items()}


def growth_of_image_size(faces, arguments) -> dict:
    """Measure a step of A on images of other sizes, images/s."""
    backend.prepare()
    return {
        f"network_at_{size}_images_per_second": step_rate(
            scratch(size, internal_size_pixels=size, stages=stages), 64, arguments.repeats
        )
        for size, stages in ((64, 4), (128, 4), (192, 5), (256, 5))
    }


MEASUREMENTS = (
    *(levers_a, one_thread, compiled_by_xla, levers_b),
    *(tracked_heads, growth_of_images, growth_of_trials, growth_of_image_size),
)
