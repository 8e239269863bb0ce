"""Prepared faces, decoded once: a folder with a manifest and uint8 pixels to memory-map."""

import dataclasses
import json
import os
import re
import shutil
import sys
import tempfile
import time
import typing
from pathlib import Path

import numpy as np
import pandas as pd

from agegender import config, disk
from agegender.data import generated_faces as drawing
from agegender.data import sources, splits, utkface
from agegender.data.utkface import Reason, Rejection

SIDE_PIXELS = 128  # of every face
PIXELS, MANIFEST, REJECTED, RECORD = ("pixels.npy", "manifest.csv", "rejected.csv", "prepared.json")


@dataclasses.dataclass(frozen=True)
class Faces:
    """Prepared faces; row i of the manifest belongs to row i of the pixels."""

    folder: Path
    # name, age_years, gender (0 male, 1 female), race, group, split, split_reason
    manifest: pd.DataFrame
    pixels: np.ndarray  # uint8 (N, 128, 128, 3), RGB, a read-only memory map
    digest: str  # 32 hexadecimal digits, of manifest and pixels
    kind: str  # "utkface" or "generated"
    record: dict  # the content of RECORD

    def rows(self, *names: str) -> np.ndarray:
        """Return the row numbers, int64 ascending, of one or more splits; ValueError for others."""
        if not names or not set(names) <= set(splits.SPLITS):
            raise ValueError(f"splits {names}: expected some of {splits.SPLITS}")
        return np.flatnonzero(self.manifest["split"].isin(names)).astype(np.int64)

    @property
    def age_years(self) -> np.ndarray:
        """The ages in years, float32 (N,)."""
        return self.manifest["age_years"].to_numpy(np.float32)

    @property
    def gender(self) -> np.ndarray:
        """The genders, float32 (N,): 0 male, 1 female."""
        return self.manifest["gender"].to_numpy(np.float32)


def open_faces(folder: Path) -> Faces:
    """Open a prepared folder after comparing its files with their stored SHA-256.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or was changed.
    """
    record = json.loads((folder / RECORD).read_text())
    for name, checksum in record["checksums"].items():
        if disk.checksum(folder / name) != checksum:
            raise ValueError(f"{folder / name} is damaged or was changed: run `make prepare` again")
    manifest = pd.read_csv(folder / MANIFEST, keep_default_na=False)
    pixels = np.load(folder / PIXELS, mmap_mode="r")
    return Faces(folder, manifest, pixels, record["digest"], record["kind"], record)


def prepare(
    source: Path | None,
    cache: Path,
    *,
    seed: int = 0,
    generated_faces: int = config.Settings.generated_faces,
) -> Path:
    """Decode, group and split a source once; return its folder in the cache.

    source: folder, zip or tar of UTKFace pictures; None draws `generated_faces` faces.
    cache: folder of all prepared data; one process at a time prepares data in it, others wait.
    seed: of the split and of the drawn faces.

    Does nothing if the folder is intact and was made from the same files by the same program.
    Raises ValueError if no picture is usable or the faces cannot be split; `rejected.csv` in the
    folder then gives the reason for each file.
    """
    place, state = "generated", ""
    if source:
        generated_faces = 0
        place = utkface.printable(str(source.resolve()))
        state = sources.fingerprint(source)
    inputs = {"source": place, "seed": seed, "generated_faces": generated_faces}
    # The name ignores the content, so a changed source replaces its earlier version.
    key = disk.checksum(json.dumps([*inputs.values()]))[:12]
    name = re.sub("[^A-Za-z0-9]+", "-", Path(place).name)[:40].strip("-")
    folder = cache / f"{name}-{key}".lstrip("-")
    inputs |= {"state": state, "program": _program()}
    cache.mkdir(parents=True, exist_ok=True)
    waiting = f"another process is preparing data in {cache}: waiting for it"
    with disk.hold(cache / ".lock", waiting=waiting):
        for leftover in cache.glob(".building-*"):
            shutil.rmtree(leftover)  # Left by a killed process.
        problem = _problem(folder, inputs)
        if problem is None:
            return folder
        if (folder / RECORD).exists():
            _say(f"preparing {place} again: {problem}")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as building:
            working = Path(building)
            if source is None:
                _say(f"drawing {generated_faces:,} generated faces")
                source = working / "faces"
                drawing.write_faces(source, generated_faces, seed)
            problem = _build(source, working, inputs)
            if folder.exists():
                os.replace(folder, working / "replaced")
            os.replace(working / "prepared", folder)
    if problem:
        raise ValueError(f"{problem}; reasons for each file in {folder / REJECTED}")
    return folder


def summary(folder: Path) -> str:
    """Return a few lines on what was found, kept, rejected (with the first names) and split."""
    record = json.loads((folder / RECORD).read_text())
    rejected = pd.read_csv(folder / REJECTED, keep_default_na=False, dtype=str)
    counts = record["counts"]
    lines = [
        f"{counts['found']:,} files found in {record['source']}: "
        f"{counts['kept']:,} kept, {len(rejected):,} rejected"
    ]
    for reason, files in rejected.groupby("reason", sort=False)["name"]:
        more = ", ..." if len(files) > 3 else ""
        lines.append(f"  {len(files):,} {reason}: {', '.join(files[:3])}{more}")
    lines += [
        f"copies of a photo: {counts['groups']:,} groups of {counts['grouped_faces']:,} faces, "
        f"labels differ in {counts['conflicting_groups']:,} (kept out of validation and test)",
        ", ".join(f"{count:,} {split}" for split, count in counts["splits"].items()),
    ]
    if record["kind"] == "generated":
        lines.append("GENERATED faces: results on them say nothing about people")
    return "\n".join([*lines, f"digest {record['digest']}, in {folder}"])


