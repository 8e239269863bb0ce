"""Names and pictures, whole and broken; all pictures are made here."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from agegender.data import utkface
from agegender.data.utkface import Reason

NAME = "26_1_2_20170116174525125.jpg.chip.jpg"


def encoded(array, kind="JPEG", mode=None, **options) -> bytes:
    stream = io.BytesIO()
    image = PIL.Image.fromarray(np.asarray(array))
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def png(width, height) -> bytes:
    """Return an RGB PNG that claims this size and has no pixels."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        (NAME, (26, 1, 2)),
        ("116_0_4_20170116174525125.jpg", (116, 0, 4)),
        ("1_0_0_20161219140623097.PNG", (1, 0, 0)),
        ("14_0_0_2017011022340900.jpg.chip.jpg", (14, 0, 0)),
        ("28_1_2_201701161846515488.jpg.chip.jpg", (28, 1, 2)),
        ("38_0_1_201701162330572788.jpg.chip.jpg", (38, 0, 1)),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, 0, 1)),
        ("55_0_0_20170116232725357jpg.chip.jpg", (55, 0, 0)),
    ],
)
def test_name_gives_labels(name, labels):
    assert utkface.parse_name(name) == labels


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("39_1_20170116174525125.jpg.chip.jpg", Reason.NO_RACE),
        ("61_1_20170109142408075.jpg.chip.jpg", Reason.NO_RACE),
        ("61_1_20170109150557335.jpg.chip.jpg", Reason.NO_RACE),
        ("61_3_20170109150557335.jpg.chip.jpg", Reason.NO_RACE),
        ("0_1_2_20170116174525125.jpg", Reason.AGE),
        ("117_1_2_20170116174525125.jpg", Reason.AGE),
        ("-3_1_2_20170116174525125.jpg", Reason.AGE),
        ("26_2_2_20170116174525125.jpg", Reason.GENDER),
        ("26_1_5_20170116174525125.jpg", Reason.RACE),
        ("portrait.jpg", Reason.NAME),
        ("26_1_2_20170116174525125.txt", Reason.NAME),
        (f"x{NAME}", Reason.NAME),
        (f"{NAME}\n", Reason.NAME),
        ("٢٦_1_2_20170116174525125.jpg", Reason.NAME),
    ],
)
def test_name_without_labels_is_rejected(name, reason):
    with pytest.raises(utkface.Rejection) as caught:
        utkface.parse_name(name)
    assert caught.value.reason == reason
    assert "expected" in str(caught.value)


def test_face_key_is_the_same_for_every_spelling():
    stem = "55_0_0_20170116232725357"
    spellings = [f"{stem}{end}" for end in ("jpg.chip.jpg", " .jpg.chip.jpg", ".jpg", ".png")]
    assert {utkface.face_key(name) for name in spellings} == {stem}


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
def test_every_mode_shows_the_same_picture(mode):
    grey = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None], 32, axis=0)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(grey, kind, mode, **({"quality": 100} if mode == "CMYK" else {}))
    pixels = utkface.decode(data, f"26_1_2_1.{'jpg' if mode == 'CMYK' else 'png'}", 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= 3


def test_transparent_is_laid_on_white():
    picture = noise(8, 8, 4)
    picture[..., 3] = 0
    assert utkface.decode(encoded(picture, "PNG"), "26_1_2_1.png", 8).min() == 255
    palette = PIL.Image.fromarray(np.zeros((8, 8), np.uint8), "P")
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=0)
    assert utkface.decode(stream.getvalue(), "26_1_2_1.png", 8).min() == 255


def test_other_shapes_are_cropped_to_the_middle_and_scaled():
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    assert (utkface.decode(encoded(wide, "PNG"), "26_1_2_1.png", 16) == 200).all()
    assert utkface.decode(encoded(wide, "WEBP"), "26_1_2_1.webp", 64).shape == (64, 64, 3)


WHOLE_JPEG, WHOLE_PNG = encoded(noise(64, 64, 3)), encoded(noise(64, 64, 3), "PNG")


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (WHOLE_JPEG[:10], NAME, Reason.DAMAGED),
        (WHOLE_PNG, NAME, Reason.WRONG_CONTENT),
        (WHOLE_JPEG, "26_1_2_1.png", Reason.WRONG_CONTENT),
        (encoded(noise(8, 8), "GIF"), NAME, Reason.WRONG_CONTENT),
        (png(6000, 5000), "26_1_2_1.png", Reason.TOO_LARGE),
        (png(12_000, 9_000), "26_1_2_1.png", Reason.TOO_LARGE),
        (png(60_000, 60_000), "26_1_2_1.png", Reason.TOO_LARGE),
    ],
)
def test_broken_picture_is_rejected(data, name, reason):
    with pytest.raises(utkface.Rejection) as caught:
        utkface.decode(data, name, 16)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_names_that_are_no_text_can_be_printed():
    assert utkface.printable("caf\udce9\n\x1b[31m\r.jpg") == "caf\\udce9\\n\\x1b[31m\\r.jpg"
    assert utkface.printable("été 1.jpg") == "été 1.jpg"
