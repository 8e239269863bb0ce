"""Photos as cameras, scanners and programs write them: read, or refused with the true reason."""

import base64
import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from agegender.data import utkface
from agegender.data.utkface import Reason
from agegender.photos import estimate

# 48 x 32 pixels, the left half red, the right half blue; as a telephone writes its photos. The last
# 64 bytes hold EXIF data.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAADRpbG9jAAAAAERAAAIAAQAAAAAB4gABAAAAAAAAACkAAgAAAAACCwABAAAAAAAAAEQAAAA4aWluZgAAAAAA"
    "AgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAAACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADd"
    "aXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAq"
    "QgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQAN"
    "AAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAdW1kYXQA"
    "AAAlKAGvC2D60oG/5DN08ggHxJ3zgaip3E0Uwa3XfDVo/9skIqNsQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
# A picture that looks different in each of the eight ways to turn it.
RAMPS = np.indices((60, 90)).transpose(1, 2, 0) * (2, 1) + (100, 20)
PHOTO = PIL.Image.fromarray(np.dstack([RAMPS, np.full((60, 90), 40)]).astype(np.uint8))
SOFTWARE, EXPOSURE_BIAS, ORIENTATION = 0x0131, 0x9204, 0x0112


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(folder, data, name="photo.jpg"):
    (folder / name).write_bytes(data)
    return estimate.read_photo(folder / name)


def apart(photo, expected=PHOTO):
    """Return the mean difference of two pictures, in 0..255."""
    assert photo.mode == "RGB" and photo.size == expected.size
    return np.abs(np.asarray(photo).astype(int) - np.asarray(expected)).mean()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_photos_of_many_kinds_are_read(tmp_path, kind):
    assert apart(read(tmp_path, encoded(PHOTO, kind))) < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_photo_taken_with_the_camera_turned_is_upright(tmp_path, kind, orientation):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    turned = encoded(PHOTO, "PNG", exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(turned)))
    assert apart(read(tmp_path, encoded(PHOTO, kind, exif=exif)), upright) < 8


