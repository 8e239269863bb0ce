"""Run a team's store for trying, on this machine only: `make server [PORT=5002 FOLDER=...]`.

    python -m pipelines.run_server [--port 5002] [--folder .cache/server]

MLflow's server with an artifact proxy and passwords, on a private PostgreSQL (Debian and Ubuntu:
apt install postgresql). Ctrl-C stops both; the next start on the folder goes on with its data.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from agegender.registry import team_server


def main(argv: list[str] | None = None) -> None:
    """Start both servers, print how to use them, and wait."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5002)
    parser.add_argument("--folder", type=Path, default=Path(".cache", "server"))
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        with team_server.serve(arguments.folder, arguments.port) as server:
            ini = arguments.folder / "basic_auth.ini"
            print(
                f"The team's store runs ({time.monotonic() - started:.0f} s). To use it:\n"
                f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{arguments.port}\n"
                f"export MLFLOW_TRACKING_USERNAME={team_server.USER}\n"
                "export MLFLOW_TRACKING_PASSWORD="
                f"\"$(sed -n 's/^admin_password = //p' '{ini.resolve()}')\"\n"
                "Ctrl-C stops it; the data stay.",
                flush=True,
            )
            server.wait()
            parser.exit(2, f"agegender: mlflow server ended: see {arguments.folder}/mlflow.log\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\nStopped; the data are in {arguments.folder}.\n")
    except (team_server.ServerError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")


if __name__ == "__main__":
    main()
