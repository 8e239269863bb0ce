"""UTKFace's files: labels from their names, pixels from their content."""

import enum
import io
import re
import typing
import zlib
from collections.abc import Callable, Collection

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps

EXPECTED_NAMES = (
    "[age 1..116]_[gender 0 male, 1 female]_[race 0..4]_[date and time].jpg, "
    "such as 26_1_2_20170116174525125.jpg.chip.jpg"
)
# A folder or archive with a file of this name holds drawn faces, not people.
GENERATED_MARKER = "GENERATED"
# Aligned faces are far smaller; a decoded picture this size takes 100 MB. Pillow's limit is 89 M.
MOST_PIXELS = 25_000_000
MOST_BYTES = 32 * 2**20

_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}
ENDINGS = tuple(f".{extension}" for extension in _EXTENSIONS)  # of picture names
_PNG = b"\x89PNG\r\n\x1a\n"
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
    RANGE = "values of an unknown range"
    DAMAGED = "truncated or damaged"


class Rejection(ValueError):
    """A file cannot be used: a `reason` from the fixed list and a `detail` in words."""

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

    Names without a race field are refused: UTKFace has three, and in at least one of them the
    second number is not the gender.
    """
    match = _match(name)
    if match[3] is None:
        raise Rejection(Reason.NO_RACE, f"expected {EXPECTED_NAMES}")
    labels = Labels(int(match[1]), int(match[2]), int(match[3]))
    ranges = (Reason.AGE, 1, 116), (Reason.GENDER, 0, 1), (Reason.RACE, 0, 4)
    for value, (reason, least, most) in zip(labels, ranges, strict=True):
        if not least <= value <= most:
            raise Rejection(reason, f"{value}, expected {least}..{most}")
    return labels


def _match(name: str) -> re.Match:
    if match := _NAME.fullmatch(name):
        return match
    raise Rejection(Reason.NAME, f"expected {EXPECTED_NAMES}")


def face_key(name: str) -> str:
    """Return `age_gender_race_time`, the same for every file name of one UTKFace photo.

    The time stamp alone is no key: 414 files share 186 of them. Raises Rejection.
    """
    return "_".join(map(str, [*parse_name(name), _match(name)[4]]))


def decode(data: bytes, name: str, image_size_pixels: int) -> np.ndarray:
    """Decode a picture fully to uint8 RGB (size, size, 3); raises Rejection.

    Pictures that are not square are cropped to the middle, which keeps the proportions of the face.
    Pillow's bilinear filter averages over all source pixels when shrinking. Of its filters it comes
    closest to how the 128-pixel pictures of the 5,000 were made from UTKFace's 200 pixels (mean
    absolute difference 1.98 of 255; bicubic 2.00, Lanczos 2.06, box 2.21).
    """
    image = open_picture(data, [_EXTENSIONS[_match(name)[5].lower()]], MOST_PIXELS)
    size = (image_size_pixels, image_size_pixels)
    return np.asarray(PIL.ImageOps.fit(image, size, PIL.Image.Resampling.BILINEAR))


def open_picture(data: bytes, formats: Collection[str], most_pixels: int) -> PIL.Image.Image:
    """Decode a picture fully to an upright 8-bit RGB picture; raises Rejection.

    formats: Pillow's names; the content must be in one of them. Transparent pictures are placed on
    white, as web pages show them. More than 8 bits are scaled to 8, and EXIF rotation is applied.
    Unreadable metadata are ignored.
    """
    if not data:
        raise Rejection(Reason.EMPTY)
    try:
        return _decode(data, formats, most_pixels)
    except Rejection as error:
        if error.reason not in (Reason.NOT_AN_IMAGE, Reason.DAMAGED):
            raise
    return _decode(_without_metadata(data), formats, most_pixels)


def _decode(data: bytes, formats: Collection[str], most_pixels: int) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(data))
        # Some phones write a JPEG with several pictures inside; its format is then MPO.
        content = "JPEG" if image.format == "MPO" else image.format
        if content not in formats:
            expected = " or ".join(sorted(formats))
            raise Rejection(Reason.WRONG_CONTENT, f"{content}, expected {expected}")
        if image.width * image.height > most_pixels:
            size = f"{image.width}x{image.height} pixels"
            raise Rejection(Reason.TOO_LARGE, f"{size}, at most {most_pixels:,} in all")
        picture = _in_8_bits(image)
        if picture.has_transparency_data:
            white = PIL.Image.new("RGBA", picture.size, "white")
            picture = PIL.Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("RGB")
        picture.info = {}  # Any junk in it must not be read again.
        picture.getexif()[PIL.ExifTags.Base.Orientation] = _orientation(image)
        return PIL.ImageOps.exif_transpose(picture)
    except Rejection:
        raise
    except PIL.UnidentifiedImageError:
        if data.startswith((b"II*\0", b"MM\0*")):
            raise Rejection(Reason.RANGE, "a TIFF, expected 8 or 16 bits per colour") from None
        raise Rejection(Reason.NOT_AN_IMAGE, "or one of an unsupported kind") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise Rejection(Reason.TOO_LARGE, str(error)) from None
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged
    # data. Reject only this file, with the decoder's message.
    except Exception as error:
        raise Rejection(Reason.DAMAGED, one_line(error)) from error


def _without_metadata(data: bytes) -> bytes:
    """Return a picture's bytes without the metadata that keep Pillow from opening it."""
    if not data.startswith(_PNG):
        # Rename blocks: decoders of JPEG, WebP, AVIF and HEIC skip unknown names.
        # Adobe's block defines the colours, so only one that is too short is removed.
        known = rb"Exif|EXIF|MPF\0|JFIF|ICC_PROFILE|(?<=\xff\xee\0[\x07\x08])Adobe"
        return re.sub(known, lambda match: b"-" * len(match[0]), data)
    kept, start = [_PNG], len(_PNG)
    while start < len(data):  # A chunk: length, name, content, checksum.
        end = start + 12 + int.from_bytes(data[start : start + 4])
        chunk = data[start:end]
        if chunk[4:5].isupper() or chunk[4:8] == b"tRNS":  # Needed for the pixels.
            kept.append(chunk)
        elif chunk[4:8] == b"eXIf":
            kept.append(chunk[:-4] + zlib.crc32(chunk[4:-4]).to_bytes(4))
        start = end
    return b"".join(kept)


