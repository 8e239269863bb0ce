"""The pyfunc of a registered model: faces in, a table of ages and genders out.

MLflow stores this file with the model ("models from code") and runs it where the model is loaded,
so it imports nothing of this project.
"""

import base64
import io
import os
import pathlib

import keras
import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageOps
from mlflow.pyfunc import PythonModel  # mlflow.pyfunc itself is loaded lazily: no type

BATCH_SIZE = 64


class AgeGender(PythonModel):
    """The network in the artifact "h5" behind MLflow's pyfunc interface.

    Faces are aligned and cropped as in UTKFace. Each is the path of a picture, a picture's bytes in
    base64, or an array (S, S, 3) of integers 0..255 or floats in [0, 1], RGB; other sizes than the
    network's are resized.
    """

    def load_context(self, context):
        """Load the network; MLflow calls this once."""
        self.network = keras.models.load_model(context.artifacts["h5"], compile=False)

    # Without a type MLflow warns at each load; of a table it checks nothing, and lists pass too.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Return a DataFrame: age_years, gender_probability_female, gender ("male", "female").

        model_input: a list or array of faces, or a DataFrame with them in its column "image", or
        its only one, whose index is kept. ValueError where something is no face picture.
        """
        index = None
        if isinstance(model_input, pd.DataFrame):
            if "image" not in model_input.columns and model_input.shape[1] != 1:
                raise ValueError(
                    f"Expected a column 'image'; the table has {list(model_input.columns)}."
                )
            column = "image" if "image" in model_input.columns else model_input.columns[0]
            index, model_input = model_input.index, model_input[column]
        size_pixels = self.network.input_shape[1]
        faces = [to_pixels(face, size_pixels) for face in model_input]
        if not faces:
            raise ValueError("Expected at least one face; got none.")
        age, gender = (
            np.concatenate(parts)[:, 0].astype(float)
            for parts in zip(
                *(
                    self.network.predict_on_batch(np.stack(faces[start : start + BATCH_SIZE]))
                    for start in range(0, len(faces), BATCH_SIZE)
                ),
                strict=True,
            )
        )
        return pd.DataFrame(
            {
                "age_years": age,
                "gender_probability_female": gender,
                "gender": np.where(gender >= 0.5, "female", "male"),
            },
            index=index,
        )


def to_pixels(face: str | os.PathLike | np.ndarray | list, size_pixels: int) -> np.ndarray:
    """Return a face as float32 (size, size, 3) in [0, 1]; ValueError where it is none."""
    if isinstance(face, str | os.PathLike):
        image = _open(os.fspath(face))
    else:
        array = np.asarray(face)
        whole = np.issubdtype(array.dtype, np.integer)
        if array.ndim != 3 or array.shape[2] != 3 or not (whole or array.dtype.kind == "f"):
            raise ValueError(
                "Expected a path, base64 or an array (S, S, 3) of numbers; got "
                f"{type(face).__name__} of shape {array.shape} and type {array.dtype}."
            )
        # NaN is out of range too.
        if not (array.min() >= 0 and array.max() <= (255 if whole else 1)):
            raise ValueError(
                "Expected integers 0..255 or floats 0..1; got "
                f"{array.dtype} from {array.min()} to {array.max()}."
            )
        if array.shape[:2] == (size_pixels, size_pixels):
            return (array / 255 if whole else array).astype(np.float32)
        image = PIL.Image.fromarray((array if whole else np.round(array * 255)).astype(np.uint8))
    resample = PIL.Image.Resampling.BILINEAR
    fitted = PIL.ImageOps.fit(image, (size_pixels, size_pixels), resample)
    return np.asarray(fitted, np.float32) / 255


def _open(text: str) -> PIL.Image.Image:
    """Decode a path or base64 to an upright RGB picture, as training does."""
    short = text if len(text) < 100 else text[:100] + "..."
    if os.path.isfile(text):
        data = pathlib.Path(text).read_bytes()
    else:
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            raise ValueError(f"{short!r} is neither a file nor a picture in base64.") from None
    try:
        image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
        if image.mode.startswith("I"):
            # Pillow's own conversion of 16-bit grey clips at 255.
            grey = (np.asarray(image, np.int64) + 128) // 257
            image = PIL.Image.fromarray(grey.astype(np.uint8))
        if image.has_transparency_data:
            white = PIL.Image.new("RGBA", image.size, "white")
            image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    # Decoders raise many kinds on damaged pictures.
    except Exception as error:
        raise ValueError(f"{short!r} is not a picture that can be read: {error}") from error


mlflow.models.set_model(AgeGender())