def _build(source: Path, working: Path, inputs: dict) -> str | None:
    """Write rejects, manifest, pixels and record to working/prepared.

    Return None, or why the files yield no data; then only the rejects are written.
    """
    prepared = working / "prepared"
    prepared.mkdir()
    with (working / "decoded").open("w+b") as decoded:
        with sources.open_source(source) as files:
            listed = [file for file in files if file.name != utkface.GENERATED_MARKER]
            kind = "utkface" if len(listed) == len(files) else "generated"
            faces, thumbnails, rejected = _decode(listed, decoded)
        rejected.to_csv(prepared / REJECTED, index=False, lineterminator="\n")
        if faces.empty:
            found = [
                f"{len(rows):,} {reason} ({rows['detail'].iloc[0]})".removesuffix(" ()")
                for reason, rows in rejected.groupby("reason")
            ]
            nothing = f"no files, expected names like {utkface.EXPECTED_NAMES}"
            return f"no usable picture in {inputs['source']}: {'; '.join(found) or nothing}"
        order = faces.index.to_numpy()
        marks = faces.pop("checksum"), faces["name"].map(utkface.face_key)
        groups = splits.near_duplicate_groups(np.stack(thumbnails)[order], *marks)
        manifest = splits.assign_splits(
            faces.reset_index(drop=True).assign(group=groups),
            seed=inputs["seed"],
            # Drawn faces are named like UTKFace's but are not among them.
            test_names=splits.read_test_names() if kind == "utkface" else frozenset(),
        )
        try:
            splits.check_split(manifest)
        except ValueError as error:
            return str(error)
        manifest.to_csv(prepared / MANIFEST, index=False, lineterminator="\n")
        _write_pixels(prepared / PIXELS, decoded, order)
    _write_record(prepared, {"kind": kind, **inputs}, manifest, rejected)
    return None


def _write_record(
    prepared: Path, inputs: dict, manifest: pd.DataFrame, rejected: pd.DataFrame
) -> None:
    checksums = {name: disk.checksum(prepared / name) for name in (MANIFEST, PIXELS, REJECTED)}
    grouped = manifest[manifest.duplicated("group", keep=False)]
    record = inputs | {
        # MLflow keeps digests of at most 36 characters.
        "digest": disk.checksum(checksums[MANIFEST] + checksums[PIXELS])[:32],
        "counts": {
            "found": len(manifest) + len(rejected),
            "kept": len(manifest),
            "rejected": rejected["reason"].value_counts().to_dict(),
            "splits": manifest["split"].value_counts().to_dict(),
            "groups": grouped["group"].nunique(),
            "grouped_faces": len(grouped),
            "conflicting_groups": grouped["group"][splits.conflicting(grouped)].nunique(),
        },
        "checksums": checksums,
    }
    # No fsync of a gigabyte: after a power cut the checksums differ and it is prepared again.
    (prepared / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _decode(
    files: list[sources.SourceFile], decoded: typing.BinaryIO
) -> tuple[pd.DataFrame, list[np.ndarray], pd.DataFrame]:
    """Append the pixels of all usable pictures to `decoded`; return faces, thumbnails and rejects.

    faces: name, labels, checksum; one row per name, sorted by name so that a folder and its archive
    give the same digest. The index is the row in `decoded`.
    thumbnails: of all rows of `decoded`. rejects: name (with its path), reason, detail.
    """
    faces, thumbnails, rejected = [], [], []
    started = said = time.monotonic()
    for done, file in enumerate(files, start=1):
        try:
            data = file.read()
            pixels = utkface.decode(data, file.name, SIDE_PIXELS)
        except Rejection as error:
            rejected.append((file.path, str(error.reason), error.detail))
        else:
            decoded.write(pixels.data)
            thumbnails.append(splits.thumbnail(pixels))
            labels = utkface.parse_name(file.name)
            faces.append((file.name, *labels, disk.checksum(data), file.path))
        if (now := time.monotonic()) - said >= 1:
            said, left = now, (now - started) / done * (len(files) - done)
            _say(f"decoded {done:,} of {len(files):,} pictures, about {left:.0f} s left")
    table = pd.DataFrame(faces, columns=["name", *utkface.Labels._fields, "checksum", "path"])
    # Of several usable files with one name, keep the first path. Of one path that is in an archive
    # several times, keep the last file, as unpacking does.
    table = table[::-1].sort_values(["name", "path"], kind="stable")
    spare = table.duplicated("name")
    reason = str(Reason.DUPLICATE_NAME)
    rejected += [(path, reason, "another file is used") for path in table["path"][spare]]
    rejects = pd.DataFrame(sorted(rejected), columns=["name", "reason", "detail"])
    return table[~spare].drop(columns="path"), thumbnails, rejects


def _write_pixels(path: Path, decoded: typing.BinaryIO, order: np.ndarray) -> None:
    """Write the rows of `decoded` in this order to one .npy without loading them all at once."""
    shape = (len(order), SIDE_PIXELS, SIDE_PIXELS, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    row_bytes = SIDE_PIXELS * SIDE_PIXELS * 3
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for row in order:
            decoded.seek(int(row) * row_bytes)
            stream.write(decoded.read(row_bytes))


def _problem(folder: Path, inputs: dict) -> str | None:
    """Return why a prepared folder cannot be used as it is, or None."""
    try:
        before = open_faces(folder).record
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    if before.get("state") != inputs["state"]:
        return "its files have changed"
    return None if before.get("program") == inputs["program"] else "the program has changed"


def _program() -> str:
    """Hash what determines the result: this package's code and its list of test names."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), splits.TEST_NAMES_FILE]
    return disk.checksum(b"\0".join(path.read_bytes() for path in files))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
