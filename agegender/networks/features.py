"""Activations of the frozen layers: computed once per key, memory-mapped, shared by all trials."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from agegender import disk
from agegender.networks import batches

BATCH_SIZE = 64
HEADER_BYTES = 128  # of a .npy file


@dataclasses.dataclass(frozen=True)
class Cached:
    """The activations that all trials share, and the folder that holds them.

    folder: holds the sets of activations, each as read-only memory maps.
    key: what they depend on besides layer, views and rows, as JSON: backbone, size, data digest.
    cut: name of the layer whose activations are computed once; nothing below it is trained on them.
    views: number of views per face: the picture, its mirror image, then random ones (`RandomView`).
    gigabytes: limit for all sets together; the least recently used are removed.
    """

    folder: Path
    key: dict[str, Any]
    cut: str
    views: int
    gigabytes: float

    def activations(
        self,
        part: keras.Model,
        pixels: np.ndarray,
        rows: np.ndarray,
        on_progress: Callable[[int, int], None],
    ) -> list[np.ndarray]:
        """Return each of `part`'s outputs for all views of the rows, float16 (rows, views, ...).

        One process computes a set while others wait for it. Raises OSError (ENOSPC, EDQUOT) if
        there is no room at all.

        pixels: uint8 (M, S, S, 3).
        on_progress: gets (rows done, rows in total).
        """
        key = self.key | {"cut": self.cut, "views": self.views, "seed": 0}
        key["rows"] = disk.checksum(rows.tobytes())
        name = disk.checksum(json.dumps(key, sort_keys=True))[:16]
        folder = self.folder / name
        arrays = [f"{number}.npy" for number in range(len(part.outputs))]
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk.hold(self.folder / f"{name}.lock"):
            while True:
                # Until the set is open, another process may remove it to make room.
                with contextlib.suppress(FileNotFoundError):
                    os.utime(folder)  # Marks the set as used.
                    return [np.load(folder / array, mmap_mode="r") for array in arrays]
                shutil.rmtree(folder, ignore_errors=True)  # A set with a file missing.
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{name}-") as working:
                    complete = Path(working) / "complete"
                    complete.mkdir()
                    (complete / "key.json").write_text(json.dumps(key | {"faces": len(rows)}))
                    shapes = {
                        complete / array: (len(rows), self.views, *output.shape[1:])
                        for array, output in zip(arrays, part.outputs, strict=True)
                    }
                    room = {path: HEADER_BYTES + 2 * math.prod(shapes[path]) for path in shapes}
                    disk.make_room(self.folder, room, self.gigabytes)
                    _write(part, pixels, rows, shapes, on_progress)
                    os.rename(complete, folder)


def _write(
    part: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    shapes: dict[Path, tuple[int, ...]],
    on_progress: Callable[[int, int], None],
) -> None:
    """Write .npy files piece by piece; a memory map would count as memory.

    shapes: (rows, views, ...) of the array in each file; the space for it is already allocated.
    """
    augment = batches.RandomView(seed=0)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("r+b")) for path in shapes]  # Not truncated.
        for file, shape in zip(files, shapes.values(), strict=True):
            kind = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, kind)
        for start in range(0, len(rows), BATCH_SIZE):
            batch = pixels[rows[start : start + BATCH_SIZE]]
            seen = [
                augment(batch, training=True)
                if view > 1
                else (batch[:, :, :: 1 - 2 * view] / 255).astype("float32")
                for view in range(shape[1])
            ]
            found = zip(*(part.predict_on_batch(view) for view in seen), strict=True)
            for file, of_views in zip(files, found, strict=True):
                np.stack(of_views, axis=1).astype(np.float16).tofile(file)
            on_progress(start + len(batch), len(rows))
        for file in files:
            # Otherwise a power cut could leave allocated but unwritten space as a set of zeros.
            file.flush()
            os.fsync(file.fileno())