def exif_data(orientation, bias=(-1, 0)):
    """Return EXIF data with an orientation and an exposure bias, of a kind that none may have."""
    entries = struct.pack("<HHHIHH", 2, ORIENTATION, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", EXPOSURE_BIAS, 10, 1, 38)
    return b"II*\0" + struct.pack("<I", 8) + entries + bytes(4) + struct.pack("<ii", *bias)


def chunk(kind, content, checksum=None):
    """Return a chunk of a PNG."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks, late=False):
    """Return a PNG with more chunks, before its pixels or after them."""
    data = encoded(PHOTO, "PNG")
    place = -12 if late else 33
    return data[:place] + b"".join(chunks) + data[place:]


TEXT, JUNK = b"Comment\0\0", b"\xff\x00junk" * 9
BROKEN_PNGS = {
    "2 MB of zTXt": chunk(b"zTXt", TEXT + zlib.compress(bytes(2_000_000))),
    "2 MB of iTXt": chunk(b"iTXt", b"C\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    "a 3 MB iCCP": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
    "an iCCP packed in an unknown way": chunk(b"iCCP", b"icc\0\7" + JUNK),
    "a wrong checksum in tEXt": chunk(b"tEXt", b"Comment\0hello", 7),
    "a wrong checksum in eXIf": chunk(b"eXIf", exif_data(1), 7),
    "junk in eXIf": chunk(b"eXIf", JUNK),
    "a short pHYs": chunk(b"pHYs", b"\0"),
    "a short gAMA": chunk(b"gAMA", b""),
    "animation out of order": chunk(b"acTL", bytes(8)) + chunk(b"fcTL", b"\1" * 26),
}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("broken", BROKEN_PNGS)
def test_a_png_with_broken_metadata_is_read(tmp_path, broken, late):
    assert apart(read(tmp_path, png_with(BROKEN_PNGS[broken], late=late))) == 0


def test_an_orientation_counts_beside_broken_metadata(tmp_path):
    upright = PHOTO.transpose(PIL.Image.Transpose.ROTATE_270)
    for checksum in (None, 7):
        data = png_with(chunk(b"eXIf", exif_data(6), checksum), BROKEN_PNGS["2 MB of zTXt"])
        assert apart(read(tmp_path, data), upright) == 0
    for kind in ("JPEG", "WEBP"):
        data = encoded(PHOTO, kind, exif=b"Exif\0\0" + exif_data(6))
        assert apart(read(tmp_path, data), upright) < 8, kind


@pytest.mark.parametrize("junk", [JUNK, b"", b"II*\0", exif_data(6)[:20], exif_data(6)[:-9]])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_junk_in_place_of_exif_data_is_ignored(tmp_path, kind, junk):
    photo = read(tmp_path, encoded(PHOTO, kind, exif=b"Exif\0\0" + junk))
    assert photo.size in ((90, 60), (60, 90))


@pytest.mark.parametrize(
    ("number", "content"),
    [
        (0, b"JFIF\0"),
        (1, b"http://ns.adobe.com/xap/1.0/\0" + JUNK),
        (2, b"ICC_PROFILE\0"),
        (2, b"ICC_PROFILE\0" + JUNK),
        (2, b"MPF\0" + JUNK),
        (13, b"Photoshop 3.0\x008BIM\x03\xed\0"),
        (14, b"Adobe\0"),
    ],
)
def test_junk_in_a_block_of_a_jpeg_is_ignored(tmp_path, number, content):
    block = struct.pack(">BBH", 0xFF, 0xE0 + number, len(content) + 2) + content
    data = encoded(PHOTO, "JPEG")
    assert apart(read(tmp_path, data[:2] + block + data[2:])) < 8


def test_junk_in_an_avif_is_ignored(tmp_path):
    exif = PIL.Image.Exif()
    exif[SOFTWARE] = "a program"
    data = encoded(PHOTO, "AVIF", exif=exif)
    assert data.count(b"MM\0*") == 1
    assert apart(read(tmp_path, data.replace(b"MM\0*", b"junk"))) < 8


@pytest.mark.parametrize("exif", [b"", exif_data(6), JUNK, b"Exif\0\0" + exif_data(6)])
def test_a_heic_is_turned_by_its_irot_alone_and_its_exif_data_may_be_junk(tmp_path, exif):
    photo = read(tmp_path, HEIC[:-64] + exif.ljust(64, b"\0"))
    left, right = (photo.getpixel((column, 16)) for column in (8, 40))
    assert photo.size == (48, 32)
    assert left[0] > left[2] + 100 and right[2] > right[0] + 100


GREY = np.linspace(0, 255, 5400).astype(np.uint8).reshape(60, 90)
DEEP = {
    "float of 0 to 1": (GREY / 255).astype(np.float32),
    "float of 0 to 255": GREY.astype(np.float32),
    "float sharpened beyond 0 and 1": (GREY / 255 * 1.1 - 0.05).astype(np.float32),
    "12 bits in 16": (GREY * 16.06).astype(np.uint16),
    "10 bits in 16": (GREY * 4.01).astype(np.uint16),
    "16 bits": GREY.astype(np.uint16) * 257,
    "8 bits in 32": GREY.astype(np.int32),
    "16 bits in 32": GREY.astype(np.int32) * 257,
}


@pytest.mark.parametrize("kind", DEEP)
def test_more_than_8_bits_are_scaled_by_their_range(tmp_path, kind):
    values = DEEP[kind]
    photo = read(tmp_path, encoded(PIL.Image.fromarray(values), "TIFF"))
    expected = GREY if "sharpened" not in kind else (values * 255).clip(0, 255)
    assert np.abs(np.asarray(photo).astype(float) - expected[..., None]).max() <= 1
    if values.dtype == np.uint16:
        assert apart(read(tmp_path, encoded(PIL.Image.fromarray(values), "PNG")), photo) == 0


def test_a_range_that_is_unknown_is_refused_with_the_reason(tmp_path):
    for values in (GREY - 300.0, GREY / 30, GREY * 1e9, np.full((9, 9), np.nan), GREY * 7e4):
        kind = np.int32 if values.max() > 1e6 and values.max() < 2**31 else np.float32
        with pytest.raises(utkface.Rejection) as error:
            read(tmp_path, encoded(PIL.Image.fromarray(values.astype(kind)), "TIFF"))
        assert error.value.reason == Reason.RANGE and "expected 0 to 1" in error.value.detail


def test_a_tiff_of_float_colours_is_refused_with_the_reason(tmp_path):
    colours = (np.asarray(PHOTO) / 255).astype("<f4")
    tags = ((256, 90), (257, 60), (258, 32), (262, 2), (273, 130), (277, 3), (278, 60))
    tags += ((279, colours.nbytes), (339, 3))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    with pytest.raises(utkface.Rejection, match="unknown range: a TIFF, expected 8 or 16 bits"):
        read(tmp_path, data.ljust(130, b"\0") + colours.tobytes())


def test_a_tiff_in_which_0_is_white_is_no_negative(tmp_path):
    data = encoded(PIL.Image.fromarray(DEEP["16 bits"]), "TIFF", tiffinfo={262: 0})
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[262] == 0
    assert apart(read(tmp_path, data), PIL.Image.fromarray(255 - GREY).convert("RGB")) == 0


def test_16_bit_colours_that_use_12_are_refused(tmp_path):
    for full in (65535, 4095):
        rows = (np.asarray(PHOTO) / 255 * full).astype(">u2")
        lines = b"".join(b"\0" + row.tobytes() for row in rows)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 90, 60, 16, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines))
        data += chunk(b"IEND", b"")
        if full == 65535:
            assert apart(read(tmp_path, data)) < 1
        else:
            with pytest.raises(utkface.Rejection, match="16-bit colours that use"):
                read(tmp_path, data)


def test_what_is_no_photo_is_rejected_with_the_reason(tmp_path):
    whole = encoded(PHOTO, "JPEG")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    PIL.Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "picture.ppm")
    for name, content in {
        "torn.jpg": whole[: len(whole) // 2],
        "torn.png": png_with(BROKEN_PNGS["2 MB of zTXt"])[:-60],
        "torn.webp": encoded(PHOTO, "WEBP", exif=JUNK)[:200],
        "torn.heic": HEIC[:-90],
        "empty.jpg": b"",
        "notes.txt": b"no picture",
    }.items():
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "heavy.jpg", "wb") as file:
        file.truncate(estimate.MOST_BYTES + 1)
    for name, reason, detail in (
        ("torn.jpg", Reason.DAMAGED, "runcated"),
        ("torn.png", Reason.DAMAGED, ""),
        ("torn.webp", Reason.DAMAGED, ""),
        ("torn.heic", Reason.DAMAGED, ""),
        ("empty.jpg", Reason.EMPTY, ""),
        ("notes.txt", Reason.NOT_AN_IMAGE, "or one of an unsupported kind"),
        ("picture.ppm", Reason.WRONG_CONTENT, "PPM"),
        ("huge.png", Reason.TOO_LARGE, "9000x8000 pixels"),
        ("heavy.jpg", Reason.TOO_LARGE, "over 64 MiB"),
        ("pipe.jpg", Reason.NOT_A_FILE, "a pipe or device"),
        ("folder", Reason.NOT_A_FILE, "a folder"),
        ("link", Reason.NOT_A_FILE, "a link to a folder"),
        ("loop", Reason.UNREADABLE, "Too many levels of symbolic links"),
        ("dangling.jpg", Reason.NOT_A_FILE, "a link to nothing"),
        ("nowhere.jpg", Reason.NOT_A_FILE, "no such file"),
        ("x" * 300, Reason.UNREADABLE, "File name too long"),
    ):
        with pytest.raises(utkface.Rejection) as error:
            estimate.read_photo(tmp_path / name)
        assert error.value.reason == reason and detail in error.value.detail, name
