"""Show runs and models in the browser, on this machine only: `make ui [PORT=5000]`.

Prints, for each family that was searched, the address of its trials, the best first, in the columns
that differ, as soon as MLflow's server answers; what that says is in .cache/ui.log. Ends with
Ctrl-C.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from agegender.registry import tracking

LOG = Path(".cache", "ui.log")
SECONDS_TO_ANSWER = 120


def show(*, port: int) -> int:
    """Start MLflow's server, print where to look, and wait; return the exit status."""
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]  # another one, if it was 0
    uri = tracking.connect(Path.cwd())
    print("Starting MLflow's server ...", flush=True)
    # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *where, "--backend-store-uri", uri]
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        # In a session of its own, so that Ctrl-C is for this process alone, which ends it.
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        host = f"http://127.0.0.1:{port}"
        wait_for(f"{host}/health", server)
        print(f"all runs: {host}/#/experiments?workflowType=machine_learning")
        for (experiment, view), address in tracking.views().items():
            print(f"{experiment}, {view}: {host}{address}")
        print(f"registered models: {host}/#/models\nCtrl-C ends it.", flush=True)
        server.wait()
        raise ValueError(f"MLflow's server ended: see {LOG.absolute()}.")
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):  # where it ended itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Return once the address answers; ValueError where the server ended, or took too long."""
    give_up = time.monotonic() + SECONDS_TO_ANSWER
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ValueError(f"MLflow's server does not answer at {address}: see {LOG.absolute()}.")
