"""A real model server tells each bad request why, is crashed by none, and goes on as before."""

import base64
import http.client
import io
import itertools
import json
import shutil
import socket
import struct
import urllib.parse
import zlib

import numpy as np
import PIL.Image
import pytest

from agegender.registry import server, tracking
from pipelines import serve_model

pytestmark = [
    # MLflow's own: nothing that we could do about it.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(running, made_store, register, tmp_path_factory):
    """The address of a server of the champion, and its process."""
    root = tmp_path_factory.mktemp("served") / "clone"
    shutil.copytree(made_store, root)
    tracking.connect(root)
    with tracking.run("train", experiment="tests") as run_id:
        pass
    register(run_id)
    with running(root, "pipelines.serve_model", "--model", "A", health="/ping") as started:
        yield started


def ask(url, body, headers=JSON, method="POST", path="/invocations"):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


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


def asking(chance, *faces):
    """Return a request for faces in one of the forms that MLflow knows."""
    table = {"columns": ["image"], "data": [[face] for face in faces]}
    forms = [{"inputs": faces}, {"instances": faces}, {"dataframe_split": table}]
    forms.append({"dataframe_records": [{"image": face} for face in faces]})
    return json.dumps(forms[chance.integers(len(forms))])


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

    def key():
        return one_of("inputs", "instances", "dataframe_split", "dataframe_records")

    kinds = [
        lambda: {"body": chance.bytes(chance.integers(0, 3000))},
        lambda: {"body": cut(chance, asking(chance, good()))},
        lambda: {"body": json.dumps(junk(chance))},
        lambda: {"body": json.dumps({key(): junk(chance)})},
        lambda: {"body": json.dumps({one_of("input", "messages", "data", ""): junk(chance)})},
        lambda: {"body": json.dumps({"inputs": [good()], "instances": junk(chance)})},
        lambda: {"body": json.dumps({"dataframe_split": {"columns": junk(chance), "data": [[1]]}})},
        lambda: {"body": json.dumps({"dataframe_records": [{"photo": good(), "age": 1}]})},
        lambda: {"body": '{"inputs": ' + "[" * (n := int(chance.integers(50, 99_999))) + "]" * n},
        lambda: {"body": '{"inputs": [' * (n := int(chance.integers(50, 2_000))) + "]}" * n},
        lambda: {"body": '{"inputs": [' + "9" * int(chance.integers(1, 9_000)) + "]}"},
        lambda: {"body": asking(chance, junk(chance))},
        lambda: {"body": asking(chance, good(), junk(chance), good())},
        lambda: {"body": asking(chance, code(chance.bytes(chance.integers(0, 3000))))},
        lambda: {"body": asking(chance, good()[:-1] + one_of("*", "\n", "\u00e9", "-"))},
        lambda: {"body": asking(chance, *[good()] * int(chance.integers(65, 200)))},
        lambda: {
            "body": asking(chance, code(picture(chance, one_of("gif", "tiff", "eps", "bmp"))))
        },
        lambda: {
            "body": asking(
                chance, code(cut(chance, picture(chance, one_of("png", "jpeg", "webp"))))
            )
        },
        lambda: {"body": asking(chance, code(claims(*map(int, chance.integers(4097, 2**31, 2)))))},
        lambda: {"body": asking(chance, code(claims(*map(int, chance.integers(60, 4096, 2)))))},
        lambda: {
            "body": asking(chance, good()),
            "headers": one_of(
                {}, *({"Content-Type": kind} for kind in ("", ";", "text/csv", "a/b"))
            )
            | {one_of("Accept", "X-A"): "x" * int(chance.integers(0, 3_000))},
        },
        lambda: {
            "body": chance.bytes(500),
            "headers": {"Content-Type": "application/vnd.apache.parquet"},
        },
        lambda: {"body": asking(chance, good()), "method": one_of("GET", "PUT", "DELETE", "X")},
        lambda: {"body": asking(chance, good()), "path": "/" + one_of("x", "%00", "..%2f", "ping")},
    ]
    for kind in itertools.islice(itertools.cycle(kinds), count):
        yield kind()


def check_hostile(url, process, count, seed):
    """Ask a bad request after the other; a good one, before and after, gets one answer."""
    chance = np.random.default_rng(seed)
    good = asking(chance, code(picture(chance)), code(picture(chance, "jpeg")))
    before = ask(url, good)
    assert before[0] == 200 and len(json.loads(before[1])["predictions"]) == 2
    for number, request in enumerate(hostile(chance, count)):
        status, answer = ask(url, **request)
        shown = f"{number}: {str(request)[:300]} got {status}: {answer[:300]}"
        assert 400 <= status < 500 and answer.strip(), shown
        assert "Traceback" not in answer and "root:" not in answer, shown
    assert process.poll() is None
    assert ask(url, good) == before
    assert ask(url, None, method="GET", path="/ping")[0] == 200


def test_bad_requests_are_told_why_and_crash_nothing(served):
    check_hostile(*served, count=48, seed=0)


@pytest.mark.slow
def test_very_many_bad_requests_crash_nothing(served):
    check_hostile(*served, count=1200, seed=1)


@pytest.mark.slow
def test_damaged_pictures_crash_nothing(served):
    url, process = served
    chance = np.random.default_rng(2)
    refused = 0
    for number in range(400):
        data = np.frombuffer(picture(chance, ["png", "jpeg", "webp"][number % 3]), np.uint8).copy()
        data[chance.integers(0, len(data), 1 + number % 5)] = chance.integers(0, 256)
        status, answer = ask(url, asking(chance, code(data.tobytes())))
        assert status in (200, 400), answer
        refused += status == 400
    assert 100 < refused < 400 and process.poll() is None


@pytest.mark.parametrize("length_is_said", [True, False])
def test_a_body_over_the_limit_is_not_kept(served, length_is_said):
    url, _ = served
    parts = [b" " * 2**20] * (server.MOST_BODY_BYTES // 2**20 + 1)
    status, answer = ask(url, b"".join(parts) if length_is_said else iter(parts))
    assert status == 413 and "at most 33,554,432 bytes" in answer


def test_a_line_that_is_no_http_is_refused(served):
    address = urllib.parse.urlsplit(served[0])
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 what\r\n\r\n")
        assert b" 400 " in connection.recv(1000).splitlines()[0]


def test_a_changed_file_is_not_served(root, register, capsys, monkeypatch):
    with tracking.run("train", experiment="tests") as run_id:
        pass
    register(run_id)
    (stored,) = root.glob("mlruns/artifacts/**/artifacts/*.h5")
    stored.write_bytes(b"something else")
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit, match="2"):
        serve_model.main(["--model", "A"])
    assert "SHA-256" in capsys.readouterr().err
