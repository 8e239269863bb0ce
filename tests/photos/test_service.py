"""The page, over a real server: photos get their answer, all else its reason, and none a crash."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import socket
import sys
import time

import numpy as np
import PIL.Image
import pytest

from agegender.data import generated_faces
from agegender.photos import detection, estimate, output, service


class Watched:
    """A network that counts how many use it at once."""

    def __init__(self, network):
        self.network, self.inside, self.most = network, 0, 0

    def predict_on_batch(self, images):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.01)
        self.inside -= 1
        return self.network.predict_on_batch(images)


@pytest.fixture(scope="module")
def detector():
    found = detection.load_detector()
    return found._replace(pnet=Watched(found.pnet))


@pytest.fixture(scope="module")
def models(coloured_model):
    return {name: coloured_model(name) for name in "AB"}


@pytest.fixture(scope="module")
def port(serving, detector, models):
    """The port of 127.0.0.1 where the page is served."""
    with serving(service.application(detector, models)) as port:
        yield port


def ask(port, body=None, path="/answer", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers


def scene(*seeds):
    """A grey photo of 250 pixels' height with drawn faces that the detector finds."""
    photo = PIL.Image.new("RGB", (max(260 * len(seeds), 260), 250), "grey")
    for number, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        face = generated_faces.draw_face(5 + 2 * seed, seed % 2, seed % 5, generator, 192)
        photo.paste(PIL.Image.fromarray(face), (260 * number + 30, 30))
    return photo


def encoded(photo, kind="PNG", **options):
    stream = io.BytesIO()
    photo.save(stream, kind, **options)
    return stream.getvalue()


