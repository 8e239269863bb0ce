"""The origin of a run: its user, process, code, backend and data."""

import functools
import getpass
import os
import platform
import subprocess
import sys
from pathlib import Path


def user() -> str:
    """Return the name of the user running this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return str(os.getuid())


def process() -> dict[str, str]:
    """Return tags that identify this process, even if its number is reused later."""
    pid = os.getpid()
    start = process_start(pid)
    return {"process.host": platform.node(), "process.id": str(pid), "process.start": start}


def process_start(pid: int) -> str:
    """Return a mark of when a running process started, or "" if there is none."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()


def tags(digest: str, kind: str) -> dict[str, str]:
    """Return the tags that give every run's origin: code, backend, device and data."""
    import keras  # Takes seconds; readers of a store don't need it.

    return {
        "git.commit": _git_commit(),
        "backend": keras.backend.backend(),
        "device": keras.distribution.list_devices()[0].partition(":")[0].lower(),
        "data.digest": digest,
        "data.kind": kind,
    }


@functools.cache
def _git_commit() -> str:
    """Return the commit of the code at the first call, with '+dirty' if files differ.

    AGEGENDER_COMMIT gives the commit for code copied without its history.
    """
    if given := os.environ.get("AGEGENDER_COMMIT"):
        return given

    def git(*arguments):
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
