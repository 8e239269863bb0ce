"""Run functions in other processes, so that leaks and crashes end with those processes.

The processes are forked from one that has imported everything and computed nothing, so trials spend
no time on imports. If forking is not safe (macOS), each process imports for itself.
"""

import contextlib
import dataclasses
import math
import multiprocessing.connection
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agegender import disk, progress
from tuning import fork_server, journal

ATTEMPTS = 3
MOST_SERVED = 50
MOST_GROWTH_BYTES = 2 * 2**30
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 20


@dataclasses.dataclass
class _Worker:
    """A process, the pipe to it, its calls so far, and its memory in bytes after the first."""

    process: Any
    connection: Any
    served: int = 0
    first_memory: int = 0

    def needs_replacing(self, memory: int) -> bool:
        """Count a trial; return whether the next one should get a new process."""
        self.served += 1
        self.first_memory = self.first_memory or memory
        return self.served >= MOST_SERVED or memory > self.first_memory + MOST_GROWTH_BYTES


class Processes:
    """At most `count` processes at once, each with its share of the cores and of the GPUs.

    A process serves many calls, so that the next one can reuse what one has built and traced. It is
    replaced after MOST_SERVED calls, when its memory has grown, and after a failed call. If it
    dies, it is replaced and its call is repeated, up to twice. A process that reports nothing for
    `silent_seconds` is killed.
    """

    def __init__(self, count: int, silent_seconds: float):
        self.context = fork_server.context()
        self.silent_seconds = silent_seconds
        self.stopping = threading.Event()
        self.places: queue.LifoQueue[int] = queue.LifoQueue()
        self.workers: dict[int, _Worker] = {}
        self.shares = shares(count)
        for place in reversed(range(count)):
            self.places.put(place)

    def run(self, function: Callable, arguments: dict[str, Any], report: progress.Report) -> Any:
        """Call function(**arguments, report=...) in another process; return its result.

        Everything is pickled. May be called from `count` threads at once. Raises what the function
        raises, and TrialError if its process died each time, or hung.
        """
        place = self.places.get()
        try:
            for attempt in range(1, ATTEMPTS + 1):
                answer = self._attempt(place, function, arguments, report)
                if not isinstance(answer, int):
                    result, error = answer
                    if error is not None:
                        raise error
                    return result
                how = f"signal {-answer}" if answer < 0 else f"exit status {answer}"
                report(f"  A trial's process died ({how}): attempt {attempt} of {ATTEMPTS}.")
        finally:
            self.places.put(place)
        raise TrialError(
            f"The trial's process ended with {how}, {ATTEMPTS} times: out of memory, or killed. "
            "Free memory, or set fewer WORKERS=."
        )

    def stop(self) -> None:
        """End all processes, giving each one time to record its end in the tracking store."""
        self.stopping.set()
        for place in list(self.workers):  # Idle ones; a busy one is ended by its thread.
            if worker := self.workers.pop(place, None):
                _end(worker)

    def _start(self, place: int) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_work, args=(theirs, self.shares[place]), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _attempt(
        self, place: int, function: Callable, arguments: dict[str, Any], report: progress.Report
    ) -> Any:
        """Return (result, exception), or the exit status of a process that died."""
        worker = self.workers.pop(place, None) or self._start(place)
        last, keep = time.monotonic(), False
        try:
            worker.connection.send((function, arguments))
            while not self.stopping.is_set():
                if worker.connection.poll(POLL_SECONDS):
                    kind, *content = worker.connection.recv()
                    last = time.monotonic()
                    if kind == "said":
                        report(*content)
                        continue
                    *answer, memory = content
                    keep = answer[1] is None and not worker.needs_replacing(memory)
                    return answer
                if time.monotonic() - last > self.silent_seconds:
                    raise TrialError(
                        f"No epoch ended in {self.silent_seconds / 60:.0f} minutes: the trial "
                        "hangs, or this machine is too slow."
                    )
            raise journal.SearchError("Stopped.")
        except (EOFError, ConnectionResetError, BrokenPipeError):
            worker.process.join()
            return worker.process.exitcode
        finally:
            if keep:
                self.workers[place] = worker
            else:
                _end(worker)


class TrialError(RuntimeError):
    """A trial's process died or hung."""


def shares(count: int) -> list[dict[str, Any]]:
    """Return what each of `count` processes may use: cores, and variables that name its GPU.

    A single process gets all. GPUs are assigned in turn; processes on one GPU split its memory.
    """
    if count == 1:
        return [{"cores": None, "variables": {}}]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus, parts = visible_gpus(), []
    for place in range(count):
        variables = {}
        if gpus:
            sharing = math.ceil(count / len(gpus))
            variables["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.2f}"
        parts.append({"cores": cores[place % max(1, len(cores)) :: count], "variables": variables})
    return parts


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    # It also lists the parts of a divided GPU, and prints why it failed.
    return list(map(str, range(sum(line.startswith("GPU ") for line in listed.splitlines()))))


def _work(connection: Any, share: dict[str, Any]) -> None:
    """Run in the new process: take the share, execute incoming calls, send their results."""
    # Ctrl-C in the terminal reaches all processes. The parent decides, then sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(share["variables"])
    if share["cores"]:
        os.sched_setaffinity(0, share["cores"])
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending, contextlib.suppress(BrokenPipeError):
            connection.send(message)

    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        result, error = _call(function, arguments, lambda said: send("said", said))
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes.
        memory = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            send("ended", result, error, memory)
        except Exception:  # It cannot be pickled, or not restored.
            notes = getattr(error, "__notes__", [traceback.format_exc()])
            send("ended", None, RuntimeError("\n".join(notes)), memory)


def _call(
    function: Callable, arguments: dict[str, Any], report: progress.Report
) -> tuple[Any, Exception | None]:
    try:
        return function(**arguments, report=report), None
    except Exception as error:
        # An error loses its cause and traceback when it is sent.
        if full := disk.full(error, Path.cwd()):
            error = journal.SearchError(full)
        error.add_note(traceback.format_exc())
        return None, error


def _die_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _end(worker: _Worker) -> None:
    """Close the worker's pipe; terminate its process, then kill it if it is still alive."""
    worker.connection.close()
    for step in (worker.process.terminate, worker.process.kill):
        if worker.process.is_alive():
            step()
            worker.process.join(PATIENCE_SECONDS)
    worker.process.close()