def test_a_photo_gets_its_rows_and_its_marked_picture(port, detector, models):
    photo = scene(13, 16)
    status, text, headers = ask(port, encoded(photo))
    assert status == 200 and headers["Cache-Control"] == "no-store"
    answer = json.loads(text)
    (expected,) = estimate.answer(detector, models, [photo])
    assert [row["face"] for row in answer["rows"]] == [1, 1, 2, 2]
    for row, wanted in zip(answer["rows"], expected.itertuples(), strict=True):
        assert row["age_years"] == pytest.approx(wanted.age_years, abs=1e-3)
        assert row["gender_text"] == output.gender_text(wanted)
    with PIL.Image.open(io.BytesIO(base64.b64decode(answer["picture"]))) as marked:
        left, top, right = (int(answer["rows"][0][side]) for side in ("left", "top", "right"))
        assert marked.size == photo.size
        assert min(marked.getpixel(((left + right) // 2, top + 1))) > 200


def test_a_turned_photo_is_upright(port):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    turned = scene(13).rotate(90, expand=True)
    status, text, _ = ask(port, encoded(turned, "JPEG", exif=exif, quality=95))
    assert status == 200 and {row["face"] for row in json.loads(text)["rows"]} == {1}


def test_a_photo_without_a_face_gets_no_rows(port):
    for size in ((300, 200), (1, 1), (60_000, 1)):
        status, text, _ = ask(port, encoded(PIL.Image.new("RGB", size)))
        assert (status, json.loads(text)["rows"]) == (200, [])


def test_what_is_no_photo_is_refused_with_the_reason(port):
    whole = encoded(scene(13), "JPEG")
    for body, status, reason in (
        (b"", 415, "empty file"),
        (b"no picture", 415, "not an image"),
        (whole[:3000], 415, "truncated or damaged"),
        (encoded(scene(), "PPM"), 415, "wrong content"),
        (encoded(PIL.Image.new("1", (9000, 8000))), 413, "9000x8000 pixels, at most 64,000,000"),
    ):
        found, text, _ = ask(port, body)
        assert found == status and reason in text, text
    assert ask(port, b"", "/nowhere")[0] == 404
    assert ask(port, path="/answer")[0] == 405


def test_too_large_an_upload_is_refused_before_it_is_whole(port):
    claimed = estimate.MOST_BYTES + 2  # One byte never comes.
    status, text, _ = ask(port, bytes(claimed - 1), **{"Content-Length": str(claimed)})
    assert status == 413 and "over 64 MiB" in text


def test_an_upload_that_breaks_off_is_no_error(port, capfd):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nxx"
        )
        time.sleep(0.3)
    time.sleep(0.3)
    assert ask(port, path="/about")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_damaged_photos_crash_nothing(port):
    generator = np.random.default_rng(0)
    small = scene(13).resize((52, 50))
    wholes = [encoded(small, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF")]
    seen = set()
    for number in range(60):
        damaged = bytearray(wholes[number % len(wholes)])
        for place in generator.integers(0, len(damaged), 1 + number % 8):
            damaged[place] = generator.integers(0, 256)
        status, text, _ = ask(port, bytes(damaged))
        assert status in (200, 413, 415) and text
        seen.add(status)
    assert {200, 415} <= seen
    assert ask(port, encoded(small))[0] == 200


def test_other_sites_are_refused(port):
    photo = encoded(scene())
    assert ask(port, photo, Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    for headers in (
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
    ):
        for path, body in (("/", None), ("/about", None), ("/answer", photo)):
            status, text, _ = ask(port, body, path, **headers)
            assert status == 403 and "Expected the" in text, headers


def test_one_photo_is_looked_at_at_a_time(port, detector):
    detector.pnet.most = 0
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: ask(port, encoded(scene()))[0], range(4)))
    assert replies == [200] * 4 and detector.pnet.most == 1


def test_nothing_is_written_to_disk(port):
    written, watching = [], True

    def watch(event, arguments):
        if watching and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])

    sys.addaudithook(watch)  # None can be taken away again.
    with open(os.devnull, "w"):
        assert written == [os.devnull]
    for body in (encoded(scene(13)), encoded(scene(13), "TIFF"), bytes(2**21)):
        ask(port, body)
    watching = False
    assert written == [os.devnull]


@pytest.mark.system
@pytest.mark.parametrize("width, height", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_in_a_browser(browser, port, tmp_path, width, height):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def part(name):
        return browser.find_element(By.ID, name)

    def wait_for(text):
        WebDriverWait(browser, 60).until(lambda _: text in part("status").text)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width

    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"http://127.0.0.1:{port}/")
    WebDriverWait(browser, 60).until(lambda _: "age-gender-B version 1" in part("titles").text)
    reached = []
    for _ in range(2):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["file", "camera"]

    photo = scene(13, 16)
    photo.save(tmp_path / "two faces.png")
    part("file").send_keys(str(tmp_path / "two faces.png"))
    wait_for("2 faces found")
    rows = json.loads(ask(port, encoded(photo))[1])["rows"]
    for card, row in zip(browser.find_elements(By.TAG_NAME, "article"), rows[::2], strict=True):
        assert f"{row['age_years']:.0f} years" in card.text and row["gender_text"] in card.text
        within = f"{row['age_high'] - row['age_years']:.1f} years"
        assert f"9 in 10 lie within {within}" in card.text
    with PIL.Image.open(io.BytesIO(part("picture").screenshot_as_png)) as shown:
        scale = shown.width / photo.width
        for row in rows[::2]:
            place = int((row["left"] + row["right"]) / 2 * scale), int((row["top"] + 1) * scale)
            around = shown.convert("L").crop((place[0], place[1] - 2, place[0] + 1, place[1] + 3))
            assert around.getextrema()[1] > 200, "the box's upper edge is white"

    part("camera").click()  # Its pattern holds no face.
    WebDriverWait(browser, 60).until(
        lambda _: browser.execute_script("return document.querySelector('video').videoWidth")
    )
    part("take").click()
    wait_for("No face found")
    assert not browser.find_elements(By.TAG_NAME, "article")
    assert not part("video").is_displayed()

    (tmp_path / "notes.txt").write_text("no photo")
    part("file").send_keys(str(tmp_path / "notes.txt"))
    wait_for("Not read, not an image")
    assert not part("result").is_displayed()
    (message,) = browser.get_log("browser")  # Of this refusal, and no other.
    assert "/answer - Failed to load resource" in message["message"]
