"""Serve a page to try the models on a photo or the camera, and JSON for programs: `make app`."""

import secrets
import signal
import socket
from pathlib import Path

import uvicorn

from agegender.networks import backend
from agegender.photos import detection, service
from agegender.registry import champions

MOST_CONNECTIONS = 16  # Any more get 503, so photos take at most 1 GiB of memory.


def serve(*, port: int, host: str = "127.0.0.1", generated: bool = False) -> None:
    """Load the champions, or the released models, and serve `service.application` until Ctrl-C.

    port: 0 picks a free one.
    host: an address of this machine. If others can reach it, each path needs a token.
    generated: use the models of drawn faces.
    """
    with socket.create_server((host, port)) as listener:
        print("Loading the models ...", flush=True)
        backend.prepare()
        models = champions.models_for_prediction(Path.cwd(), generated, "AB")
        own = host in service.HOSTS
        hosts, token = (service.HOSTS, "") if own else ([host], secrets.token_urlsafe(16))
        app = service.application(detection.load_detector(), models, hosts, token)
        print(f"Using {' and '.join(model.title for model in models.values())}")
        address = f"http://{host}:{listener.getsockname()[1]}/{token and token + '/'}"
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", limit_concurrency=MOST_CONNECTIONS, lifespan="off"
            )
        )
        # uvicorn sets this handler too late: Ctrl-C while asyncio starts would print a traceback.
        signal.signal(signal.SIGINT, server.handle_exit)
        print(f"Open {address} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[listener])
