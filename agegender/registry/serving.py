"""The pyfunc of a registered model: faces in, a table of ages and genders out.

MLflow stores this file with the model ("models from code") and runs it wherever the model is
loaded, so it imports nothing from this project. Requests to a model server come from strangers, so
there it reads no files and limits the number of faces.
"""

import base64
import io
import json
import os
import pathlib
import threading

import keras
import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageOps
from mlflow.pyfunc import PythonModel  # mlflow.pyfunc loads lazily and has no type

BATCH_SIZE = 64
MOST_BYTES = 8 * 2**20  # per picture file
MOST_PIXELS = 4096 * 4096  # 48 MiB when decoded
MOST_SERVED = 64  # faces per request
# Pillow reads forty more formats, one of them by starting Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP")
# MLflow's own variable: each of its model servers sets it after loading the model.
SERVED = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
# Requests run in threads, and a network on JAX holds its state in itself while it predicts.
one_at_a_time = threading.Lock()


class NoFaceError(mlflow.MlflowException, ValueError):
    """A ValueError that MLflow's server answers with 400; others get 500 or a stack trace."""

    def __init__(self, message: str):
        super().__init__(message, mlflow.protos.databricks_pb2.INVALID_PARAMETER_VALUE)

    def serialize_as_json(self):
        """Return the server's answer; MLflow's own would put the request before the reason."""
        return json.dumps({"error_code": self.error_code, "message": self.args[0]})


class AgeGender(PythonModel):
    """The network in the artifact "h5" behind MLflow's pyfunc interface.

    Faces are aligned and cropped as in UTKFace. Each is a picture's path, its bytes in base64
    (JPEG, PNG or WebP; at most 8 MiB and 4096 x 4096 pixels), or an RGB array (S, S, 3) of integers
    0..255 or floats in [0, 1]. Sizes other than the network's are resized. A server accepts only
    base64, and at most 64 faces per request.
    """

    def load_context(self, context):
        """Load the network; MLflow calls this once."""
        self.network = keras.models.load_model(context.artifacts["h5"], compile=False)

    # Without a type MLflow warns at each load. It does not check a DataFrame's: lists pass too.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Return a DataFrame: age_years, gender_probability_female, gender ("male", "female").

        model_input: a list or array of faces, or a DataFrame with them in its column "image" or in
        its only, unnamed column; its index is kept. Raises NoFaceError if one is not a picture.
        """
        try:
            return self._answer(model_input, served=os.environ.get(SERVED) == "true")
        except ValueError as error:
            raise NoFaceError(str(error)) from error

    def _answer(self, model_input, served):
        index = None
        if isinstance(model_input, pd.DataFrame):
            columns = list(model_input.columns)
            if columns.count("image") != 1 and columns != [0]:
                raise ValueError(f"Expected one column 'image'; the table has {columns}.")
            column = "image" if "image" in columns else 0
            index, model_input = model_input.index, model_input[column]
        if not len(model_input):
            raise ValueError("Expected at least one face; got none.")
        if served and len(model_input) > MOST_SERVED:
            raise ValueError(
                f"Expected at most {MOST_SERVED} faces in a request; got {len(model_input)}: send "
                "several requests."
            )
        size_pixels = self.network.input_shape[1]
        faces = [to_pixels(face, size_pixels, served) for face in model_input]
        with one_at_a_time:
            batches = [
                self.network.predict_on_batch(np.stack(faces[start : start + BATCH_SIZE]))
                for start in range(0, len(faces), BATCH_SIZE)
            ]
        age, gender = (
            np.concatenate(parts)[:, 0].astype(float) for parts in zip(*batches, strict=True)
        )
        return pd.DataFrame(
            {
                "age_years": age,
                "gender_probability_female": gender,
                "gender": np.where(gender >= 0.5, "female", "male"),
            },
            index=index,
        )


def to_pixels(
    face: str | os.PathLike | np.ndarray | list, size_pixels: int, served: bool = False
) -> np.ndarray:
    """Return a face as float32 (size, size, 3) in [0, 1]; raise ValueError if it is not a picture.

    served: the face came over the network, so only base64 is accepted, no local path.
    """
    if isinstance(face, str) or not served and isinstance(face, os.PathLike):
        image = _open(os.fspath(face), served)
    elif served:
        raise ValueError(f"Expected a picture's bytes in base64; got {type(face).__name__}.")
    else:
        array = np.asarray(face)
        top = 1 if array.dtype.kind == "f" else 255
        numbers = array.dtype.kind in "fiu" and 0 < array.size <= 3 * MOST_PIXELS
        if not numbers or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                "Expected a path, base64 or an array (S, S, 3) of numbers, with at least one pixel "
                f"and at most {MOST_PIXELS:,}; got {type(face).__name__} of shape {array.shape} "
                f"and type {array.dtype}."
            )
        # This also catches NaN.
        if not (array.min() >= 0 and array.max() <= top):
            raise ValueError(
                "Expected integers 0..255 or floats 0..1; got "
                f"{array.dtype} from {array.min()} to {array.max()}."
            )
        if array.shape[:2] == (size_pixels, size_pixels):
            return (array / top).astype(np.float32)
        image = PIL.Image.fromarray(np.round(array * (255 / top)).astype(np.uint8))
    size = (size_pixels, size_pixels)
    return (
        np.asarray(PIL.ImageOps.fit(image, size, PIL.Image.Resampling.BILINEAR), np.float32) / 255
    )


def _open(text: str, served: bool) -> PIL.Image.Image:
    """Decode a file or base64 to an upright RGB picture, as training does."""
    short = text if len(text) < 100 else text[:100] + "..."
    is_path = not served and os.path.isfile(text)
    bytes_ = os.path.getsize(text) if is_path else len(text) * 3 // 4
    if bytes_ > MOST_BYTES:
        raise ValueError(f"{short!r} has {bytes_:,} bytes; expected at most {MOST_BYTES:,}.")
    if is_path:
        data = pathlib.Path(text).read_bytes()
    else:
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            what = "not a picture in base64" if served else "neither a file nor a picture in base64"
            raise ValueError(f"{short!r} is {what}.") from None
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size  # From the header; nothing is decoded yet.
        if width * height > MOST_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, expected at most {MOST_PIXELS:,}")
        image = PIL.ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            # Pillow's own conversion of 16-bit grey clips at 255.
            grey = (np.asarray(image, np.int64) + 128) // 257
            image = PIL.Image.fromarray(grey.astype(np.uint8))
        if image.has_transparency_data:
            white = PIL.Image.new("RGBA", image.size, "white")
            image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    # Decoders raise many kinds of errors on damaged pictures.
    except Exception as error:
        raise ValueError(
            f"{short!r} is not a picture that can be read (JPEG, PNG or WebP): {error}"
        ) from error


mlflow.models.set_model(AgeGender())
