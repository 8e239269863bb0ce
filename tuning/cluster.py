"""Run trials as tasks of a Ray cluster if RAY_ADDRESS is set; `workers` does this on one host.

The nodes need the packages of requirements.lock and access to the tracking server. They share no
disk: code, faces and backbone weights travel through Ray, checkpoints through MLflow's artifacts.
"""

import dataclasses
import logging
import os
import platform
import socket
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from agegender import config, disk, progress
from agegender.data import pixels
from agegender.registry import provenance, tracking
from tuning import journal, mailbox, workers

ROOT = Path(__file__).parents[1]
NOT_SENT: tuple[str, ...]
NOT_SENT = (".git", ".venv", ".cache", "data", "exports", "mlruns", "predictions", "reports")
NOT_SENT += ("tests", "models/*.*")  # models/backbones is sent
POLL_SECONDS = 1.0
STARTED = ""


class Tasks:
    """Trials on a cluster, each with the CPUs and GPUs that the settings ask for.

    If a task's worker or node dies, Ray restarts the task, up to twice, from the last checkpoint in
    the store. A task that reports nothing for `silent_minutes` is killed. faces and the files in
    the folder `weights` go into Ray's object store once. Raises SearchError if the cluster cannot
    be used.
    """

    def __init__(self, faces: pixels.Faces, weights: Path, settings: config.Settings):
        try:
            import ray  # Needed only with a cluster.
        except ImportError as error:
            raise journal.SearchError(
                "RAY_ADDRESS is set, but Ray is not installed. Run `make test`, which installs "
                "it, or unset RAY_ADDRESS."
            ) from error
        self.ray = ray
        if not ray.is_initialized():
            self._connect(faces, settings)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_store(tracking.current_uri(), {node["NodeManagerHostname"] for node in nodes})
        self.silent_seconds = 60 * settings.silent_minutes
        self.stopping = threading.Event()
        files = [path for path in sorted(weights.glob("*")) if path.is_file()]
        self.weights = ray.put({path.name: path.read_bytes() for path in files})
        # Nodes map a plain array from the store without copying it.
        self.faces = ray.put(dataclasses.replace(faces, pixels=np.asarray(faces.pixels)))
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        # Ray's type annotation only allows strategies by name.
        place = ray.remote(num_cpus=0, scheduling_strategy=here)  # type: ignore[call-overload]
        actor = place(mailbox.Mailbox)
        self.mailbox = actor.remote()
        # A worker serves one trial, so its leaks and its GPU memory are freed when the trial ends.
        self.task = ray.remote(
            num_cpus=settings.trial_cpus,
            num_gpus=settings.trial_gpus,
            max_retries=workers.ATTEMPTS - 1,
            max_calls=1,
        )(_work)

    def _connect(self, faces: pixels.Faces, settings: config.Settings) -> None:
        threads = str(max(1, int(settings.trial_cpus)))
        variables = {
            "AGEGENDER_COMMIT": provenance.tags(faces.digest, faces.kind)["git.commit"],
            "KERAS_BACKEND": keras.backend.backend(),
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "NPROC": threads,  # JAX's name for it
            "TF_NUM_INTRAOP_THREADS": threads,
        }
        if settings.trial_gpus:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * min(1, settings.trial_gpus):.2f}"
        address = os.environ["RAY_ADDRESS"]
        check_address(address)
        try:
            self.ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={
                    "working_dir": str(ROOT),
                    "excludes": [f"/{name}" for name in NOT_SENT],
                    "env_vars": variables,
                },
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise journal.SearchError(
                f"The Ray cluster at RAY_ADDRESS={address} cannot be used: {error}"
            ) from error

    def run(self, function: Callable, arguments: dict[str, Any], report: progress.Report) -> Any:
        """Call function(**arguments, report=...) on a node, as `workers` does; return its result.

        The function gets the faces and a cache of that node. Its "training" is the one in arguments
        with an empty checkpoint folder on the node; the checkpoint is also kept in the store.
        """
        name, starts, heard = arguments["training"].name, 0, None
        task = self.task.remote(function, arguments, self.faces, self.weights, self.mailbox)
        while not self.stopping.is_set():
            done, _ = self.ray.wait([task], timeout=POLL_SECONDS)
            for said in self.ray.get(self.mailbox.take.remote(name)):
                heard = time.monotonic()
                if said != STARTED:
                    report(said)
                    continue
                starts += 1
                if starts > 1:
                    report(f"  {name}: its worker died, attempt {starts} of {workers.ATTEMPTS}.")
            if done:
                return self._result(task)
            # A task that is waiting for a place is not silent.
            if heard and time.monotonic() - heard > self.silent_seconds:
                self.ray.cancel(task, force=True)
                raise workers.TrialError(
                    f"No epoch ended in {self.silent_seconds / 60:.0f} minutes: the trial hangs, "
                    "or its node is too slow."
                )
        self.ray.cancel(task)
        self.ray.wait([task], timeout=workers.PATIENCE_SECONDS)
        self.ray.cancel(task, force=True)
        raise journal.SearchError("Stopped.")

    def stop(self) -> None:
        """End all tasks, giving each one time to record its end in the tracking store."""
        self.stopping.set()

    def _result(self, task: Any) -> Any:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            error.cause.add_note(str(error))
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise workers.TrialError(f"Ray started it {workers.ATTEMPTS} times: {error}") from error


def check_address(address: str) -> None:
    """Raise SearchError if nothing listens at the address: Ray would wait forever."""
    place = urllib.parse.urlsplit(f"//{address.removeprefix('ray://')}")
    try:
        if place.port:
            socket.create_connection((place.hostname, place.port), timeout=10).close()
    except OSError as error:
        raise journal.SearchError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({error}). Start one, or unset it."
        ) from error


def check_store(uri: str, hosts: set[str]) -> None:
    """Raise SearchError if the workers on these hosts cannot reach the tracking store."""
    parts = urllib.parse.urlsplit(uri)
    local = parts.scheme == "sqlite" or parts.hostname in ("localhost", "127.0.0.1", "::1")
    if local and hosts != {platform.node()}:
        raise journal.SearchError(
            f"The cluster has nodes on {', '.join(sorted(hosts))}, but only this host reaches the "
            f"tracking store {uri}. Start a server that all nodes reach (mlflow server --host "
            "0.0.0.0 ...) and set MLFLOW_TRACKING_URI=http://its-name:5000 here."
        )


def _work(
    function: Callable,
    arguments: dict[str, Any],
    faces: pixels.Faces,
    weights: dict[str, bytes],
    messages: Any,
) -> Any:
    """Run on a node: write missing weights, call the function, send its messages."""
    training = arguments["training"]

    def say(said: str | progress.Progress) -> None:
        messages.put.remote(training.name, said)

    say(STARTED)
    # Named after the weights: which ones are available decides what a trial's values mean.
    files = disk.checksum("".join(weights))[:8]
    cache = Path(tempfile.gettempdir(), f"agegender-{provenance.user()}", files)
    cache.mkdir(parents=True, exist_ok=True)
    for name, data in weights.items():
        if not (cache / "weights" / name).exists():
            disk.write(cache / "weights" / name, data)
    # Not in the working directory: that is Ray's copy of the code, which Ray may replace.
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=cache) as folder:
        try:
            training = dataclasses.replace(training, checkpoint=Path(folder), keep_in_store=True)
            changes = {"training": training, "faces": faces, "cache": cache}
            return function(**arguments | changes, report=say)
        except Exception as error:
            # An error loses its cause when it is sent.
            if full := disk.full(error, cache):
                raise journal.SearchError(full) from None
            raise
