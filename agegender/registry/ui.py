"""MLflow's own pages, on this machine only, and where in them a search is seen."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from agegender.registry import tracking, views

LOG = Path(".cache", "ui.log")
SECONDS_TO_ANSWER = 120


def show(root: Path, port: int) -> None:
    """Start MLflow's server on the store of `root`, print where to look, wait for Ctrl-C.

    port: 0 for any. ValueError where the server ends by itself, or does not answer.
    """
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]  # another one, if it was 0
    uri = tracking.connect(root)
    print("Starting MLflow's server ...", flush=True)
    # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *where, "--backend-store-uri", uri]
    path = root / LOG
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as log:
        # In a session of its own, so that Ctrl-C is for this process alone, which ends it.
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        host = f"http://127.0.0.1:{port}"
        _wait_for(f"{host}/health", server, path)
        print(f"all runs: {host}/#/experiments?workflowType=machine_learning")
        for name, address in views.addresses():
            print(f"{name}: {host}{address}")
        print(f"registered models: {host}/#/models?workflowType=machine_learning")
        print("Ctrl-C ends it.", flush=True)
        while server.poll() is None:  # To wait at length would miss a Ctrl-C at its beginning.
            time.sleep(0.5)
        raise ValueError(f"MLflow's server ended: see {path}.")
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # where it ended itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Return once the address answers; ValueError where the server ended, or took too long."""
    give_up = time.monotonic() + SECONDS_TO_ANSWER
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ValueError(f"MLflow's server does not answer at {address}: see {log}.")
