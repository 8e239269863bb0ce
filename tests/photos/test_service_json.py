"""POST /predict, over a real server: each bad request is told why and none crashes anything."""

import base64
import contextlib
import http.client
import io
import itertools
import json
import re
import socket

import numpy as np
import PIL.Image
import pytest

from agegender.photos import estimate, service

JSON = {"Content-Type": "application/json"}


def ask(port, body, headers=JSON, method="POST", path="/predict"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def encoded(image, kind="png", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def noise(chance, kind="png"):
    pixels = chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return encoded(PIL.Image.fromarray(pixels), kind)


def asking(*images, **more):
    return json.dumps({"images": images, "crop": False} | more)


def junk(chance):
    """Return a value that is no face."""
    depth = int(chance.integers(1, 40))
    values = [None, True, -1, 2**70, 1e308, float("nan"), float("-inf"), "", "\x00", "\ud800", "é"]
    values += ["/etc/passwd", "../" * depth, "file:///etc/passwd", "http://127.0.0.1:9/x.png"]
    values += [[], {}, [[]], {"image": {}}, [[[[0, 0, 0]]]], "x" * depth**2]
    values.append(json.loads("[" * depth + "]" * depth))
    values.append(json.loads('{"a":' * depth + "1" + "}" * depth))
    return values[chance.integers(len(values))]


def hostile(chance):
    """Yield keywords for `ask`, kind after kind."""

    def one_of(*values):
        return values[chance.integers(len(values))]

    while True:
        good, torn = noise(chance), noise(chance, one_of("png", "jpeg", "webp"))
        many = int(chance.integers(65, 9000))
        for body in (
            chance.bytes(many),
            asking(good)[: -int(chance.integers(1, 999))],
            json.dumps(junk(chance)),
            json.dumps({"images": junk(chance)}),
            json.dumps({one_of("inputs", "image", "data", ""): junk(chance)}),
            json.dumps({"images": [good], "instances": junk(chance)}),
            json.dumps(one_of([[good]], [good], good, {"images": {"0": good}})),
            asking(good, crop=one_of(0, 1, None, "no", [], "true")),
            asking(good, model=one_of("C", "BA", "", 0, [], {}, ["A"], True)),
            asking(good)[:-1] + one_of(', "images": []}', ', "crop": true}'),
            '{"images": ' + "[" * many * 9 + "]" * many * 9,
            '{"images": [' * many + "]}" * many,
            '{"images": [' + "9" * many + "]}",
            asking(good, junk(chance), good),
            asking(base64.b64encode(chance.bytes(many)).decode()),
            asking(good[:-1] + one_of("*", "\n", "\u00e9", "-")),
            asking(*[good] * min(many, 200)),
            asking(noise(chance, one_of("ppm", "eps", "pcx", "tga"))),
            asking(torn[: len(torn) // 8 * 4]),
        ):
            yield {"body": body}
        kind = one_of("", ";", "text/csv", "application/vnd.apache.parquet")
        yield {"body": asking(good), "headers": {"Content-Type": kind, "X-A": "x" * many}}
        yield {"body": asking(good), "method": one_of("GET", "PUT", "DELETE", "X")}
        yield {"body": asking(good), "path": "/" + one_of("x", "%00", "..%2f", "health")}


@pytest.mark.parametrize("count", [88, pytest.param(1200, marks=pytest.mark.slow)])
def test_bad_requests_are_told_why_and_crash_nothing(port, count):
    """A good one, before and after, gets one answer."""
    chance = np.random.default_rng(count)
    good = asking(noise(chance), noise(chance, "jpeg"))
    before = ask(port, good)
    assert before[0] == 200 and len(json.loads(before[1])["answers"]) == 2
    for number, request in enumerate(itertools.islice(hostile(chance), count)):
        status, answer = ask(port, **request)
        shown = f"{number}: {str(request)[:300]} got {status}: {answer[:300]}"
        assert 400 <= status < 500 and answer.strip(), shown
        assert not re.search("Traceback|root:|object at|0x[0-9a-f]{6}|<class", answer), shown
    assert ask(port, good) == before
    assert ask(port, None, method="GET", path="/health") == (200, '{"status":"ok"}')


def face_codes():
    red, blue = (PIL.Image.new("RGB", (64, 90), colour) for colour in ("#cc3300", "#0000ff"))
    images = (
        encoded(red),
        encoded(blue, "webp", lossless=True),
        encoded(red.resize((99, 99)), "jpeg"),
    )
    return images


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
    images = [encoded(photo) for photo in photos]
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


def test_the_reason_names_the_picture_and_what_was_expected(port):
    chance = np.random.default_rng(3)
    good = noise(chance)
    for body, reason in (
        (asking(good, 7), "images.1: Input should be a valid string"),
        (asking("/etc/passwd"), "images.0 is not base64"),
        (asking(base64.b64encode(b"text").decode()), "images.0: not an image"),
        (asking(noise(chance, "ppm")), "images.0: wrong content"),
        (asking(encoded(PIL.Image.new("1", (8001, 8000)))), "8001x8000 pixels, at most 64,000,000"),
        (asking(*[good] * 65), "images: List should have at most 64 items"),
        (asking(), "images: List should have at least 1 item"),
        ("[" * 99_999, "Expected JSON"),
        (asking(good)[:-1] + ', "crop": true}', "a key occurs twice"),
        (asking(good, crop="yes"), "crop: Input should be a valid boolean"),
        (asking(good, model="C"), "Expected the model A or B or AB"),
        (asking(good, picture=good), "picture: Extra inputs are not permitted"),
    ):
        status, text = ask(port, body)
        assert status == 400 and reason in json.loads(text)["error"], text
    assert ask(port, asking(good), {"Content-Type": "text/csv"})[0] == 415


@pytest.mark.parametrize("length_is_said", [True, False])
def test_a_body_over_the_limit_is_not_kept(port, length_is_said):
    parts = [b" " * 2**20] * (service.MOST_BODY_BYTES // 2**20 + 1)
    status, answer = ask(port, b"".join(parts) if length_is_said else iter(parts))
    assert status == 413 and "over 32 MiB" in answer


def test_a_line_that_is_no_http_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 what\r\n\r\n")
        assert b" 400 " in connection.recv(1000).splitlines()[0]
