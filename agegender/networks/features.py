"""A frozen part's activations: computed once a key, memory-mapped, shared by all trials."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from agegender.networks import training


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
    on_progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Return each of `part`'s outputs for several views of the rows, float16 (rows, views, ...).

    pixels: uint8 (M, S, S, 3). View 0 is the picture itself, view 1 its mirror image, the others
    are random views (RandomView). key: whatever the result depends on, as JSON (backbone, cut, data
    digest ...); the rows, views and seed are added. The arrays are read-only memory maps of files
    in `cache`, written under another name and renamed when complete. on_progress gets (rows done,
    rows in all).
    """
    key = key | {"views": views, "seed": seed, "rows": hashlib.sha256(rows.tobytes()).hexdigest()}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / name
    paths = [folder / f"{number}.npy" for number in range(len(part.outputs))]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as working:
            complete = Path(working) / "complete"
            complete.mkdir()
            _write(part, pixels, rows, views, seed, batch_size, complete, on_progress)
            try:
                os.rename(complete, folder)
            except OSError:
                if not folder.exists():  # else another process was quicker
                    raise
    return [np.load(path, mmap_mode="r") for path in paths]


def _write(part, pixels, rows, views, seed, batch_size, folder, on_progress):
    """Write the .npy files piece by piece, not through a map, which would count as memory."""
    augment = training.RandomView(seed=seed)
    with contextlib.ExitStack() as stack:
        files = []
        for number, output in enumerate(part.outputs):
            files.append(stack.enter_context(open(folder / f"{number}.npy", "wb")))
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
                "fortran_order": False,
                "shape": (len(rows), views, *output.shape[1:]),
            }
            np.lib.format.write_array_header_2_0(files[-1], header)
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
