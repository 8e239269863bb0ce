"""UTKFace's file names and pictures: labels from the one, pixels from the other.

What cannot be used raises a `Rejection` with one of the `Reason`s, so that callers can count it.
"""

import enum
import io
import re
import typing
from collections.abc import Callable, Collection

import numpy as np
import PIL.Image
import PIL.ImageOps

EXPECTED_NAMES = (
    "[age 1..116]_[gender 0 male, 1 female]_[race 0..4]_[date and time].jpg, "
    "such as 26_1_2_20170116174525125.jpg.chip.jpg"
)
# A folder or archive with a file of this name holds drawn faces, not people.
GENERATED_MARKER = "GENERATED"
# Aligned faces are far smaller; a decoded picture of this size takes 100 MB. Pillow's limit: 89 M.
MOST_PIXELS = 25_000_000
MOST_BYTES = 32 * 2**20

_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}
# Spaces before the extension and a missing dot occur in UTKFace itself; the labels are fine.
_NAME = re.compile(
    r"(-?[0-9]{1,9})_(-?[0-9]{1,9})(?:_(-?[0-9]{1,9}))?_([0-9]{1,30}) *"
    r"\.?(?:(?:jpe?g|png|webp|bmp)\.chip\.)?(jpe?g|png|webp|bmp)",
    re.IGNORECASE,
)


class Reason(enum.StrEnum):
    """Why a file is not used."""

    SYSTEM_FILE = "hidden or system file"
    NOT_A_FILE = "not a regular file"
    LINK = "links: copy the files"
    ARCHIVE = "archives inside: unpack them first"
    PASSWORD = "needs a password"
    COMPRESSION = "compressed in a way that cannot be read"
    UNREADABLE = "cannot be read"
    DUPLICATE_NAME = "duplicate name"
    NAME = "name not understood"
    NO_RACE = "no race field, gender uncertain"
    AGE = "age out of range"
    GENDER = "gender out of range"
    RACE = "race out of range"
    EMPTY = "empty file"
    TOO_LARGE = "too large"
    NOT_AN_IMAGE = "not an image"
    WRONG_CONTENT = "wrong content for its extension"
    DAMAGED = "truncated or damaged"


class Rejection(ValueError):
    """A file cannot be used: `reason` of the fixed vocabulary and a `detail` in words."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class Labels(typing.NamedTuple):
    """Age in years (1..116), gender (0 male, 1 female) and race (0..4) as the name states them."""

    age_years: int
    gender: int
    race: int


def parse_name(name: str) -> Labels:
    """Read the labels from a file name; raises Rejection.

    Names without a race field are refused: of one of the three in UTKFace it is known that its
    second number is not the gender everywhere.
    """
    match = _match(name)
    if match[3] is None:
        raise Rejection(Reason.NO_RACE, f"expected {EXPECTED_NAMES}")
    labels = Labels(int(match[1]), int(match[2]), int(match[3]))
    if not 1 <= labels.age_years <= 116:
        raise Rejection(Reason.AGE, f"{labels.age_years}, expected 1..116")
    if labels.gender not in (0, 1):
        raise Rejection(Reason.GENDER, f"{labels.gender}, expected 0 or 1")
    if not 0 <= labels.race <= 4:
        raise Rejection(Reason.RACE, f"{labels.race}, expected 0..4")
    return labels


def _match(name: str) -> re.Match:
    if match := _NAME.fullmatch(name):
        return match
    raise Rejection(Reason.NAME, f"expected {EXPECTED_NAMES}")


def is_picture_name(name: str) -> bool:
    """Tell whether a name ends like a picture's."""
    return name.lower().endswith(tuple(f".{extension}" for extension in _EXTENSIONS))


def face_key(name: str) -> str:
    """Return `age_gender_race_time`, the same for every file name of one UTKFace photo.

    The time stamp alone is no key: 414 files share 186 of them. Raises Rejection.
    """
    return "_".join(map(str, [*parse_name(name), _match(name)[4]]))


def decode(data: bytes, name: str, image_size_pixels: int) -> np.ndarray:
    """Decode a picture fully to uint8 RGB (size, size, 3); raises Rejection.

    A picture that is not square is cropped to its middle, which keeps the proportions of the face.
    Pillow's bilinear filter averages over all source pixels when it shrinks, and of its filters it
    comes nearest to how the 128-pixel pictures of the 5,000 were made from UTKFace's 200 pixels
    (mean absolute difference 1.98 of 255; bicubic 2.00, Lanczos 2.06, box 2.21).
    """
    image = open_picture(data, _match(name)[5])
    size = (image_size_pixels, image_size_pixels)
    return np.asarray(PIL.ImageOps.fit(image, size, PIL.Image.Resampling.BILINEAR))


def open_picture(
    data: bytes,
    extension: str | None = None,
    *,
    formats: Collection[str] = frozenset(_EXTENSIONS.values()),
    most_pixels: int = MOST_PIXELS,
) -> PIL.Image.Image:
    """Decode a picture fully to an upright 8-bit RGB picture; raises Rejection.

    extension: without its dot; where given, the content must be of that type, else one of `formats`
    by Pillow's names. Transparent pictures are laid on white, as a page shows them; 16-bit grey is
    scaled to 8 bits; EXIF rotation is done.
    """
    if not data:
        raise Rejection(Reason.EMPTY)
    try:
        image = PIL.Image.open(io.BytesIO(data))
    except PIL.UnidentifiedImageError:
        raise Rejection(Reason.NOT_AN_IMAGE, f"starts with {data[:8]!r}") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise Rejection(Reason.TOO_LARGE, str(error)) from None
    except Exception as error:  # Decoders raise many kinds on damaged data: see below.
        raise Rejection(Reason.DAMAGED, one_line(error)) from error
    # A JPEG with several pictures inside, as some telephones write them, calls itself MPO.
    content = "JPEG" if image.format == "MPO" else image.format
    allowed = formats if extension is None else [_EXTENSIONS[extension.lower()]]
    if content not in allowed:
        raise Rejection(Reason.WRONG_CONTENT, f"{content}, expected {' or '.join(sorted(allowed))}")
    if image.width * image.height > most_pixels:
        raise Rejection(
            Reason.TOO_LARGE, f"{image.width}x{image.height} pixels, at most {most_pixels:,} in all"
        )
    try:
        return _to_rgb(PIL.ImageOps.exif_transpose(image))
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged
    # data; whatever it was, this one file is put aside with the words of the decoder.
    except Exception as error:
        raise Rejection(Reason.DAMAGED, one_line(error)) from error


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255: nearly all would be white.
        image = PIL.Image.fromarray(((np.asarray(image, np.int64) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), picture)
    return image.convert("RGB")


def read_bytes(open_stream: Callable[[], typing.BinaryIO], most_bytes: int = MOST_BYTES) -> bytes:
    """Read a whole file, of at most so many bytes; raises Rejection."""
    try:
        with open_stream() as stream:
            # Never trust the size that an archive states: a bomb states a small one.
            data = stream.read(most_bytes + 1)
    # Archives and decompressors raise a dozen kinds of errors on damaged data.
    except Exception as error:
        raise Rejection(Reason.UNREADABLE, one_line(error)) from error
    if len(data) > most_bytes:
        raise Rejection(Reason.TOO_LARGE, f"over {most_bytes // 2**20} MiB in its file")
    return data


def printable(text: str) -> str:
    """Return a file name as text for people: what cannot be printed is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def one_line(error: Exception) -> str:
    """Return an error's kind and words in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
