"""A frozen part's activations: computed once a key, memory-mapped, shared by all trials."""

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
    inputs: np.ndarray,
    rows: np.ndarray,
    *,
    cache: Path,
    key: dict,
    views: int = 2,
    seed: int = 0,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return `part`'s output for several views of each row, float16 (len(rows), views, ...).

    inputs: uint8 pixels (M, S, S, 3), of which view 0 is the picture itself, view 1 its mirror
    image and the others random views (RandomView); or activations (M, views, ...) from here.
    key: whatever the result depends on, as JSON (backbone, cut, data digest ...); the rows, views
    and seed are added. The array is a read-only memory map of a file in `cache`, written under
    another name and renamed when complete. on_progress gets (rows done, rows in all).
    """
    key = key | {"views": views, "seed": seed, "rows": hashlib.sha256(rows.tobytes()).hexdigest()}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"{name}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    cache.mkdir(parents=True, exist_ok=True)
    from_pixels = inputs.dtype == np.uint8
    augment = training.RandomView(seed=seed)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as folder:
        temporary = Path(folder) / path.name
        shape = (len(rows), views, *part.output.shape[1:])
        result = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        for start in range(0, len(rows), batch_size):
            batch = inputs[rows[start : start + batch_size]]
            for view in range(views):
                if not from_pixels:
                    seen = batch[:, view].astype("float32")
                elif view < 2:
                    seen = (batch[:, :, :: 1 - 2 * view] / 255).astype("float32")
                else:
                    seen = augment(batch, training=True)
                result[start : start + len(batch), view] = part.predict_on_batch(seen)
            if on_progress:
                on_progress(start + len(batch), len(rows))
        result.flush()
        del result
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r")
