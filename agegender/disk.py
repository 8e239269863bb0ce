"""Locks, checksums, disk space and crash-safe file writes. Standard library only."""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY = ".being-written-"


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one step and flush it to disk.

    Raises OSError if there is no space or no permission; the old file is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{os.urandom(8).hex()}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(content: Path | bytes | str) -> str:
    """Return the SHA-256 of a file, bytes or text: 64 hexadecimal digits."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = True, waiting: str = "") -> Iterator[TextIO]:
    """Lock a file and yield it open; the system releases the lock however the process ends.

    If another process holds the lock, print `waiting` and wait, or raise BlockingIOError.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def make_room(cache: Path, files: dict[Path, int], most_gigabytes: float) -> None:
    """Allocate `files` (path: bytes) under `cache`, removing sets of activations until they fit.

    Leftovers of killed processes go first, then the least recently used sets. A set that another
    process has open may go too, because a file stays readable while it is mapped. Raises OSError:
    EDQUOT if the files alone exceed the budget, ENOSPC if the disk has no space for them.
    """
    needed_bytes, budget_bytes = sum(files.values()), most_gigabytes * 1e9
    needs = f"Activations of B's backbone for these faces need {_gigabytes(needed_bytes)}"
    if needed_bytes > budget_bytes:
        words = (
            f"{needs}, more than the limit of {_gigabytes(budget_bytes)}: set FEATURES_GIGABYTES "
            f"to {math.ceil(needed_bytes / 1e8) / 10} or more"
        )
        raise OSError(errno.EDQUOT, words, str(cache))
    with hold(cache / ".lock"):  # Two processes must not claim the same space.
        _remove_leftovers(cache)
        sets = [folder for folder in cache.glob("*/") if "-" not in folder.name]
        sets.sort(key=lambda folder: folder.stat().st_mtime)
        if needed_bytes > _free(cache) + sum(map(_size, sets)):
            raise OSError(errno.ENOSPC, f"{needs}, more than is free", str(cache))
        while sets and (_size(cache) + needed_bytes > budget_bytes or needed_bytes > _free(cache)):
            oldest = sets.pop(0)
            # Rename it before removing it, so that its name never refers to half a set.
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{oldest.name}-") as gone:
                oldest.rename(Path(gone) / oldest.name)
        for path, count in files.items():
            with path.open("wb") as file:
                file.truncate(count)
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, count)


def remove_leftovers(cache: Path, folder: Path) -> None:
    """Remove what killed processes left half-written.

    cache: the activation cache. folder: a search's folder, locked by this process.
    """
    if cache.exists():
        with hold(cache / ".lock"):
            _remove_leftovers(cache)
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()


def _remove_leftovers(cache: Path) -> None:
    # Working folders are named NAME-something; a process that writes in one holds NAME.lock.
    for folder in cache.glob("*-*/"):
        lock = cache / f"{folder.name.partition('-')[0]}.lock"
        with contextlib.suppress(BlockingIOError), hold(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def full(error: BaseException | None, place: Path) -> str | None:
    """Return a message for the user if a full disk or quota caused the error, else None.

    place: a path on that disk, used if the error names none. HDF5 and SQLite report a full disk
    only in words, sometimes inside a traceback.
    """
    words = [os.strerror(number) for number in FULL] + ["database or disk is full"]
    while error is not None:
        known = isinstance(error, OSError) and error.errno in FULL
        if known or any(word in str(error) for word in words):
            text = getattr(error, "strerror", None) or str(error)
            lines = [line for line in text.splitlines() if any(word in line for word in words)]
            where = Path(getattr(error, "filename", None) or place)
            disk = next(folder for folder in (where, *where.parents) if folder.exists())
            return (
                f"{(lines or [text])[0]}: the disk of {where} has {_gigabytes(_free(disk))} free. "
                "`du -sh .cache/* mlruns` shows what is stored. Remove .cache/features, which is "
                "rebuilt when needed, and run the same command to continue. `make clean` frees "
                "more, but unfinished searches start over."
            )
        error = error.__cause__ or error.__context__
    return None


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def _free(place: Path) -> int:
    return shutil.disk_usage(place).free


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # Another process just removed it.
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
