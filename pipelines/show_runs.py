"""Show runs and models in the browser, on this machine only: `make ui [PORT=5000]`.

Prints, for each family that was searched, the address of its trials, the best first, in the columns
that differ, as soon as MLflow's server answers; what that says is in .cache/ui.log. Ends with
Ctrl-C.
"""

from pathlib import Path

from agegender.registry import ui


def show(*, port: int) -> None:
    """Serve MLflow's pages until interrupted."""
    ui.show(Path.cwd(), port)
