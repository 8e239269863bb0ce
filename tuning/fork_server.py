"""Start the process that trials are forked from; standard library only, so it can start first.

It imports all that a trial needs, which takes as long as the imports of the process that starts it.
If it is started before those, both are ready at the same time on two cores.
"""

import multiprocessing
import multiprocessing.forkserver
import signal
import sys
from typing import Any

FORKS = sys.platform == "linux"


def context() -> Any:
    """Return the context for trials' processes: forked, or spawned if forking is not safe."""
    found: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    found.set_forkserver_preload(["tuning.family_search"])
    return found


def start() -> None:
    """Start the fork server without waiting for it; do nothing if it is running."""
    if not FORKS:
        return
    context()
    # Ctrl-C in the terminal is for this process alone, even while the fork server imports.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
