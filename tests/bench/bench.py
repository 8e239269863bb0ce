"""Measure speed and compare it with the alternatives: `make bench DATA=...`.

    python -m tests.bench.bench [--data PATH] [--faces 1280] [--repeats 3] [--only NAME ...]

Each measurement runs in its own process, one after another, so that none warms up for the next and
peak memory is that of the whole process. Results are medians of repeats without the first, the
warm-up. Trains on the training split and measures in validation; the test is not used. Writes
bench.json and bench.png to reports/bench/ and prints everything. With --only, the other results
there are kept. Takes about 35 minutes on two cores with the 5,000 faces, and 10 GB of disk while it
measures growth.
"""

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import keras_tuner
import matplotlib
import mlflow
import numpy as np

from agegender import config, disk, hyperparameters
from agegender.data import pixels, splits
from agegender.networks import backbones, backend, batches, export, fit, models, notebook
from agegender.registry import tracking
from agegender.show import figures
from tests.bench import alternatives, levers
from tuning import experiment, families, family_search, spaces

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
# Years and accuracy in validation: the notebook's A, its B, and what B should reach in 3 minutes.
TARGETS = {"A": [(7.48, 0.869)], "B": [(8.19, 0.853), (5.5, 0.925)]}
NOTEBOOK_EPOCHS = {"A": 40, "B": 66}  # as published; they reached the targets


def forward_flops(network: keras.Model) -> int:
    """Return the operations to predict one image, in convolutions and dense layers only."""
    flops = 0
    for layer in network.layers:
        if layer.weights and hasattr(layer, "kernel"):
            positions = math.prod(layer.output.shape[1:-1])
            flops += 2 * positions * math.prod(layer.kernel.shape)
    return flops


def matrix_peak(faces, arguments) -> dict:
    """Multiply float32 matrices of 4096 x 4096: the best that the machine can do."""
    matrix = keras.random.normal((4096, 4096))
    seconds = alternatives.timed(
        lambda: np.asarray(keras.ops.matmul(matrix, matrix)[0, 0]), arguments.repeats
    )
    return {"gigaflops_per_second": 2 * 4096**3 / statistics.median(seconds) / 1e9}


def parts(faces, arguments) -> dict:
    """Measure input, augmentation and a training step of each A, each alone, images/s."""
    rows = faces.rows("train")[: arguments.faces]
    floors = splits.training_floors(faces.manifest)
    examples = batches.Examples(faces.pixels, faces.age_years, faces.gender, rows, rows[:0], floors)
    fed = batches.Batches(examples, rows, ["age", "gender"], 64, seed=0)
    seconds = {
        "input": alternatives.timed(lambda: [fed[n] for n in range(len(fed))], arguments.repeats)
    }
    pictures, targets = fed[0]
    inputs = keras.Input(pictures.shape[1:], dtype="uint8")
    views = keras.Model(inputs, batches.RandomView(seed=0)(inputs, training=True))
    steps = len(fed)
    seconds["augmentation"] = alternatives.timed(
        lambda: [views.predict_on_batch(pictures) for _ in range(steps)], arguments.repeats
    )
    found = {}
    first_trial = levers.scratch()
    for name, network in (("notebook_A", notebook.build_scratch()), ("A", first_trial)):
        network.compile("adam", loss=levers.LOSSES)
        images = (pictures / 255).astype("float32")
        both = [targets["age"], targets["gender"]]

        def step(network=network, images=images, both=both):
            for _ in range(steps):
                network.train_on_batch(images, both)

        seconds[f"network_{name}"] = alternatives.timed(step, arguments.repeats)
        found[f"training_gigaflops_an_image_{name}"] = 3 * forward_flops(network) / 1e9
    images = steps * len(pictures)
    rates = {
        f"{name}_images_per_second": images / statistics.median(values)
        for name, values in seconds.items()
    }
    return found | rates


def ours(faces, arguments) -> dict:
    """Train the same network on the same kinds of views with `fit.fit`."""
    rows = faces.rows("train")[: arguments.faces]
    labels = faces.age_years, faces.gender
    history = fit.fit(
        models.for_training(notebook.build_scratch()),
        batches.Examples(
            faces.pixels, *labels, rows, rows[:0], splits.training_floors(faces.manifest)
        ),
        hyperparameters.Scratch(**spaces.NOTEBOOK_SCRATCH),
        epochs=arguments.repeats + 1,
    )
    return {"images_per_second": len(rows) / history.seconds[1:].median()}


