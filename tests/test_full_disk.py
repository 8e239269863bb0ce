"""A small disk that fills while a search runs: it stops, its state intact, and goes on later."""

import contextlib
import errno
import json
import subprocess
import sys
import time

import pytest

FLAGS = ["-m", "pipelines", "search", "--preset", "smoke", "--seed", "0"]


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)


@pytest.fixture(params=[".cache", "."], ids=["the cache alone", "the tracking store too"])
def clone(tmp_path, request):
    """A folder, and within it the place of a disk of its own."""
    folder = tmp_path / "clone"
    place = folder / request.param
    place.mkdir(parents=True)
    made = mount("-t", "tmpfs", "-o", "size=600m", "tmpfs", str(place))
    if made.returncode:
        pytest.skip(f"may not mount a small disk: {made.stderr.strip()}")
    yield folder, place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def start(folder):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *FLAGS], cwd=folder, stdout=pipe, stderr=pipe, text=True
    )


def end(process):
    """Return exit status, output and errors; a process that takes too long does not stay."""
    try:
        out, said = process.communicate(timeout=900)
    finally:
        process.kill()
    return process.returncode, out, said


def finished(folder, family):
    """Return what the journal has of finished trials."""
    trials = []
    for path in folder.glob(f".cache/searches/*/{family}/trials.json"):
        trials += json.loads(path.read_text())
    return [trial for trial in trials if trial["status"] != "RUNNING"]


def fill(place):
    """Write until nothing more fits; return the file."""
    path = place / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError) as full, (place / "more").open("wb") as file:
        file.write(bytes(8192))
    (place / "more").unlink()
    assert full.value.errno == errno.ENOSPC
    return path


@pytest.mark.slow
def test_a_full_disk_stops_the_search_and_with_room_it_goes_on(clone, record_property):
    folder, place = clone
    process = start(folder)
    give_up = time.monotonic() + 300
    while not finished(folder, "A"):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.1)
    filler = fill(place)
    first = finished(folder, "A")
    status, out, said = end(process)
    assert status == 2, out + said
    last = said.splitlines()[-1]  # before it, MLflow's logger may show what SQLite said
    assert last.startswith("agegender: ") and "`make clean`" in last
    assert "No space left on device" in last or "disk is full" in last
    assert finished(folder, "A") == first and len(first) == 1
    assert first[0]["status"] == "COMPLETED"

    # Room enough for A, too little for the activations of B: refused before they are computed.
    filler.unlink()
    used = sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())
    assert mount("-o", f"remount,size={used + 40_000_000}", str(place)).returncode == 0
    status, out, said = end(start(folder))
    assert status == 2, out + said
    assert "Activations of B's backbone for these faces need" in said and "free" in said
    assert "Traceback" not in said
    searched = finished(folder, "A")
    assert len(searched) == 2 and searched[0] == first[0]
    assert not finished(folder, "B")

    assert mount("-o", "remount,size=2g", str(place)).returncode == 0
    status, out, said = end(start(folder))
    assert status == 0, out + said
    assert "Resuming after 2 finished trials" in out
    assert finished(folder, "A") == searched and len(finished(folder, "B")) == 2
    assert not list(folder.glob(".cache/features/*-*"))
    assert not list(folder.rglob(".being-written-*"))
    record_property(
        "figures", f"disk full twice ({place.name or 'clone'}): stopped, went on, nothing repeated"
    )
