"""The disk: room is made before anything is computed."""

import errno
import os
import shutil
import time

import numpy as np
import pytest

from agegender import disk


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
    with pytest.raises(OSError, match="need 2.00 GB, more than the limit of 1.00 GB") as refused:
        room(tmp_path, 2 * 10**9, 10**9)
    assert refused.value.errno == errno.EDQUOT
    shutil.rmtree(tmp_path / "new-working")
    petabyte = 10**15
    with pytest.raises(OSError, match="need 1,000,000.00 GB, more than is free") as refused:
        room(tmp_path, petabyte, 2 * petabyte)
    assert refused.value.errno == errno.ENOSPC
    assert kept.exists()


def test_a_set_in_use_stays_readable_after_it_went(tmp_path):
    folder = tmp_path / "used"
    folder.mkdir()
    np.save(folder / "0.npy", np.arange(100_000))
    array = np.load(folder / "0.npy", mmap_mode="r")
    room(tmp_path, 100, 1000)
    assert not folder.exists() and int(array.sum()) == 99_999 * 50_000


def test_only_what_nobody_writes_is_removed(tmp_path):
    cache, search = tmp_path / "features", tmp_path / "search"
    for folder in (cache / "written-1", cache / "left-1", search / "A"):
        folder.mkdir(parents=True)
    half, journal = search / "A" / f"{disk.TEMPORARY}ab_12xyz", search / "A" / "trials.json"
    for path in (half, journal):
        path.touch()
    with disk.hold(cache / "written.lock"):
        disk.remove_leftovers(cache, search)
    assert (cache / "written-1").exists() and not (cache / "left-1").exists()
    assert journal.exists() and not half.exists()


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