def trial_cost(faces, arguments) -> dict:
    """Run trials of A with `search_family`: what each takes on top of steady training."""
    ends, count, epochs = [], 4, 3
    settings = config.Settings(
        algorithm="random", scratch=config.FamilySettings(count, (epochs,), epochs, 0.2, 0.3)
    )

    def report(said):
        if isinstance(said, str) and said.startswith("  trial "):
            ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracking.connect(folder)
        few = pixels.open_faces(
            pixels.prepare(None, folder / "data", seed=0, generated_faces=arguments.faces)
        )
        family_search.search_family(
            experiment.Job("A", few, settings, folder / "search", CACHE, report=report)
        )
        runs = mlflow.search_runs(
            experiment_names=[experiment.name_of(few)],
            filter_string="tags.role = 'trial'",
            output_format="list",
        )
        client = mlflow.MlflowClient()
        seconds = [
            [m.value for m in client.get_metric_history(run.info.run_id, "epochs/seconds/training")]
            for run in sorted(runs, key=lambda run: run.info.start_time)[1:]
        ]
    walls = np.diff(ends)
    in_epochs = [sum(one) for one in seconds]
    steady = [epochs * min(one) for one in seconds]
    return {
        "overhead_seconds_a_trial": statistics.median(walls - steady),
        "of_it_process_tuning_tracking_seconds": statistics.median(walls - in_epochs),
        "of_it_first_epoch_seconds": statistics.median(np.subtract(in_epochs, steady)),
    }


def result(family: str, faces, arguments, epochs: int, **changes) -> dict:
    """Train the defaults of one network and record when its validation meets the targets."""
    settings = config.Settings(features_gigabytes=math.inf, **changes)
    history = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        (cache / "weights").symlink_to(families.weights(CACHE))
        chosen = families.FAMILIES[family]
        hooks = fit.Hooks(lambda row: history.append((time.monotonic() - started, row)))
        trained = chosen.train(
            chosen.space(keras_tuner.HyperParameters(), settings.tier, cache),
            faces,
            families.Fold(faces.rows("train"), faces.rows("validation")),
            families.Context(settings, cache, epochs, settings.seed, hooks),
        )
    found = {"epochs": epochs, "seconds": time.monotonic() - started} | trained.best_epoch
    for years, accuracy in TARGETS[family]:
        met = [
            seconds
            for seconds, row in history
            if row["val_age_mae"] <= years and row["val_gender_accuracy"] >= accuracy
        ]
        found[f"seconds_to_{years}_{accuracy}"] = min(met, default=None)
    return found


def result_a(faces, arguments) -> dict:
    """Train A's first trial for the length of a final training."""
    return result("A", faces, arguments, arguments.epochs)


def result_b(faces, arguments) -> dict:
    """Train B's first trial: compute activations, train the head, fine-tune for one epoch."""
    return result("B", faces, arguments, 1, views=2)


def start_up(faces, arguments) -> dict:
    """Measure from typing `make tune`, with everything set up, to the start of the first trial."""
    command = [sys.executable, "-m", "pipelines", "tune"]
    command += ["--data", str(arguments.data.resolve())] if arguments.data else []
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ".cache").mkdir()
        for part in (".cache/data", ".cache/weights", "models"):
            (folder / part).symlink_to(ROOT / part)
        for _ in range(arguments.repeats + 1):
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # A trial's process starts by creating the folder for its checkpoint.
            while not list(folder.glob(".cache/searches/*/A/checkpoints/*")):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
                time.sleep(0.02)
            seconds.append(time.perf_counter() - started)
            process.kill()
            process.wait()
            shutil.rmtree(folder / ".cache" / "searches")
    # The first call creates the tracking store.
    return {"seconds_to_the_first_trial": statistics.median(seconds[1:])}


def prediction(faces, arguments) -> dict:
    """Measure the released models: milliseconds for one image, and for each of 64."""
    found = {}
    for path in sorted((ROOT / "models").glob("*.h5")):
        network = export.load_h5(path)
        for count in (1, 64):
            found[f"{path.stem}_batch_{count}_milliseconds_an_image"] = milliseconds(network, count)
    return found


def milliseconds(network: keras.Model, count: int) -> float:
    """Return the milliseconds per image when `count` images are predicted at once."""
    images = export.golden_images(count).astype("float32") / 255
    return (
        1000
        * statistics.median(alternatives.timed(lambda: network.predict_on_batch(images), 20))
        / count
    )


def pretrained(faces, arguments) -> dict:
    """Measure B per available backbone and internal size: parameters, milliseconds per image."""
    found = {}
    for name in backbones.available(families.weights(CACHE)):
        for size in (128, 160, 192):
            backbone = backbones.load(name, 128, families.weights(CACHE), internal_size_pixels=size)
            network = models.build_pretrained(backbone)
            found[f"{name}_{size}_milliseconds"] = milliseconds(network, 1)
        found[f"{name}_parameters"] = network.count_params()
    return found


MEASUREMENTS = (
    *(matrix_peak, parts, *alternatives.MEASUREMENTS, ours, trial_cost, start_up),
    *(prediction, pretrained, *levers.MEASUREMENTS, result_b, result_a),
)


def measure(name: str, arguments) -> dict:
    """Run one measurement in this process; return its results and its peak memory."""
    if name in ("parts", "ours", "prediction", "pretrained", "result_a", "result_b"):
        backend.prepare()  # as every command does, but the alternatives do not
    folder = pixels.prepare(arguments.data, CACHE / "data", seed=0)
    function = next(function for function in MEASUREMENTS if function.__name__ == name)
    found = function(pixels.open_faces(folder), arguments)
    most = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return found | {"peak_gigabytes": most * (1 if sys.platform == "darwin" else 1024) / 1e9}


