"""UTKFace files to labels and pictures: a folder, zip or tar read as it is, nothing left unsaid.

What cannot be used raises a `Rejection` with one of the `Reason`s, so that callers count and name
it; files that are no part of a data set (`.DS_Store` and the like) are rejected by name as well.
"""

import contextlib
import enum
import functools
import hashlib
import io
import lzma
import operator
import os
import re
import stat
import tarfile
import typing
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

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
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
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


class LabelError(Rejection):
    """The name of a file tells no usable labels."""


class Labels(typing.NamedTuple):
    """Age in years (1..116), gender (0 male, 1 female) and race (0..4) as the name states them."""

    age_years: int
    gender: int
    race: int


class SourceFile(typing.NamedTuple):
    """One file of a source.

    path: inside the source, printable, with forward slashes. read: returns the bytes or raises a
    Rejection. rejection: why the file is of no use, where its kind or its name already tells.
    """

    path: str
    read: Callable[[], bytes]
    rejection: Rejection | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


def parse_name(name: str) -> Labels:
    """Read the labels from a file name; raises LabelError with the reason.

    Names without a race field are refused, since one of the three in UTKFace is known under another
    second number elsewhere: what stands there may not be the gender.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LabelError(Reason.NAME, f"expected {EXPECTED_NAMES}")
    if match[3] is None:
        raise LabelError(Reason.NO_RACE, f"expected {EXPECTED_NAMES}")
    labels = Labels(int(match[1]), int(match[2]), int(match[3]))
    if not 1 <= labels.age_years <= 116:
        raise LabelError(Reason.AGE, f"{labels.age_years}, expected 1..116")
    if labels.gender not in (0, 1):
        raise LabelError(Reason.GENDER, f"{labels.gender}, expected 0 or 1")
    if not 0 <= labels.race <= 4:
        raise LabelError(Reason.RACE, f"{labels.race}, expected 0..4")
    return labels


def face_key(name: str) -> str:
    """Return `age_gender_race_time`, the same for every spelling of one UTKFace name.

    The time stamp alone is no key: 186 of them are shared by 414 files. Raises LabelError.
    """
    labels = parse_name(name)
    return "_".join(map(str, labels)) + "_" + _NAME.fullmatch(name)[4]


@contextlib.contextmanager
def open_source(source: Path) -> Iterator[list[SourceFile]]:
    """List the files of a folder (with all below it), zip or tar, to be read while it is open.

    Nothing is extracted and no link is followed. Tar files come in the order of the archive, which
    should be kept when reading a compressed one; all others sorted by path. Raises ValueError where
    the source is missing, of another kind or a damaged archive.
    """
    if source.is_dir():
        yield sorted(_folder_files(source), key=operator.attrgetter("path"))
    elif not source.exists():
        raise ValueError(f"{source} does not exist: give a folder, zip or tar of UTKFace pictures")
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            yield _tar_files(source, archive)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield sorted(_zip_files(archive), key=operator.attrgetter("path"))
    else:
        raise ValueError(
            f"{source} is neither a folder nor a whole zip or tar: give one of these, "
            "and download an archive again if it was cut short"
        )


def fingerprint(source: Path) -> str:
    """Tell whether a source has changed: hash of an archive, or of names, sizes and times."""
    if source.is_file():
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(folders + names):
            path = Path(parent, name)
            status = path.lstat()
            line = f"{path.relative_to(source)} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))
    return digest.hexdigest()


def decode(data: bytes, name: str, image_size_pixels: int) -> np.ndarray:
    """Decode a picture fully to uint8 RGB (size, size, 3); raises Rejection.

    A picture that is not square is cropped to its middle, which keeps the proportions of the face.
    Pillow's bilinear filter averages over all source pixels when it shrinks, and of its filters it
    comes nearest to how the 128-pixel pictures of the 5,000 were made from UTKFace's 200 pixels
    (mean absolute difference 1.98 of 255; bicubic 2.00, Lanczos 2.06, box 2.21).
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LabelError(Reason.NAME, f"expected {EXPECTED_NAMES}")
    image = open_picture(data, match[5])
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
        raise Rejection(Reason.DAMAGED, _one_line(error)) from error
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
        raise Rejection(Reason.DAMAGED, _one_line(error)) from error


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255: nearly all would be white.
        image = PIL.Image.fromarray(((np.asarray(image, np.int64) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), picture)
    return image.convert("RGB")


def _folder_files(folder: Path) -> Iterator[SourceFile]:
    unreadable = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        for name in folders + names:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            read = functools.partial(read_bytes, functools.partial(path.open, "rb"))
            file = _source_file(str(path.relative_to(folder)), mode, read)
            if file is not None:
                yield file
    for error in unreadable:
        path = os.path.relpath(error.filename, folder)
        rejection = Rejection(Reason.UNREADABLE, error.strerror)
        yield SourceFile(printable(path), functools.partial(_raise, rejection), rejection)


def _zip_files(archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    for member in archive.infolist():
        mode = member.external_attr >> 16
        if not stat.S_IFMT(mode):  # Archives made on Windows store none.
            mode = stat.S_IFDIR if member.is_dir() else stat.S_IFREG
        read = functools.partial(read_bytes, functools.partial(archive.open, member))
        file = _source_file(member.filename, mode, read)
        if file is not None:
            yield file


def _tar_files(source: Path, archive: tarfile.TarFile) -> list[SourceFile]:
    # tarfile takes a damaged header for the end of the archive: look what stands there. Reading the
    # list first also makes reading the members a single walk forward through a compressed file.
    try:
        members = archive.getmembers()
        archive.fileobj.seek(archive.offset)
        damaged = archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0") != b""
        while archive.fileobj.read(MOST_BYTES):
            pass  # A compressed file is checked against its check sum at its very end.
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        raise ValueError(f"{source} is damaged ({_one_line(error)}): download it again") from error
    if damaged:
        raise ValueError(f"{source} is damaged after {len(members)} members: download it again")
    files = []
    for member in members:
        kind = stat.S_IFREG if member.isfile() else stat.S_IFDIR if member.isdir() else stat.S_IFLNK
        read = functools.partial(read_bytes, functools.partial(archive.extractfile, member))
        files.append(_source_file(member.name, kind, read))
    return [file for file in files if file is not None]


def _source_file(path: str, mode: int, read: Callable) -> SourceFile | None:
    """Judge a file by its path and kind; None for an ordinary folder, whose files are listed."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        return None
    picture = parts[-1].lower().endswith(tuple(f".{extension}" for extension in _EXTENSIONS))
    rejection = None
    if stat.S_ISDIR(mode):
        if not picture:
            return None
        rejection = Rejection(Reason.NOT_A_FILE, "a folder named like a picture")
    elif ".." in parts:
        rejection = Rejection(Reason.NOT_A_FILE, "a path out of its archive")
    elif any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in parts):
        rejection = Rejection(Reason.SYSTEM_FILE)
    elif not stat.S_ISREG(mode):
        rejection = Rejection(Reason.NOT_A_FILE, "a link, pipe or device: copy the file itself")
    elif parts[-1] != GENERATED_MARKER:
        try:
            parse_name(parts[-1])
        except LabelError as error:
            rejection = error
    if rejection is not None:
        read = functools.partial(_raise, rejection)
    return SourceFile(printable("/".join(parts)), read, rejection)


def read_bytes(open_stream: Callable[[], typing.BinaryIO], most_bytes: int = MOST_BYTES) -> bytes:
    """Read a whole file, of at most so many bytes; raises Rejection."""
    try:
        with open_stream() as stream:
            # Never trust the size that an archive states: a bomb states a small one.
            data = stream.read(most_bytes + 1)
    # RuntimeError: an encrypted zip; NotImplementedError, below it: an unknown compression.
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise Rejection(Reason.UNREADABLE, _one_line(error)) from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise Rejection(Reason.UNREADABLE, _one_line(error)) from error
    if len(data) > most_bytes:
        raise Rejection(Reason.TOO_LARGE, f"over {most_bytes // 2**20} MiB in its file")
    return data


def _raise(rejection: Rejection) -> typing.NoReturn:
    raise rejection


def printable(text: str) -> str:
    """Return a file name as text: it may hold bytes that are none, and line breaks."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
