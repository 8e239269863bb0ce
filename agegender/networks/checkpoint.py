"""An epoch's end in a file: all that the next epoch depends on, so that it goes on exactly."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from agegender import disk


class CheckpointError(RuntimeError):
    """A checkpoint is torn, or of another training; the message names the file."""


def save(
    path: Path,
    trained: keras.Model,
    history: list[dict[str, float]],
    best_weights: list[np.ndarray] | None,
    identity: dict[str, Any],
) -> None:
    """Write weights, optimizer, random states, history and best weights, in one step.

    identity: all that distinguishes this training from others, as JSON.
    """
    arrays = {f"state_{n}": np.asarray(v) for n, v in enumerate(_state(trained))}
    arrays |= {f"best_{n}": value for n, value in enumerate(best_weights or [])}
    notes = json.dumps({"identity": identity, "history": history})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, notes=np.array(notes), **arrays)
    disk.write(path, file.getvalue())


def restore(
    path: Path, trained: keras.Model, identity: dict[str, Any]
) -> tuple[list[dict[str, float]], list[np.ndarray] | None]:
    """Put back what `save` wrote; return the history and the best weights so far.

    CheckpointError where the file cannot be read or was left by another training.
    """
    hint = f"Remove {path} to train from the start."
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = dict(file)
        notes = json.loads(str(arrays.pop("notes")))
        history, found = notes["history"], notes["identity"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a checkpoint ({error}). {hint}") from error
    state = _state(trained)
    if found != json.loads(json.dumps(identity)) or any(
        arrays[f"state_{n}"].shape != tuple(variable.shape) for n, variable in enumerate(state)
    ):
        raise CheckpointError(
            f"{path} was left by another training: {found}; this one is {identity}. {hint}"
        )
    for n, variable in enumerate(state):
        variable.assign(arrays[f"state_{n}"])
    best = [arrays[f"best_{n}"] for n in range(len(arrays) - len(state))]
    return history, best or None


def _state(trained: keras.Model) -> list[keras.Variable]:
    # All but the pixels that stay on a device.
    variables = [variable for variable in trained.variables if variable.dtype != "uint8"]
    return [*variables, *trained.optimizer.variables]
