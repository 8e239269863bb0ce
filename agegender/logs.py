"""Keep other libraries' logs off the terminal in every process; Python's warnings still show.

Standard library only, because this is imported before anything that logs.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

# Child processes inherit these. Values that are already set stay.
VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # for the C++ of TensorFlow and jaxlib
    "GRPC_VERBOSITY": "ERROR",
    # Covers Alembic too, which creates MLflow's tables. Warnings such as 'Failed to resolve
    # installed pip version' don't help users; real problems raise errors.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
# Non-fatal lines of absl's log, its first line, and the second line of TensorFlow's CPU guard.
LOG = "^([IWE][0-9]{4} |WARNING: All log messages before absl::|To enable the following instr)"


def quiet() -> None:
    """Set VARIABLES and filter what importing TensorFlow prints, whoever imports it.

    TensorFlow 2.21's shared libraries log to file descriptor 2 while they load, before they read a
    log level: 'oneDNN custom operations are on' and the like.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if "tensorflow" not in sys.modules and shutil.which("grep"):
        sys.meta_path.insert(0, _FilteredImport())


class _FilteredImport(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module):
                with _filtered():
                    execute(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    """Pipe file descriptor 2 through a process that drops lines matching LOG.

    A thread would lose the last words of a library that aborts.
    """
    terminal = os.dup(2)
    filter_ = subprocess.Popen(
        ["grep", "-avE", LOG], stdin=subprocess.PIPE, stdout=terminal, start_new_session=True
    )
    os.dup2(filter_.stdin.fileno(), 2)
    filter_.stdin.close()
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(subprocess.TimeoutExpired):  # A child may still hold the pipe.
            filter_.wait(1)
