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


def activations(
    part: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    cache: Path,
    key: dict,
    views: int = 2,
    seed: int = 0,
    batch_size: int = 64,
    most_gigabytes: float = math.inf,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Return each of `part`'s outputs for several views of the rows, float16 (rows, views, ...).

    pixels: uint8 (M, S, S, 3). View 0 is the picture itself, view 1 its mirror image, the others
    are random views (RandomView). key: whatever the result depends on, as JSON (backbone, cut, data
    digest ...); the rows, views and seed are added. The arrays are read-only memory maps of files
    in `cache`, written under another name and renamed when complete, by one process, for which
    others wait. The sets of `cache` that were used least recently go where all would be larger than
    most_gigabytes; OSError (ENOSPC, EDQUOT) where there is no room at all. on_progress gets (rows
    done, rows in all).
    """
    key = key | {"views": views, "seed": seed, "rows": disk.checksum(rows.tobytes())}
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
                headers = [_header((len(rows), views, *o.shape[1:])) for o in part.outputs]
                paths = [complete / array for array in arrays]
                sizes = [
                    len(header) + 2 * len(rows) * views * math.prod(output.shape[1:])
                    for header, output in zip(headers, part.outputs, strict=True)
                ]
                disk.make_room(
                    cache, dict(zip(paths, sizes, strict=True)), most_gigabytes=most_gigabytes
                )
                _write(part, pixels, rows, views, seed, batch_size, paths, headers, on_progress)
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
    seed: int,
    batch_size: int,
    paths: list[Path],
    headers: list[bytes],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Write the .npy files piece by piece, not through a map, which would count as memory."""
    augment = batches.RandomView(seed=seed)
    with contextlib.ExitStack() as stack:
        # Not emptied on opening: the room for them is allocated.
        files = [stack.enter_context(path.open("r+b")) for path in paths]
        for file, header in zip(files, headers, strict=True):
            file.write(header)
        for start in range(0, len(rows), batch_size):
            batch = pixels[rows[start : start + batch_size]]
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
