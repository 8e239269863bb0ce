"""The process that trials are forked from; of the standard library alone, so that it starts first.

It imports all that a trial needs, which takes as long as in the process that asks for it. Started
before that one's own imports, both are ready at the same time where there are two cores.
"""

import multiprocessing
import multiprocessing.forkserver
import signal
import sys
from typing import Any

FORKS = sys.platform == "linux"


def context() -> Any:
    """Return how trials' processes are made: forked, or afresh where forking is not safe."""
    found: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    found.set_forkserver_preload(["tuning.family_search"])
    return found


def start() -> None:
    """Start it, without waiting for it; nothing happens where it is running."""
    if not FORKS:
        return
    context()
    # The terminal's Ctrl-C is for this process alone, also while that one imports.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
