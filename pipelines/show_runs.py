"""Show runs and models in the browser, on this machine only: `make ui [PORT=5000]`.

    python -m pipelines.show_runs [--port 5000]

Prints, for each family that was searched, the address of its trials, the best first, in the columns
that differ; then it becomes MLflow's server.
"""

import argparse
import os
import sys
from pathlib import Path

from agegender.registry import tracking


def main(argv: list[str] | None = None) -> None:
    """Print where to look and start MLflow's UI."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args(argv)
    try:
        uri = tracking.connect(Path.cwd())
    except (ValueError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")
    host = f"http://127.0.0.1:{arguments.port}"
    print(f"all runs: {host}/#/experiments?workflowType=machine_learning")
    for (experiment, view), address in tracking.views().items():
        print(f"{experiment}, {view}: {host}{address}")
    print(f"registered models: {host}/#/models", flush=True)
    # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    flags = ["--host", "127.0.0.1", "--port", str(arguments.port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *flags, "--backend-store-uri", uri]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
