"""Set-up: the lock, pyproject.toml and environment.yml say the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agegender import disk
from pipelines import set_up

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
ENVIRONMENT = (ROOT / "environment.yml").read_text()


def pins(lines, python_version):
    """Name -> exact version, for the lines that count on Linux under one Python."""
    surroundings = {"python_full_version": f"{python_version}.0", "python_version": python_version}
    found = {}
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate(surroundings | {"sys_platform": "linux"}):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{line} is no exact pin"
            assert canonicalize_name(requirement.name) not in found, f"{line} is pinned twice"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def locked(python_version):
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    return pins(lines, python_version)


def direct(extras):
    optional = PROJECT["optional-dependencies"]
    lines = [line for extra in extras for line in optional[extra]]
    return [Requirement(line) for line in PROJECT["dependencies"] + lines]


@pytest.mark.parametrize("python_version", ["3.11", "3.12"])
def test_lock_pins_every_dependency_within_its_range(python_version):
    lock = locked(python_version)
    for requirement in direct(PROJECT["optional-dependencies"]):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(lock[name]), (
            f"{requirement} but lock has {lock[name]}"
        )


def test_environment_pins_the_direct_dependencies_as_the_lock_does():
    environment = pins(re.findall(r"^ +- (\S+==\S+)$", ENVIRONMENT, re.M), "3.11")
    extras = PROJECT["optional-dependencies"].keys() - {"cpu", "cuda"}
    names = {canonicalize_name(requirement.name) for requirement in direct(extras)}
    lock = locked("3.11")
    assert environment == {name: lock[name] for name in names}


def test_python_versions_agree():
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    accepted = [minor for minor in range(8, 20) if supported.contains(f"3.{minor}.1")]
    looked_for = re.search(r"not in \((.*)\)\)'", (ROOT / "Makefile").read_text())[1]
    assert looked_for == ", ".join(f"(3, {minor})" for minor in accepted)
    (python,) = re.findall(r"- python=(\S+)", ENVIRONMENT)
    assert supported.contains(python)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that depends on TensorFlow alone, and uv without a network."""
    if UV is None:
        pytest.skip("no uv: this environment was not made from the lock")
    monkeypatch.setenv("PATH", f"{Path(UV).parent}:/bin:/usr/bin")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    folder = tmp_path / "project"
    folder.mkdir()
    backends = {"cpu": ["tensorflow-cpu"], "cuda": ["tensorflow"]}
    extras = "".join(
        f"{extra} = {backends.get(extra, [])}\n" for extra in PROJECT["optional-dependencies"]
    )
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "0"\ndependencies = ["tensorflow"]\n'
        f"[project.optional-dependencies]\n{extras}"
    )
    (folder / "requirements.lock").touch()
    monkeypatch.chdir(folder)
    return folder


def test_jax_comes_without_tensorflow_and_a_developer_has_what_a_user_has(project):
    set_up.main("jax-dev")
    assert (project / ".venv" / "ready-jax").exists()
    assert (project / ".venv" / "ready-jax-dev").exists()
    with pytest.raises(SystemExit, match="tensorflow"):
        set_up.main("tensorflow")


def test_a_set_up_that_was_stopped_begins_anew_and_a_finished_one_goes_on(project):
    left = project / ".venv" / "left"
    left.parent.mkdir()
    left.touch()
    set_up.main("jax")
    assert not left.exists()
    left.touch()
    lock = project / "requirements.lock"
    os.utime(lock, (lock.stat().st_mtime + 60,) * 2)
    set_up.main("jax-dev")
    assert left.exists()


def test_a_second_make_waits_for_the_first(project, monkeypatch):
    (project / ".cache").mkdir()
    with disk.hold(project / ".cache" / "set_up.lock"):
        command = [sys.executable, "-m", "pipelines.set_up", "tensorflow"]
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert second.stderr.readline().startswith("Waiting: another make")
        (project / ".venv").mkdir()
        (project / ".venv" / "ready-tensorflow").touch()
    assert second.communicate(timeout=60)[1] == ""
    assert second.returncode == 0


def test_what_stops_a_set_up_is_one_line(project, monkeypatch):
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match="^Set-up stopped: the package index cannot be reached"):
        set_up.main("tensorflow")
    full = "open('/dev/full', 'wb', 0).write(b'x')"
    with pytest.raises(SystemExit, match="^Set-up stopped: the disk is full"):
        set_up.run(sys.executable, "-c", full)
    with pytest.raises(SystemExit, match="^BACKEND must be tensorflow or jax, not torch.$"):
        set_up.main("torch-dev")


def test_a_gpu_is_what_nvidia_smi_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    tool = tmp_path / "nvidia-smi"
    for script, seen in (("echo GPU 0: NVIDIA", True), ("echo No devices; exit 6", False)):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert set_up.has_nvidia_gpu() is seen


def test_lock_names_no_host():
    assert not re.search(r"://|--|@ ", LOCK)