def _orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF orientation of a loaded picture, or 1 if its EXIF data cannot be read."""
    if image.format == "HEIF":  # The decoder has applied `irot`, which alone counts there.
        return 1
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # Junk raises many kinds of errors.
        return 1


def _in_8_bits(image: PIL.ImageFile.ImageFile) -> PIL.Image.Image:
    """Load a picture and scale the range its values use to 0..255; raises Rejection."""
    shortened = any(";16" in str(tile) for tile in image.tile)  # Pillow keeps the upper 8 bits.
    image.load()
    if not image.mode.startswith(("I", "F")):
        if shortened and 0 < np.max(image.convert("RGB").getextrema()) < 2**6:
            raise Rejection(Reason.RANGE, "16-bit colours that use 14 bits or fewer")
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    full = next((2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits), None)
    if image.mode == "F":  # Resampling overshoots 0..1 a little.
        full = 1 if high <= 1.1 else full if high > 16 else None
        low += 0.1
    if full is None or not low >= 0:
        detail = f"{values.min():g} to {high:g}, expected 0 to 1, to 255 or to 65,535"
        raise Rejection(Reason.RANGE, detail)
    grey = np.multiply(values, 255 / full, dtype=np.float32).clip(0, 255)
    if getattr(image, "tag_v2", {}).get(PIL.ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey  # A TIFF in which 0 is white.
    return PIL.Image.fromarray(np.rint(grey).astype(np.uint8))


def read_bytes(open_stream: Callable[[], typing.BinaryIO], most_bytes: int = MOST_BYTES) -> bytes:
    """Read a whole file of at most `most_bytes`; raises Rejection."""
    try:
        with open_stream() as stream:
            # Never trust the size that an archive states: a bomb states a small one.
            data = stream.read(most_bytes + 1)
    except Exception as error:  # Decompressors raise a dozen kinds of errors on damaged data.
        raise Rejection(Reason.UNREADABLE, one_line(error)) from error
    if len(data) > most_bytes:
        raise Rejection(Reason.TOO_LARGE, f"the file is over {most_bytes // 2**20} MiB")
    return data


def printable(text: str) -> str:
    """Return a file name with its unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: Exception) -> str:
    """Return an error's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
