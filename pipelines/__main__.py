"""The command line, which make calls too: `python -m pipelines STAGE [--option value ...]`.

It checks the arguments before it imports anything slow.
"""

import _thread
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from agegender import disk
from agegender.registry import access
from pipelines import options
from tuning import fork_server

FORKING = ("tune", "search")


def main(arguments: list[str]) -> int:
    """Run a stage and return the exit status: 2, with a one-line message, for a user's mistake."""
    name, only_check = "", arguments[:1] == ["--check"]
    try:
        if only_check:  # From make, before it sets up; it reads standard output.
            options.from_make(arguments[1:], os.environ)
            return 0
        name, values = read(arguments)
        return run(name, values)
    except KeyboardInterrupt:
        on_search = name and options.STAGES[name].search
        kept = "; finished trials are kept: run the same command to continue" if on_search else ""
        print(f"\nStopped{kept}.", file=sys.stderr)
        return 130
    except options.Refused as refusal:
        print(refusal, file=sys.stdout if only_check else sys.stderr)
        return 2
    except Exception as error:
        told = disk.full(error, Path.cwd())
        if not told and not isinstance(error, ValueError):
            told = access.explain(error)
        if not told and not isinstance(error, ValueError | OSError):
            raise
        print(f"agegender: {told or error}", file=sys.stderr)
        return 2


def read(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the stage and its values, from the arguments or, under make, its variables."""
    if options.GIVEN in os.environ and len(arguments) == 1 and arguments[0] in options.STAGES:
        return arguments[0], options.from_make(arguments, os.environ)[arguments[0]]
    return options.from_arguments(arguments)


def run(name: str, values: dict[str, Any]) -> int:
    """Import a stage, which takes seconds, and call it."""
    stage = options.STAGES[name]
    print("Loading the libraries ...", flush=True)
    if name in FORKING:
        fork_server.start()
    module, function = stage.function.split(":")
    call = getattr(importlib.import_module(f"pipelines.{module}"), function)
    if not stage.search:
        return call(**values) or 0
    on_search = importlib.import_module("pipelines.work").on_search
    own = {option: value for option, value in values.items() if option not in options.SETTINGS}
    return on_search(call, options.settings(values), **own) or 0


class Output(io.FileIO):
    """Standard output that accepts writes even after its reader, as in `| head`, has gone."""

    def write(self, data: Any) -> int:
        """Write bytes and return how many."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
        except KeyboardInterrupt:
            # Raised here, it would have the line written again at exit: raise it a moment later.
            threading.Timer(0.01, _thread.interrupt_main).start()
            return len(data)


if __name__ == "__main__":
    if sys.stdout:  # None if it is closed.
        lasting = io.BufferedWriter(Output(sys.stdout.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(lasting, sys.stdout.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A terminal may be unable to show all names.
            stream.reconfigure(errors="backslashreplace")
    # Pillow can read the pictures that it warns about.
    warnings.filterwarnings("ignore", module="PIL")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
