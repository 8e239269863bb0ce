"""POST /predict, over a real server: each bad request is told why and none crashes anything."""

import base64
import contextlib
import http.client
import io
import itertools
import json
import re
import socket
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from agegender.photos import estimate, service

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def models(coloured_model):
    return {name: coloured_model(name) for name in "AB"}


@pytest.fixture(scope="module")
def port(serving, detector, models):
    """The port of 127.0.0.1 where the service answers."""
    with serving(service.application(detector, models)) as port:
        yield port


def ask(port, body, headers=JSON, method="POST", path="/predict"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def picture(chance, kind="png", size_pixels=32):
    stream = io.BytesIO()
    pixels = chance.integers(0, 256, (size_pixels, size_pixels, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def code(data):
    return base64.b64encode(data).decode()


def claims(width, height):
    """Return a small PNG that says that it is of this size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut(chance, data):
    return data[: chance.integers(0, len(data) * 9 // 10)]


def asking(*images, **more):
    return json.dumps({"images": images, "crop": False} | more)


def junk(chance):
    """Return a value that is no face."""
    depth = int(chance.integers(1, 40))
    values = [None, True, -1, 2**70, 1e308, float("nan"), float("-inf"), "", "\x00", "\ud800", "é"]
    values += ["/etc/passwd", "/proc/self/environ", "../" * depth, "file:///etc/passwd", "~"]
    values += ["http://127.0.0.1:9/x.png", "data:image/png;base64," + code(picture(chance))]
    values += [[], {}, [[]], {"image": {}}, chance.random((depth, 3)).tolist()]
    values += [[[[0, 0, 0]]], chance.integers(0, 256, (8, 8, 3)).tolist(), "x" * depth**2]
    values.append(json.loads("[" * depth + "]" * depth))
    values.append(json.loads('{"a":' * depth + "1" + "}" * depth))
    return values[chance.integers(len(values))]


def hostile(chance, count):
    """Yield keywords for `ask`, kind after kind."""

    def good():
        return code(picture(chance))

    def one_of(*values):
        return values[chance.integers(len(values))]

    kinds = [
        lambda: {"body": chance.bytes(chance.integers(0, 3000))},
        lambda: {"body": cut(chance, asking(good()))},
        lambda: {"body": json.dumps(junk(chance))},
        lambda: {"body": json.dumps({"images": junk(chance)})},
        lambda: {"body": json.dumps({one_of("inputs", "image", "data", ""): junk(chance)})},
        lambda: {"body": json.dumps({"images": [good()], "instances": junk(chance)})},
        lambda: {"body": asking(good(), crop=one_of(0, 1, None, "no", [], "true"))},
        lambda: {"body": asking(good(), model=one_of("C", "BA", "", 0, [], {}, ["A"], True))},
        lambda: {"body": asking(good())[:-1] + one_of(', "images": []}', ', "crop": true}')},
        lambda: {"body": json.dumps(one_of([[good()]], [good()], good(), {"0": good()}))},
        lambda: {"body": json.dumps({"columns": ["images"], "data": [[good()], [good()]]})},
        lambda: {"body": json.dumps({"dataframe_split": {"data": [[good()]]}})},
        lambda: {"body": json.dumps([{"images": good()}, {"images": good()}])},
        lambda: {"body": asking([good(), good()], good())},
        lambda: {"body": asking({"image": good()}, good())},
        lambda: {"body": json.dumps({"images": {"0": good(), "1": good()}})},
        lambda: {"body": '{"images": ' + "[" * (n := int(chance.integers(50, 99_999))) + "]" * n},
        lambda: {"body": '{"images": [' * (n := int(chance.integers(50, 2_000))) + "]}" * n},
        lambda: {"body": '{"images": [' + "9" * int(chance.integers(1, 9_000)) + "]}"},
        lambda: {"body": asking(junk(chance))},
        lambda: {"body": asking(good(), junk(chance), good())},
        lambda: {"body": asking(code(chance.bytes(chance.integers(0, 3000))))},
        lambda: {"body": asking(good()[:-1] + one_of("*", "\n", "\u00e9", "-"))},
        lambda: {"body": asking(*[good()] * int(chance.integers(65, 200)))},
        lambda: {"body": asking(code(picture(chance, one_of("ppm", "eps", "pcx", "tga"))))},
        lambda: {"body": asking(code(cut(chance, picture(chance, one_of("png", "jpeg", "webp")))))},
        lambda: {"body": asking(code(claims(*map(int, chance.integers(8001, 2**31, 2)))))},
        lambda: {"body": asking(code(claims(*map(int, chance.integers(60, 4096, 2)))))},
        lambda: {
            "body": asking(good()),
            "headers": one_of(
                {}, *({"Content-Type": kind} for kind in ("", ";", "text/csv", "a/b"))
            )
            | {one_of("Accept", "X-A"): "x" * int(chance.integers(0, 3_000))},
        },
        lambda: {
            "body": chance.bytes(500),
            "headers": {"Content-Type": "application/vnd.apache.parquet"},
        },
        lambda: {"body": asking(good()), "method": one_of("GET", "PUT", "DELETE", "X")},
        lambda: {"body": asking(good()), "path": "/" + one_of("x", "%00", "..%2f", "health")},
    ]
    for kind in itertools.islice(itertools.cycle(kinds), count):
        yield kind()


def check_hostile(port, count, seed):
    """Ask a bad request after the other; a good one, before and after, gets one answer."""
    chance = np.random.default_rng(seed)
    good = asking(code(picture(chance)), code(picture(chance, "jpeg")))
    before = ask(port, good)
    assert before[0] == 200 and len(json.loads(before[1])["answers"]) == 2
    for number, request in enumerate(hostile(chance, count)):
        status, answer = ask(port, **request)
        shown = f"{number}: {str(request)[:300]} got {status}: {answer[:300]}"
        assert 400 <= status < 500 and answer.strip(), shown
        assert not re.search("Traceback|root:|object at|0x[0-9a-f]{6}|<class", answer), shown
    assert ask(port, good) == before
    assert ask(port, None, method="GET", path="/health") == (200, '{"status":"ok"}')


def face_codes():
    red, blue = (PIL.Image.new("RGB", (64, 90), colour) for colour in ("#cc3300", "#0000ff"))
    for image, kind in ((red, "png"), (blue, "webp"), (red.resize((200, 200)), "jpeg")):
        stream = io.BytesIO()
        image.save(stream, kind, **({"lossless": True} if kind == "webp" else {}))
        yield code(stream.getvalue())


def test_ready_faces_get_an_answer_each(port, models):
    status, text = ask(port, asking(*face_codes()))
    answers = json.loads(text)["answers"]
    assert status == 200 and [len(faces) for faces in answers] == [1, 1, 1]
    assert [faces[0]["age"] for faces in answers] == pytest.approx([80, 0, 80], abs=1)
    face = np.full((1, 128, 128, 3), (0xCC, 0x33, 0), np.uint8)
    (expected,) = estimate.estimate_faces(models["B"], face).to_dict("records")
    assert answers[0][0] == {
        "face": 1,
        "box": [0, 0, 64, 90],
        "age": pytest.approx(expected["age_years"], abs=1e-3),
        "age_low": pytest.approx(expected["age_low"], abs=1e-3),
        "age_high": pytest.approx(expected["age_high"], abs=1e-3),
        "gender": expected["gender"],
        "probability": pytest.approx(expected["gender_probability"], abs=1e-3),
        "sure": expected["gender_sure"],
        "doubtful": False,
        "model": models["B"].title,
    }
    for asked, families in (("A", "A"), ("B", "B"), ("AB", "AB")):
        status, text = ask(port, asking(*face_codes(), model=asked))
        titles = [models[family].title for family in families]
        answers = json.loads(text)["answers"]
        assert [[face["model"] for face in faces] for faces in answers] == [titles] * 3


def test_whole_photos_are_answered_as_by_predict(port, detector, models, drawn):
    photos = [drawn(13, 16), drawn(), drawn(19)]
    images = []
    for photo in photos:
        stream = io.BytesIO()
        photo.save(stream, "png")
        images.append(code(stream.getvalue()))
    kind = {"Content-Type": "APPLICATION/Json; charset=UTF-8"}
    status, text = ask(port, json.dumps({"images": images, "model": "AB"}), kind)
    answers = json.loads(text)["answers"]
    assert status == 200 and [len(faces) for faces in answers] == [4, 0, 2]
    tables = estimate.answer(detector, models, photos)
    for faces, table in zip(answers, tables, strict=True):
        for face, row in zip(faces, table.itertuples(), strict=True):
            assert face["box"] == [row.left, row.top, row.right, row.bottom]
            assert face["face"] == row.face and face["model"] == models[row.model].title
            assert face["age"] == pytest.approx(row.age_years, abs=1e-3)
            assert face["doubtful"] == row.doubtful and face["gender"] == row.gender


def test_bad_requests_are_told_why_and_crash_nothing(port):
    check_hostile(port, count=99, seed=0)


@pytest.mark.slow
def test_very_many_bad_requests_crash_nothing(port):
    check_hostile(port, count=1200, seed=1)


def test_the_reason_names_the_picture_and_what_was_expected(port):
    chance = np.random.default_rng(3)
    good = code(picture(chance))
    for body, status, reason in (
        (asking(good, 7), 400, "images.1: Input should be a valid string"),
        (asking("/etc/passwd"), 400, "images.0 is not base64"),
        (asking(code(b"text")), 400, "images.0: not an image"),
        (asking(code(picture(chance, "ppm"))), 400, "images.0: wrong content"),
        (asking(code(claims(8001, 8000))), 400, "8001x8000 pixels, at most 64,000,000"),
        (asking(*[good] * 65), 400, "images: List should have at most 64 items"),
        (asking(), 400, "images: List should have at least 1 item"),
        ("[" * 99_999, 400, "Expected JSON"),
        (asking(good)[:-1] + ', "crop": true}', 400, "a key stands twice"),
        (asking(good, crop="yes"), 400, "crop: Input should be a valid boolean"),
        (asking(good, model="C"), 400, "Expected the model A or B or AB"),
        (asking(good, picture=good), 400, "picture: Extra inputs are not permitted"),
    ):
        found, text = ask(port, body)
        assert found == status and reason in json.loads(text)["error"], text
    assert ask(port, asking(good), {"Content-Type": "text/csv"})[0] == 415


@pytest.mark.slow
def test_damaged_pictures_crash_nothing(port):
    chance = np.random.default_rng(2)
    refused = 0
    for number in range(400):
        data = np.frombuffer(picture(chance, ["png", "jpeg", "webp"][number % 3]), np.uint8).copy()
        data[chance.integers(0, len(data), 1 + number % 5)] = chance.integers(0, 256)
        status, answer = ask(port, asking(code(data.tobytes())))
        assert status in (200, 400), answer
        refused += status == 400
    assert 100 < refused < 400


@pytest.mark.parametrize("length_is_said", [True, False])
def test_a_body_over_the_limit_is_not_kept(port, length_is_said):
    parts = [b" " * 2**20] * (service.MOST_BODY_BYTES // 2**20 + 1)
    status, answer = ask(port, b"".join(parts) if length_is_said else iter(parts))
    assert status == 413 and "over 32 MiB" in answer


def test_a_line_that_is_no_http_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 what\r\n\r\n")
        assert b" 400 " in connection.recv(1000).splitlines()[0]
