"""Keep other libraries' logs off the terminal, in every process; Python's warnings still reach it.

Standard library only: it is imported before anything that logs.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

# Started processes inherit these; a value that is set already stays.
VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # of TensorFlow's and jaxlib's C++
    "GRPC_VERBOSITY": "ERROR",
    # And Alembic, which makes MLflow's tables. Warnings such as 'Failed to resolve installed pip
    # version' help no user; what matters is raised.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
# A line of absl's log that is not fatal; its first line; the second line of TensorFlow's CPU guard.
LOG = "^([IWE][0-9]{4} |WARNING: All log messages before absl::|To enable the following instr)"


def quiet() -> None:
    """Set VARIABLES, and filter what the import of TensorFlow writes, whoever imports it.

    The shared libraries of TensorFlow 2.21 log to file descriptor 2 while they are loaded, before
    they read a level: 'oneDNN custom operations are on' and the like.
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
    """Pass what is written to file descriptor 2 through a process that leaves out lines of LOG.

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
        with contextlib.suppress(subprocess.TimeoutExpired):  # A child may hold the pipe.
            filter_.wait(1)