def derive(found: dict, faces) -> dict:
    """Return ratios of the measurements, with the notebook's times extrapolated."""
    ratios, count = {}, len(faces.rows("train", "validation"))
    rates = {
        name: found[name]["images_per_second"]
        for name in ("notebook_way", "plain_tuner", "ours")
        if name in found
    }
    if "ours" in rates:
        ratios |= {f"ours_to_{n}": rates["ours"] / rate for n, rate in rates.items() if n != "ours"}
    for family, way in (("A", "notebook_way"), ("B", "notebook_b")):
        if way not in found:
            continue
        seconds = NOTEBOOK_EPOCHS[family] * count / found[way]["images_per_second"]
        ratios[f"notebook_{family}_seconds_extrapolated"] = seconds
        years, accuracy = TARGETS[family][0]
        reached = found.get(f"result_{family.lower()}", {}).get(f"seconds_to_{years}_{accuracy}")
        if reached:
            ratios[f"times_sooner_{family}"] = seconds / reached
    if {"matrix_peak", "parts"} <= found.keys():
        for name in ("notebook_A", "A"):
            done = found["parts"][f"training_gigaflops_an_image_{name}"]
            done *= found["parts"][f"network_{name}_images_per_second"]
            peak = found["matrix_peak"]["gigaflops_per_second"]
            ratios[f"share_of_matrix_peak_{name}"] = done / peak
    if {"trial_cost", "result_a"} <= found.keys():
        cost = found["trial_cost"]
        ratios["share_of_a_minute"] = cost["of_it_process_tuning_tracking_seconds"] / 60
        trial_seconds = found["result_a"]["seconds"] / found["result_a"]["epochs"]
        trial_seconds *= config.Settings().scratch.rungs[-1]
        ratios["settings_of_A_an_hour"] = 3600 / (trial_seconds + cost["overhead_seconds_a_trial"])
    return ratios


@matplotlib.rc_context(figures.STYLE)
def draw(found: dict) -> matplotlib.figure.Figure:
    """Draw the images/s in training the notebook's A, and the time to reach its results."""
    figure, (left, right) = figures.blank(10, 3.2, 1, 2)
    names = {
        "notebook_way": "the notebook",
        "plain_tuner": "plain Keras Tuner",
        "ours": "agegender",
    }
    names = {name: title for name, title in names.items() if name in found}
    bars = left.barh(
        [*names.values()],
        [found[name]["images_per_second"] for name in names],
        color=[figures.GREY, figures.GREY, figures.BLUE][-len(names) :],
    )
    left.bar_label(bars, fmt="%.0f", padding=3)
    left.invert_yaxis()
    left.set(title="Training the notebook's A: images/s")
    bars = {}
    for family in "AB":
        years, accuracy = TARGETS[family][0]
        reached = found.get(f"result_{family.lower()}", {}).get(f"seconds_to_{years}_{accuracy}")
        guess = found["ratios"].get(f"notebook_{family}_seconds_extrapolated")
        if reached and guess:
            title = f"{family} to {years} / {accuracy}"
            bars[f"{title},\nthe notebook*"] = guess / 60
            bars[f"{title},\nagegender"] = reached / 60
    drawn = right.barh([*bars], [*bars.values()], color=[figures.GREY, figures.BLUE] * 2)
    right.bar_label(drawn, fmt="%.1f", padding=3)
    right.invert_yaxis()
    right.set(
        xscale="log" if bars else "linear", title="Minutes (* published epochs at its images/s)"
    )
    return figure


def main() -> None:
    """Run the measurements one after another, or a single one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--faces", type=int, default=1280, help="training faces, for rates")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=14, help="of A, to reach its target")
    names = [function.__name__ for function in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.only[0], arguments)))
        return
    faces = pixels.open_faces(pixels.prepare(arguments.data, CACHE / "data", seed=0))
    out = ROOT / "reports" / "bench"
    found = {}
    if arguments.only != names and (out / "bench.json").exists():
        found = json.loads((out / "bench.json").read_text())
    for number, name in enumerate(arguments.only, start=1):
        print(f"{number} of {len(arguments.only)}: {name}", flush=True)
        command = [sys.executable, "-m", "tests.bench.bench", "--here", "--only", name]
        for flag in ("data", "faces", "repeats", "epochs"):
            if getattr(arguments, flag) is not None:
                command += [f"--{flag}", str(getattr(arguments, flag))]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        for key, value in found[name].items():
            print(f"  {key}: {value if value is None else f'{value:.4g}'}", flush=True)
    found["ratios"] = derive(found, faces)
    for key, value in found["ratios"].items():
        print(f"{key}: {value:.3g}")
    found["machine"] = {"cores": os.cpu_count(), "faces": len(faces.manifest), "kind": faces.kind}
    disk.write(out / "bench.json", json.dumps(found, indent=1))
    draw(found).savefig(out / "bench.png")
    print(f"Written: {out}/bench.json and bench.png")


if __name__ == "__main__":
    main()
