"""Show runs and models in the browser, on this machine only: `make ui [PORT=5000]`."""

from pathlib import Path

from agegender.registry import ui


def show(*, port: int) -> None:
    """Serve MLflow's pages until interrupted."""
    ui.show(Path.cwd(), port)
