"""The disk: room is made before anything is computed."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agegender import disk

REPOSITORY = Path(__file__).parents[1]


def a_set(cache, name, count, age_seconds):
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "0.npy").write_bytes(bytes(count))
    used = time.time() - age_seconds
    os.utime(folder, (used, used))
    return folder


def room(cache, count, budget_bytes):
    working = cache / "new-working"
    working.mkdir(parents=True)
    with disk.hold(cache / "new.lock"):  # as the process that will write there does
        disk.make_room(cache, {working / "0.npy": count}, most_gigabytes=budget_bytes / 1e9)
    return working


def test_the_least_recently_used_go_until_the_new_ones_fit(tmp_path):
    old, older, new = (
        a_set(tmp_path, name, 100, age) for name, age in (("old", 20), ("older", 30), ("newer", 10))
    )
    working = room(tmp_path, 100, 350)
    assert not older.exists() and old.exists() and new.exists()
    assert (working / "0.npy").stat().st_size == 100
    shutil.rmtree(working)
    room(tmp_path, 100, 10_000)
    assert old.exists() and new.exists()


def test_room_is_taken_from_the_disk_at_once(tmp_path):
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system has no posix_fallocate")
    working = room(tmp_path, 10_000_000, 20_000_000)
    assert (working / "0.npy").stat().st_blocks * 512 >= 10_000_000


def test_what_can_never_fit_is_refused_and_nothing_is_removed(tmp_path):
    kept = a_set(tmp_path, "kept", 100, 10)
    with pytest.raises(OSError, match=r"need 2 kB, more than all may have \(1 kB\)") as refused:
        room(tmp_path, 2000, 1000)
    assert refused.value.errno == errno.EDQUOT
    shutil.rmtree(tmp_path / "new-working")
    petabyte = 10**15
    with pytest.raises(OSError, match="need 1000000 GB, more than is free") as refused:
        room(tmp_path, petabyte, 2 * petabyte)
    assert refused.value.errno == errno.ENOSPC
    assert kept.exists()


def test_a_set_open_elsewhere_stays_readable_after_it_went(tmp_path):
    folder = tmp_path / "used"
    folder.mkdir()
    np.save(folder / "0.npy", np.arange(100_000))
    script = """
import sys, numpy as np
array = np.load(sys.argv[1], mmap_mode="r")
print("open", flush=True)
sys.stdin.readline()
print(int(array.sum()))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, folder / "0.npy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout.readline() == "open\n"
        room(tmp_path, 100, 1000)
        assert not folder.exists()
        assert reader.communicate("\n")[0] == f"{99_999 * 50_000}\n"


def test_only_what_a_dead_process_left_is_removed(tmp_path):
    script = """
import pathlib, sys, tempfile
from agegender import disk
cache = pathlib.Path(sys.argv[1])
with disk.hold(cache / f"{sys.argv[2]}.lock"):
    working = tempfile.mkdtemp(dir=cache, prefix=f"{sys.argv[2]}-")
    print(working, flush=True)
    sys.stdin.readline()
"""
    cache, search = tmp_path / "features", tmp_path / "search"
    cache.mkdir()
    (search / "A").mkdir(parents=True)
    half, journal = search / "A" / f"{disk.TEMPORARY}ab_12xyz", search / "A" / "trials.json"
    for path in (half, journal):
        path.touch()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, cache, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            text=True,
        )
        for name in ("alive", "dead")
    ]
    alive, dead = (Path(writer.stdout.readline().strip()) for writer in writers)
    writers[1].kill()
    writers[1].communicate()
    disk.remove_leftovers(cache, search)
    assert alive.exists() and not dead.exists()
    assert journal.exists() and not half.exists()
    writers[0].communicate("\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "trials.json"), "trials.json"),
        (OSError(errno.EDQUOT, "too little"), "too little"),
        # as h5py and SQLite report it
        (OSError("write failed: errno = 28, error message = 'No space left on device'"), "errno"),
        (RuntimeError("Traceback:\nOSError: [Errno 28] No space left on device"), "OSError"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "is full"),
        (OSError(errno.EACCES, "no"), None),
        (ValueError("other"), None),
    ],
)
def test_a_full_disk_is_known_behind_any_error(error, said, tmp_path):
    wrapped = RuntimeError("the trial failed")
    wrapped.__cause__ = error
    for seen in (error, wrapped):
        line = disk.full(seen, tmp_path)
        assert (line is None) if said is None else (said in line and "make clean" in line)
