"""Make `.venv` from the committed lock; make runs this before the first target that needs it.

    python3 -m pipelines.set_up [--backend jax]    # 75 s on two cores where the registry is quick

Standard library only, and any Python 3 will do: it looks for 3.11 or 3.12 itself. On a machine
with an NVIDIA GPU it takes TensorFlow's CUDA build. JAX comes without TensorFlow.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VERSIONS = ((3, 11), (3, 12))


def main(argv: list[str] | None = None) -> None:
    """Make or renew `.venv`, unless it is newer than the lock; exit status 1 where pip fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    backend = parser.parse_args(argv).backend
    if sys.version_info[:2] not in VERSIONS:
        start_again_with_a_fitting_python()
    os.chdir(ROOT)
    Path(".cache").mkdir(exist_ok=True)
    with open(".cache/set_up.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting: another make is setting up .venv.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        ready = VENV / f"ready-{backend}"
        sources = [ROOT / "requirements.lock", ROOT / "pyproject.toml"]
        newest = max(source.stat().st_mtime for source in sources)
        if not ready.exists() or ready.stat().st_mtime < newest:
            install(backend)
            ready.touch()


def install(backend: str) -> None:
    """Fill `.venv` with what the lock pins for one backend, then fetch the pretrained weights."""
    extra = "cuda" if backend == "tensorflow" and has_nvidia_gpu() else backend
    what = {"cuda": "TensorFlow with CUDA, for the GPU that nvidia-smi shows"}.get(extra, backend)
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"Setting up .venv (Python {version}, {what}): once, one to two minutes.", flush=True)
    python = str(VENV / "bin" / "python")
    commands = [
        [python, "-m", "pip", "install", "-qq", "--constraint", "requirements.lock"]
        + requirements(extra, "dev"),
        [python, "-m", "pipelines.fetch_backbones"],
    ]
    made_for = list(VENV.glob("ready-*"))
    for stamp in made_for:
        stamp.unlink()
    if not made_for:
        # Without a stamp an earlier set-up may have been stopped half way: begin anew.
        commands.insert(0, [sys.executable, "-m", "venv", "--clear", str(VENV)])
    for command in commands:
        # TensorFlow greets on stderr whenever it is imported: kept for the case of a failure.
        stderr = subprocess.PIPE if "pipelines.fetch_backbones" in command else None
        surroundings = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(command, env=surroundings, stderr=stderr, text=True)
        if done.returncode:
            hint = " Debian and Ubuntu: apt install python3-venv." if "venv" in command else ""
            sys.exit(f"{done.stderr or ''}Set-up stopped at: {' '.join(command[:4])} ...{hint}")


def requirements(*extras: str) -> list[str]:
    """Return the direct dependencies as pyproject.toml states them, with those of some extras."""
    import tomllib  # not in the older Pythons that only look for another

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return project["dependencies"] + [line for extra in extras for line in optional[extra]]


def has_nvidia_gpu() -> bool:
    """Say whether nvidia-smi lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


def start_again_with_a_fitting_python() -> None:
    """Replace this process by the same command under Python 3.12 or 3.11, if there is one."""
    for major, minor in reversed(VERSIONS):
        name = f"python{major}.{minor}"
        # Running it shows that it is there: a version manager's shim may stand for nothing.
        if (path := shutil.which(name)) and not subprocess.run(
            [path, "-c", ""], capture_output=True
        ).returncode:
            os.execv(path, [path, "-m", "pipelines.set_up", *sys.argv[1:]])
    sys.exit(
        f"Python 3.11 or 3.12 is needed; python3 is {sys.version.split()[0]} and neither "
        "python3.11 nor python3.12 is on the PATH. Install one, or name an environment that has "
        "everything: make ... PYTHON=/path/to/python"
    )


if __name__ == "__main__":
    main()
