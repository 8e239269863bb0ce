"""Other libraries' logs stay off the terminal, what matters does not."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agegender import logs
from agegender.data import generated_faces

ROOT = Path(__file__).parents[1]
# How TensorFlow and absl, MLflow and Alembic, uvicorn and Ray begin a line of their logs.
OF_A_LIBRARY = re.compile(
    r"[IWEF]\d{4} |WARNING: All log|To enable the following|.*oneDNN|.*absl|\[MLflow\]"
    r"|\d{4}[-/]\d\d[-/]\d\d .*\b(DEBUG|INFO|WARNING|ERROR)\b|(DEBUG|INFO|WARNING|ERROR)\b"
    r"|Registry store URI|\((raylet|pid=|\w+ pid)"
)
LOUD = """
import os, sys, warnings
for line in (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795.52 20637 port.cc:153] oneDNN custom operations are on.",
    "E0000 00:00:1795.52 20637 cuda_fft.cc:53] Unable to register cuFFT factory",
    "what a library says otherwise",
    "F0000 00:00:1795.52 20637 cpu.cc:1] The library needs AVX, which this processor lacks.",
):
    os.write(2, line.encode() + b"\\n")
if "abort" in sys.argv:
    os.abort()
warnings.warn("a real one", stacklevel=1)
print("text for a person", file=sys.stderr)
"""


@pytest.mark.parametrize("way", ["load", "abort"])
def test_what_tensorflow_logs_while_it_is_loaded_is_left_out(tmp_path, way):
    (tmp_path / "tensorflow.py").write_text(LOUD)
    script = "import sys, agegender, tensorflow, os; os.write(2, b'I0000 afterwards\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script, way],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert lines[0] == "what a library says otherwise" and lines[1].startswith("F0000")
    if way == "load":
        assert done.returncode == 0
        assert "UserWarning: a real one" in lines[2] and lines[-2] == "text for a person"
        assert lines[-1] == "I0000 afterwards"  # It filters while TensorFlow is loaded, no longer.
    else:
        assert done.returncode < 0 and len(lines) == 2


def make(folder, *arguments):
    """Run a target in a folder; return its status and what it said, with when the first came."""
    shell = {name: text for name, text in os.environ.items() if name not in logs.VARIABLES}
    process = subprocess.Popen(
        ["make", "--no-print-directory", *arguments, f"PYTHON={sys.executable}"],
        cwd=folder,
        env={**shell, "MAKEFLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started, first_seconds, lines = time.monotonic(), None, []
    for line in process.stdout:
        first_seconds = first_seconds or time.monotonic() - started
        lines.append(line.rstrip("\n"))
        if line.startswith(("Ctrl-C ends", "Open http")):  # A server answers, and goes on.
            os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    return process.wait(60), first_seconds, lines


@pytest.mark.system
def test_no_target_shows_a_line_of_a_library_s_log(tmp_path, record_property):
    for name in ("Makefile", "agegender", "models", "pipelines", "requirements.lock", "tuning"):
        (tmp_path / name).symlink_to(ROOT / name)
    generated_faces.write_faces(tmp_path / "photos", 2, seed=0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    slowest = 0.0
    for status, *arguments in (
        (0, "prepare"),
        (0, "explore"),
        (2, "report"),
        (0, "tune", "PRESET=smoke", "SEED=0", "WORKERS=2"),
        (0, "report", "GENERATED=1"),
        (0, "pull", "MODEL=A", "GENERATED=1", "TO=A.h5"),
        (2, "rollback", "MODEL=A", "GENERATED=1"),
        (0, "predict", "GENERATED=1", "PHOTO=photos"),
        (-signal.SIGINT, "ui", f"PORT={port}"),
        (-signal.SIGINT, "app", "GENERATED=1", "PORT=0"),
    ):
        ended, first_seconds, lines = make(tmp_path, *arguments)
        said = "\n".join(lines)
        assert ended == status, f"{arguments}: {ended}\n{said}"
        assert not [line for line in lines if OF_A_LIBRARY.match(line)], f"{arguments}:\n{said}"
        assert "Traceback" not in said and "Warning" not in said, f"{arguments}:\n{said}"
        slowest = max(slowest, first_seconds)
    record_property("figures", f"the slowest first word of a target came after {slowest:.1f} s")
    assert slowest < 2
