"""Install the lock into `.venv` with uv; make runs this before the first target that needs it.

    python3 -m pipelines.set_up tensorflow-dev    # or tensorflow, jax, jax-dev

Standard library only. "-dev" adds the packages for tests and checks; JAX comes without TensorFlow.
"""

import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from agegender import disk

LEVELS = ("tensorflow", "tensorflow-dev", "jax", "jax-dev")
SOURCES = (Path("requirements.lock"), Path("pyproject.toml"))
EXPLANATIONS = {
    r"No space left": "the disk is full. Set-up takes 2.3 GB, for developers 3.1 GB",
    r"error sending request|[Cc]onnection|timed out": "the package index cannot be reached. "
    "Check the network and the proxy, then try again",
    r"ensurepip": "Python lacks pip. On Debian and Ubuntu: apt install python3-venv",
}


def main(level: str) -> None:
    """Create or update `.venv` for one of LEVELS, unless it is newer than SOURCES."""
    if level not in LEVELS:
        sys.exit(f"BACKEND must be tensorflow or jax, not {level.removesuffix('-dev')}.")
    stamp = Path(".venv", f"ready-{level}")
    Path(".cache").mkdir(exist_ok=True)
    waiting = "Waiting: another make is setting up .venv."
    with disk.hold(Path(".cache/set_up.lock"), waiting=waiting):
        if not stamp.exists() or stamp.stat().st_mtime < max(p.stat().st_mtime for p in SOURCES):
            install(*level.split("-"))
            stamp.with_name(stamp.name.removesuffix("-dev")).touch()
            stamp.touch()


def install(backend: str, dev: str = "") -> None:
    """Install what the lock pins for a backend; start over if an earlier set-up was stopped."""
    extras = ["pipelines", *["dev", "formats", "jax", "ray", "server"] * bool(dev)]
    extras.append(build(backend))
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    what = f"{python}, {backend}{', with developer tools' * bool(dev)}"
    print(f"Setting up .venv ({what}): once, about 45 s.", flush=True)
    uv = shutil.which("uv")
    stamps = list(Path(".venv").glob("ready-*"))
    for stamp in stamps:
        stamp.unlink()
    if not stamps:
        run(sys.executable, "-m", "venv", "--clear", ".venv", *["--without-pip"] * bool(uv))
    if not uv:
        uv = ".venv/bin/uv"
        run(".venv/bin/pip", "install", "-q", "--constraint", "requirements.lock", "uv")
    command = [uv, "pip", "install", "-q", "--python", ".venv", "--constraint", "requirements.lock"]
    command += ["--requirement", "pyproject.toml", *(f"--extra={extra}" for extra in extras)]
    # The package needs TensorFlow, unless an override says that no Python version does.
    no_tensorflow = "tensorflow; python_version < '0'"
    instead = build(backend) in ("jax", "cpu")
    run(*command, "--override", "/dev/stdin", given=no_tensorflow if instead else "")


def build(backend: str) -> str:
    """Return the extra that installs a backend for this machine.

    "cpu" is TensorFlow without 600 MB of GPU code; it exists only for Linux on x86-64.
    """
    if backend == "jax":
        return "jax"
    if has_nvidia_gpu():
        return "cuda"
    has_cpu_build = (sys.platform, platform.machine()) == ("linux", "x86_64")
    return "cpu" if has_cpu_build else "tensorflow"


def run(*command: str, given: str = "") -> None:
    """Run a command; if it fails, exit with one line that says why."""
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        output = done.stderr + done.stdout
        why = next((why for seen, why in EXPLANATIONS.items() if re.search(seen, output)), None)
        sys.exit(f"Set-up stopped: {why or ' '.join(output.split()) or command[0]}.")


def has_nvidia_gpu() -> bool:
    """Return whether nvidia-smi lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # make reports the interruption
    main(*sys.argv[1:])
