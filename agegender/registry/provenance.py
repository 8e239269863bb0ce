"""Where a run comes from: its user, its process, the code, the backend and the data."""

import functools
import getpass
import os
import platform
import subprocess
import sys
from pathlib import Path


def user() -> str:
    """Return the name of who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return str(os.getuid())


def process() -> dict[str, str]:
    """Return tags that name this process, whatever later gets its number."""
    pid = os.getpid()
    start = process_start(pid)
    return {"process.host": platform.node(), "process.id": str(pid), "process.start": start}


def process_start(pid: int) -> str:
    """Return a mark of when a living process began, empty where there is none."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()


def tags(digest: str, kind: str) -> dict[str, str]:
    """Return the tags of every run that tell its origin: code, backend, device and data."""
    import keras  # Takes seconds; who only reads a store does not need it.

    return {
        "git.commit": _git_commit(),
        "backend": keras.backend.backend(),
        "device": keras.distribution.list_devices()[0].partition(":")[0].lower(),
        "data.digest": digest,
        "data.kind": kind,
    }


@functools.cache
def _git_commit() -> str:
    """Return the commit of the code as it was at first call, '+dirty' where files differ.

    AGEGENDER_COMMIT names it for code that was copied without its history.
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
