"""A page to try the models on a photo or the camera, and JSON for programs: `make app`.

On this machine only; nothing is stored. The registry's champions answer, the released models where
it has none. Ends with Ctrl-C; exit status 2 where there is no model or the port is taken.
"""

import contextlib
import socket
from pathlib import Path

import uvicorn

from agegender.networks import backend
from agegender.photos import detection, service
from agegender.registry import champions

MOST_CONNECTIONS = 16  # More of them get 503: photos of 1 GiB in memory at the most.


def serve(*, port: int = 7860, generated: bool = False) -> None:
    """Load the models, serve `service.application` until interrupted; port 0 takes a free one."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("Loading the models ...", flush=True)
        backend.prepare()
        models = champions.models_for_prediction(Path.cwd(), generated, "AB")
        app = service.application(detection.load_detector(), models)
        print(f"By {' and '.join(model.title for model in models.values())}")
        print(f"Open http://127.0.0.1:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=MOST_CONNECTIONS)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
