r"""Serve a registered model on this machine: `make serve MODEL=B [ALIAS=] [VERSION=] [PORT=5001]`.

    python -m pipelines.serve_model --model B [--alias previous | --version 3] [--generated]

MLflow's own model server (POST /invocations, GET /ping), after the checks of `make pull`. It takes
faces aligned and cropped as in UTKFace, as JPEG, PNG or WebP in base64:

    echo "{\"inputs\": [\"$(base64 < face.jpg | tr -d '\n')\"]}" > request.json
    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @request.json
    ab -n 500 -c 4 -p request.json -T application/json http://127.0.0.1:5001/invocations  # its load
"""

import argparse
from pathlib import Path

from agegender.registry import server, tracking, versions


def main(argv: list[str] | None = None) -> None:
    """Check one version and serve it until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="A, B or a registered name")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--alias", default="champion")
    which.add_argument("--version", type=int)
    parser.add_argument("--generated", action="store_true", help="a model of generated faces")
    parser.add_argument("--port", type=int, default=5001)
    arguments = parser.parse_args(argv)
    name = versions.full_name(arguments.model, arguments.generated)
    try:
        tracking.connect(Path.cwd())
        asked = arguments.version or arguments.alias
        model = versions.pull_pyfunc(name, asked)
    except (ValueError, OSError) as error:
        parser.exit(2, f"agegender: {error}\n")
    print(f"{name} ({asked}): http://127.0.0.1:{arguments.port}/invocations", flush=True)
    server.serve(model, arguments.port)


if __name__ == "__main__":
    main()
