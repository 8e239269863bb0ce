"""Faces decoded once: manifest and uint8 pixels in a folder, memory-mapped, shared by everybody."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from agegender import config
from agegender.data import generated_faces as drawing
from agegender.data import splits, utkface

PIXELS, MANIFEST, REJECTED, RECORD = ("pixels.npy", "manifest.csv", "rejected.csv", "prepared.json")


@dataclasses.dataclass(frozen=True)
class Faces:
    """Prepared faces; row i of the manifest is row i of the pixels.

    manifest: name, age_years, gender (0 male, 1 female), race, group, split, split_reason.
    pixels: uint8 (N, S, S, 3) RGB, read-only memory map. digest: 32 hexadecimal digits over both.
    kind: "utkface" or "generated". record: what `prepare` noted (source, seed, counts, settings).
    """

    folder: Path
    manifest: pd.DataFrame
    pixels: np.ndarray
    digest: str
    kind: str
    record: dict

    def rows(self, *names: str) -> np.ndarray:
        """Row numbers, int64 ascending, of one or several splits; raises ValueError on others."""
        if not names or not set(names) <= set(splits.SPLITS):
            raise ValueError(f"splits {names}: expected some of {splits.SPLITS}")
        return np.flatnonzero(self.manifest["split"].isin(names)).astype(np.int64)

    @property
    def age_years(self) -> np.ndarray:
        """Ages in years, float32 (N,)."""
        return self.manifest["age_years"].to_numpy(np.float32)

    @property
    def gender(self) -> np.ndarray:
        """Genders, float32 (N,): 0 male, 1 female."""
        return self.manifest["gender"].to_numpy(np.float32)


def open_faces(folder: Path) -> Faces:
    """Open a prepared folder after comparing its files with their stored SHA-256.

    The whole check costs about .13 s for 5,000 faces and .6 s for 20,000. Raises FileNotFoundError
    where a file is missing and ValueError where one is torn or was changed.
    """
    record = json.loads((folder / RECORD).read_text())
    for name, checksum in record["checksums"].items():
        if _checksum(folder / name) != checksum:
            raise ValueError(f"{folder / name} is torn or was changed: prepare the data again")
    manifest = pd.read_csv(folder / MANIFEST, keep_default_na=False)
    pixels = np.load(folder / PIXELS, mmap_mode="r")
    return Faces(folder, manifest, pixels, record["digest"], record["kind"], record)


def prepare(
    source: Path | None,
    cache: Path,
    *,
    image_size_pixels: int = 128,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    generated_faces: int = config.Settings.generated_faces,
) -> Path:
    """Decode, group and split a source once; return its folder below the cache.

    source: folder, zip or tar of UTKFace pictures; None draws `generated_faces` faces. Nothing is
    done where the folder is there, sound, and made from the same files by the same program. One
    process prepares at a time, the others wait for it. Says on standard error what it does. Raises
    ValueError where the source holds nothing of use or the faces cannot be split.
    """
    settings = {
        "image_size_pixels": image_size_pixels,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
    }
    if source is None:
        settings["generated_faces"] = generated_faces
        place, state = "generated", ""
    else:
        source = source.expanduser()  # make passes ~ on as it is
        place, state = str(source.resolve()), utkface.fingerprint(source)
    inputs = {"source": place, "state": state, "program": _program()}
    inputs |= {"seed": seed, "settings": settings}
    # One folder for a place and settings: a source that changed replaces what it was.
    key = hashlib.sha256(json.dumps([place, seed, settings]).encode()).hexdigest()[:12]
    folder = cache / f"{re.sub('[^A-Za-z0-9]+', '-', Path(place).name)}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with _only_process(cache):
        for leftover in cache.glob(".building-*"):
            shutil.rmtree(leftover)  # Of a process that was killed.
        problem = _problem(folder, inputs)
        if problem is None:
            return folder
        if folder.exists():
            _say(f"preparing {place} again: {problem}")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as name:
            working = Path(name)
            if source is None:
                _say(f"drawing {generated_faces:,} generated faces")
                source = working / "faces"
                drawing.write_faces(source, generated_faces, seed)
            _build(source, working, inputs)
            if folder.exists():
                os.replace(folder, working / "replaced")
            os.replace(working / "prepared", folder)
    return folder


def summary(folder: Path, *, names: int = 3) -> str:
    """Tell in a few lines what was found, kept, rejected (with the first names) and split."""
    record = json.loads((folder / RECORD).read_text())
    manifest = pd.read_csv(folder / MANIFEST, keep_default_na=False)
    rejected = pd.read_csv(folder / REJECTED, keep_default_na=False)
    counts = record["counts"]
    lines = [
        f"{counts['found']:,} files found in {record['source']}: "
        f"{counts['kept']:,} kept, {counts['found'] - counts['kept']:,} rejected"
    ]
    for reason, files in rejected.groupby("reason", sort=False)["name"]:
        more = f" and {len(files) - names:,} more" if len(files) > names else ""
        lines.append(f"  {len(files):,} {reason}: {', '.join(files[:names])}{more}")
    lines.append(
        f"near-duplicates: {counts['groups']:,} groups of {counts['grouped_faces']:,} faces, "
        f"labels differ in {counts['conflicting_groups']:,} (kept out of validation and test)"
    )
    for split in splits.SPLITS:
        part = manifest[manifest["split"] == split]
        if len(part):
            lines.append(
                f"  {split:<10} {len(part):>6,} faces, median age {part['age_years'].median():g}, "
                f"female {part['gender'].mean():.2f}"
            )
    if record["kind"] == "generated":
        lines.append("GENERATED faces: numbers from them say nothing about people")
    return "\n".join([*lines, f"digest {record['digest']}, in {folder}"])


def _build(source: Path, working: Path, inputs: dict) -> None:
    """Write manifest, pixels, rejects and record to working/prepared."""
    settings, prepared = inputs["settings"], working / "prepared"
    prepared.mkdir()
    with utkface.open_source(source) as files, (working / "decoded").open("w+b") as decoded:
        listed = [file for file in files if file.name != utkface.GENERATED_MARKER]
        kind = "utkface" if len(listed) == len(files) else "generated"
        faces, thumbnails, rejected = _decode(listed, decoded, settings["image_size_pixels"])
        if not faces:
            reasons = collections.Counter(str(reject["reason"]) for reject in rejected)
            found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
            raise ValueError(
                f"no usable picture in {inputs['source']} ({found or 'no file at all'}): expected "
                f"names like {utkface.EXPECTED_NAMES}"
            )
        # By name, whatever the order in the source: a folder and its archive give the same digest.
        manifest = pd.DataFrame(faces).sort_values("name")
        order = manifest.index.to_numpy()
        _write_pixels(prepared / PIXELS, decoded, order, settings["image_size_pixels"])
    manifest = manifest.reset_index(drop=True)
    groups = splits.near_duplicate_groups(np.stack(thumbnails)[order], manifest.pop("checksum"))
    manifest = splits.assign_splits(
        manifest.assign(group=groups),
        seed=inputs["seed"],
        validation_fraction=settings["validation_fraction"],
        test_fraction=settings["test_fraction"],
        # Drawn faces have UTKFace's kind of names, but are none of its faces.
        test_names=splits.read_test_names() if kind == "utkface" else frozenset(),
    )
    splits.check_split(manifest)
    manifest.to_csv(prepared / MANIFEST, index=False, lineterminator="\n")
    table = pd.DataFrame(rejected, columns=["name", "reason", "detail"])
    table.to_csv(prepared / REJECTED, index=False, lineterminator="\n")

    checksums = {name: _checksum(prepared / name) for name in (MANIFEST, PIXELS, REJECTED)}
    both = checksums[MANIFEST] + checksums[PIXELS]
    grouped = manifest[manifest.duplicated("group", keep=False)]
    record = {
        "kind": kind,
        # MLflow keeps digests of at most 36 characters.
        "digest": hashlib.sha256(both.encode()).hexdigest()[:32],
        **inputs,
        "counts": {
            "found": len(listed),
            "kept": len(manifest),
            "rejected": table["reason"].value_counts().to_dict(),
            "splits": manifest["split"].value_counts().to_dict(),
            "groups": grouped["group"].nunique(),
            "grouped_faces": len(grouped),
            "conflicting_groups": grouped["group"][splits.conflicting(grouped)].nunique(),
        },
        "checksums": checksums,
        "prepared_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    # No fsync of a gigabyte: after a power cut the checksums tell, and it is prepared again.
    (prepared / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _decode(
    files: list[utkface.SourceFile], decoded, image_size_pixels: int
) -> tuple[list[dict], list[np.ndarray], list[dict]]:
    """Append the pixels of all usable files to `decoded`: their rows, thumbnails and the rejects.

    Threads, since Pillow decodes without holding the interpreter (5,800 pictures/s with one, 8,400
    with two on two cores; two processes 4,600). The files are read here, in the order given.
    """

    def work(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray, str]:
        pixels = utkface.decode(data, name, image_size_pixels)
        return pixels, splits.thumbnail(pixels), hashlib.sha256(data).hexdigest()

    faces, thumbnails, rejected = [], [], []
    waiting = collections.deque()

    def collect() -> None:
        path, face, future = waiting.popleft()
        try:
            pixels, small, checksum = future.result()
        except utkface.Rejection as error:
            rejected.append({"name": path, "reason": error.reason, "detail": error.detail})
        else:
            decoded.write(pixels.data)
            thumbnails.append(small)
            faces.append(face | {"checksum": checksum})

    seen, workers = set(), os.cpu_count() or 1
    started = said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done, file in enumerate(files):
            try:
                data = file.read()
                labels = utkface.parse_name(file.name)
                if file.name in seen:
                    raise utkface.Rejection(utkface.Reason.DUPLICATE_NAME, "the first is kept")
            except utkface.Rejection as error:
                rejected.append({"name": file.path, "reason": error.reason, "detail": error.detail})
                continue
            seen.add(file.name)
            face = {"name": file.name} | labels._asdict()
            waiting.append((file.path, face, pool.submit(work, file.name, data)))
            if len(waiting) > 4 * workers:  # Bounds the memory.
                collect()
            if (now := time.monotonic()) - said >= 1:
                said, left = now, (now - started) / max(1, done) * (len(files) - done)
                _say(f"decoded {done:,} of {len(files):,} pictures, about {left:.0f} s left")
        while waiting:
            collect()
    return faces, thumbnails, sorted(rejected, key=lambda reject: reject["name"])


def _write_pixels(path: Path, decoded, order: np.ndarray, image_size_pixels: int) -> None:
    """Write rows of raw pixels as one .npy in another order, without holding them in memory."""
    shape = (image_size_pixels, image_size_pixels, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(order), *shape)}
    row_bytes = int(np.prod(shape))
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for row in order:
            decoded.seek(int(row) * row_bytes)
            stream.write(decoded.read(row_bytes))


def _problem(folder: Path, inputs: dict) -> str | None:
    """Tell why a prepared folder cannot be used as it is, or None."""
    try:
        before = open_faces(folder).record
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    changed = [name for name in inputs if before.get(name) != inputs[name]]
    names = {"state": "its files have changed", "program": "the program has changed"}
    return ", ".join(names.get(name, f"another {name}") for name in changed) or None


def _program() -> str:
    """Hash what decides the outcome: the source of this package and its list of test names."""
    here = Path(__file__).parent
    sources = sorted(here.glob("*.py")) + [splits.TEST_NAMES_FILE]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _only_process(cache: Path) -> Iterator[None]:
    """Hold the lock of the cache, which the system gives back however the process ends."""
    with (cache / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process prepares data in {cache}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
