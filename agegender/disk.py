"""What lies on the disk, why, and what removes it; files that a crash leaves whole.

Standard library only, so that it can be listed in a clone where nothing has been installed.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
KEY = "key.json"  # beside activations: what they depend on
TEMPORARY = ".being-written-"
CLEAN = "make clean"
BY_HAND = "only you"


def write(path: Path, content: str | bytes) -> None:
    """Replace a file, in one step and on the disk, not only in the system's memory.

    OSError where there is no room or no permission: the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, which the system gives back however the process ends.

    BlockingIOError where another process holds it and `wait` is False.
    """
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links count nothing."""
    if path.is_symlink() or not path.is_dir():
        return 0 if path.is_symlink() or not path.exists() else path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # Another process removed it just now.
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def make_room(cache: Path, files: dict[Path, int], *, most_gigabytes: float) -> None:
    """Allocate `files` (path: bytes) under `cache`; sets of activations go until they fit.

    The least recently used set goes first. A set that another process has open may go too: POSIX
    keeps the pages of an unlinked file for as long as it is mapped. So does what killed processes
    left. OSError with EDQUOT where the files alone are larger than the budget, with ENOSPC where
    the disk has no room for them, before anything is computed.
    """
    needed_bytes, budget_bytes = sum(files.values()), most_gigabytes * 1e9
    needs = f"Activations of B's backbone for these faces need {in_units(needed_bytes)}"
    if needed_bytes > budget_bytes:
        least = math.ceil(needed_bytes / 1e8) / 10
        raise OSError(
            errno.EDQUOT,
            f"{needs}, more than all may have ({in_units(budget_bytes)}): set FEATURES_GIGABYTES "
            f"to {least} or more",
            str(cache),
        )
    with hold(cache / ".lock"):  # Two processes must not take the same room.
        _remove_leftovers(cache)
        sets = sorted(_sets(cache), key=lambda folder: folder.stat().st_mtime)
        if needed_bytes > _free(cache) + sum(map(size, sets)):
            raise OSError(errno.ENOSPC, f"{needs}, more than is free", str(cache))
        while sets and (size(cache) + needed_bytes > budget_bytes or needed_bytes > _free(cache)):
            oldest = sets.pop(0)
            # Renamed before it is removed, so that half a set is never found under its name.
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{oldest.name}-") as gone:
                oldest.rename(Path(gone) / oldest.name)
        for path, count in files.items():
            with path.open("wb") as file:
                file.truncate(count)
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, count)


def remove_leftovers(cache: Path, folder: Path) -> None:
    """Remove what killed processes left half written in `cache` and, of a search, in `folder`.

    cache: that of activations. folder: a search's, held by this process.
    """
    if cache.exists():
        with hold(cache / ".lock"):
            _remove_leftovers(cache)
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()


def _remove_leftovers(cache: Path) -> None:
    # Working folders are called NAME-something, and who writes in one holds NAME.lock.
    for folder in cache.glob("*-*/"):
        lock = cache / f"{folder.name.partition('-')[0]}.lock"
        with contextlib.suppress(BlockingIOError), hold(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def full(error: BaseException | None, place: Path) -> str | None:
    """Return a line to show where a full disk, or a spent share of it, is behind an error, or None.

    place: what is on that disk, where the error does not say. What writes through a library (HDF5,
    SQLite) says so in words alone, perhaps in a traceback.
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
                f"{(lines or [text])[0]}: the disk of {where} has {in_units(_free(disk))} free. "
                "`make disk` lists what is kept and what removes it. Nothing finished is lost: the "
                "same command goes on."
            )
        error = error.__cause__ or error.__context__
    return None


def in_units(count: float) -> str:
    """Return a number of bytes as people read it: 1.7 GB, 25 MB, 3 kB."""
    for power, unit in ((3, "GB"), (2, "MB")):
        if count >= 1000**power:
            value = count / 1000**power
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count / 1000:.0f} kB"


def kept(root: Path, features_gigabytes: float) -> list[tuple[Path, str, str]]:
    """Return (path, why it is kept, what removes it) of all that is made in a clone, by place."""
    cache, store = root / ".cache", root / "mlruns"
    rows = []
    for folder in _folders(cache / "data"):
        rows.append((folder, _prepared(folder), CLEAN))
    room = f"itself, the least used first, over {features_gigabytes:g} GB; {CLEAN}"
    for folder in _folders(cache / "features"):
        if "-" in folder.name:
            rows.append((folder, "being computed, or left by a killed process", "the next search"))
        else:
            rows.append((folder, _activations(folder), room))
    for search in _folders(cache / "searches"):
        for folder in _folders(search):
            why = "candidate" if any(folder.rglob("candidate.json")) else "finished trials"
            if running := len(_folders(folder / "checkpoints")):
                why += f", {running} running or interrupted"
            rows.append((folder, f"{why}: the same command goes on from here", CLEAN))
    rows.append((cache / "weights", "pretrained weights, fetched once", BY_HAND))
    rows.append((store / "mlflow.db", "runs, metrics, registry", BY_HAND))
    for folder in _folders(store / "artifacts"):
        why = f"{len(_folders(folder))} runs' models and figures"
        rows.append((folder, why, "deleting runs in `make ui`, then `mlflow gc`"))
    for name, why in (
        ("data", "the real faces, as downloaded"),
        ("exports", "the champions' .h5"),
        ("reports", "pages for readers"),
        ("predictions", "marked photos"),
        (".venv", "the environment, from the lock"),
    ):
        rows.append((root / name, why, "only you; `make setup`" if name == ".venv" else BY_HAND))
    return [row for row in rows if row[0].exists()]


def table(root: Path, features_gigabytes: float) -> str:
    """Return the listing of `make disk`: place, size, last use, reason, what removes it; a sum."""
    rows = [("SIZE", "TOUCHED", "WHERE", "WHY", "GOES BY")]
    total = 0
    for path, why, goes in kept(root, features_gigabytes):
        total += (count := size(path))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        where = f"{path.relative_to(root)}{' (a link)' if path.is_symlink() else ''}"
        rows.append((in_units(count), used, where, why, goes))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    store = "sqlite:///mlruns/mlflow.db"
    features = size(root / ".cache" / "features")
    return "\n".join(
        [
            *lines,
            f"{in_units(total)} in all; activations {in_units(features)} of {features_gigabytes:g} "
            f"GB (FEATURES_GIGABYTES=); {in_units(_free(root))} free on this disk.",
            f"`{CLEAN}` removes .cache/data, .cache/features and .cache/searches; all three can be "
            "made again. Of runs deleted in `make ui` the artifacts go by",
            f"MLFLOW_TRACKING_URI={store} .venv/bin/mlflow gc --backend-store-uri {store}",
        ]
    )


def _free(place: Path) -> int:
    return shutil.disk_usage(place).free


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*/") if path.is_dir())


def _sets(cache: Path) -> list[Path]:
    return [folder for folder in _folders(cache) if "-" not in folder.name]


def _prepared(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((folder / "prepared.json").read_text())
        return f"pixels of {record['counts']['kept']:,} {record['kind']} faces, decoded once"
    return "faces being prepared, or left by a killed process"


def _activations(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        key = json.loads((folder / KEY).read_text())
        return (
            f"{key['backbone']} at {key['internal_size_pixels']} px up to {key['cut']}, "
            f"{key['views']} views of {key['faces']:,} faces: for every trial of B"
        )
    return "activations of B's backbone, for every trial"
