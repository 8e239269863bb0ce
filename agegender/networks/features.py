"""A frozen part's activations: computed once a key, memory-mapped, shared by all trials."""

import contextlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from agegender import disk
from agegender.networks import batches

BATCH_SIZE = 64


def activations(
    part: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    cache: Path,
    key: dict,
    views: int,
    most_gigabytes: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Return each of `part`'s outputs for several views of the rows, float16 (rows, views, ...).

    pixels: uint8 (M, S, S, 3).
    cache: folder of the sets of activations, each in read-only memory maps; one process computes a
        set, for which others wait.
    key: what the result depends on besides rows and views, as JSON: backbone, cut, data digest.
    views: 0 is the picture itself, 1 its mirror image, the others are random (`RandomView`).
    most_gigabytes: of all sets; those that were used least recently go.
    on_progress: gets (rows done, rows in all).

    OSError (ENOSPC, EDQUOT) where there is no room at all.
    """
    key = key | {"views": views, "seed": 0, "rows": disk.checksum(rows.tobytes())}
    name = disk.checksum(json.dumps(key, sort_keys=True))[:16]
    folder = cache / name
    arrays = [f"{number}.npy" for number in range(len(part.outputs))]
    cache.mkdir(parents=True, exist_ok=True)
    while True:
        # Another process may remove the set, to make room, at any moment until it is open.
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder)  # the mark of use
            return [np.load(folder / array, mmap_mode="r") for array in arrays]
        with disk.hold(cache / f"{name}.lock"):
            if all((folder / array).exists() for array in arrays):
                continue  # Another process was quicker.
            shutil.rmtree(folder, ignore_errors=True)  # a set that somebody took a file from
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as working:
                complete = Path(working) / "complete"
                complete.mkdir()
                (complete / "key.json").write_text(json.dumps(key | {"faces": len(rows)}))
                shapes = [(len(rows), views, *output.shape[1:]) for output in part.outputs]
                paths = [complete / array for array in arrays]
                headers = dict(zip(paths, map(_header, shapes), strict=True))
                sizes = (len(_header(shape)) + 2 * math.prod(shape) for shape in shapes)
                disk.make_room(cache, dict(zip(paths, sizes, strict=True)), most_gigabytes)
                _write(part, pixels, rows, views, headers, on_progress)
                os.rename(complete, folder)


def _header(shape: tuple[int, ...]) -> bytes:
    """Return how a .npy file of float16 begins."""
    stream = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float16))
    np.lib.format.write_array_header_2_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _write(
    part: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    views: int,
    headers: dict[Path, bytes],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Write .npy files piece by piece, not through a map, which would count as memory.

    headers: how each begins. Room for them has been allocated.
    """
    augment = batches.RandomView(seed=0)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("r+b")) for path in headers]  # Not emptied.
        for file, header in zip(files, headers.values(), strict=True):
            file.write(header)
        for start in range(0, len(rows), BATCH_SIZE):
            batch = pixels[rows[start : start + BATCH_SIZE]]
            seen = [
                augment(batch, training=True)
                if view > 1
                else (batch[:, :, :: 1 - 2 * view] / 255).astype("float32")
                for view in range(views)
            ]
            found = zip(*(part.predict_on_batch(view) for view in seen), strict=True)
            for file, of_views in zip(files, found, strict=True):
                np.stack(of_views, axis=1).astype(np.float16).tofile(file)
            if on_progress:
                on_progress(start + len(batch), len(rows))
        for file in files:
            # Else a power cut could leave the allocated room, not yet written, as a set of zeros.
            file.flush()
            os.fsync(file.fileno())
