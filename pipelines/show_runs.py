"""Show runs and models in the browser, on this machine only: `make ui [PORT=5000]`.

Prints, for each family that was searched, the address of its trials, the best first, in the columns
that differ; then it becomes MLflow's server.
"""

import os
import sys
from pathlib import Path

from agegender.registry import tracking


def show(*, port: int = 5000) -> None:
    """Print where to look and start MLflow's UI."""
    uri = tracking.connect(Path.cwd())
    host = f"http://127.0.0.1:{port}"
    print(f"all runs: {host}/#/experiments?workflowType=machine_learning")
    for (experiment, view), address in tracking.views().items():
        print(f"{experiment}, {view}: {host}{address}")
    print(f"registered models: {host}/#/models", flush=True)
    # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    flags = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *flags, "--backend-store-uri", uri]
    os.execv(sys.executable, command)
