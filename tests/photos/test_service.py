"""The page, over a real server: photos get their answer, all else its reason, and none a crash."""

import base64
import concurrent.futures
import contextlib
import csv
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import numpy as np
import PIL.Image
import pytest

from agegender.photos import estimate, output, service


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
def detector(detector):
    return detector._replace(pnet=Watched(detector.pnet))


def ask(port, body=None, path="/answer", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers


def encoded(photo, kind="PNG", **options):
    stream = io.BytesIO()
    photo.save(stream, kind, **options)
    return stream.getvalue()


def opened(picture):
    return PIL.Image.open(io.BytesIO(base64.b64decode(picture)))


def test_a_photo_gets_its_rows_and_its_marked_picture(port, detector, models, drawn):
    photo = drawn(13, 16).resize((3600, 1600))
    for family in "AB":
        status, text, headers = ask(port, encoded(photo), f"/answer?model={family}")
        assert status == 200 and headers["Cache-Control"] == "no-store"
        answer = json.loads(text)
        (expected,) = estimate.answer(detector, {family: models[family]}, [photo])
        assert [row["face"] for row in answer["rows"]] == [1, 2]
        for row, wanted in zip(answer["rows"], expected.itertuples(), strict=True):
            assert row["age"] == pytest.approx(wanted.age_years, abs=1e-3)
            assert row["model"] == models[family].title and row["family"] == family
            assert row["gender_text"] == output.gender_text(wanted)
    left, top, right, _ = (int(side * 1600 / answer["width"]) for side in answer["rows"][0]["box"])
    edge = (left + right) // 2, top + 1
    with opened(answer["picture"]) as plain, opened(answer["marked"]) as marked:
        assert plain.size == marked.size == (1600, 711)
        assert (answer["width"], answer["height"]) == photo.size
        assert min(marked.getpixel(edge)) > 200 > max(plain.getpixel(edge))


def test_a_photo_without_a_face_gets_no_rows(port):
    for size in ((300, 200), (1, 1), (60_000, 1)):
        status, text, _ = ask(port, encoded(PIL.Image.new("RGB", size)))
        assert (status, json.loads(text)["rows"]) == (200, [])


def test_what_is_no_photo_is_refused_with_the_reason(port, drawn):
    whole = encoded(drawn(13), "JPEG")
    for body, status, reason in (
        (b"", 415, "This file is empty."),
        (b"no picture", 415, "This is not a picture. Try JPEG, PNG or HEIC."),
        (whole[:3000], 415, "This picture is damaged or cut short"),
        (encoded(drawn(), "PPM"), 415, "This is not a picture"),
        (encoded(PIL.Image.new("1", (9000, 8000))), 413, "Too large: 9000x8000 pixels, at most 64"),
        (encoded(PIL.Image.new("F", (9, 9), -5), "TIFF"), 415, "cannot be read: values of an unkn"),
    ):
        found, text, _ = ask(port, body)
        assert found == status and reason in text, text
    status, text, _ = ask(port, whole, "/answer?model=C")
    assert (status, json.loads(text)) == (400, {"error": "Expected the model A or B or AB."})
    assert ask(port, b"", "/nowhere")[0] == 404
    assert ask(port, path="/answer")[0] == 405


def test_too_large_an_upload_is_refused_before_it_is_whole(port):
    claimed = estimate.MOST_BYTES + 2  # One byte never comes.
    status, text, _ = ask(port, bytes(claimed - 1), **{"Content-Length": str(claimed)})
    assert status == 413 and "over 64 MiB" in text


def test_an_upload_that_breaks_off_is_no_error(port, capfd):
    begun = b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nxx"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(begun)
        time.sleep(0.3)
    time.sleep(0.3)
    assert ask(port, path="/about")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_damaged_photos_crash_nothing(port, drawn):
    generator = np.random.default_rng(0)
    small = drawn(13).resize((52, 50))
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


def test_other_sites_are_refused(port, drawn):
    photo = encoded(drawn())
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


def test_what_others_can_reach_answers_to_its_token_alone(serving, detector, models, drawn):
    photo = encoded(drawn(13))
    with serving(service.application(detector, models, ["127.0.0.1"], "secret")) as port:
        for path, body in (("/", None), ("/about", None), ("/health", None), ("/answer", photo)):
            assert ask(port, body, f"/secret{path}")[0] == 200
            assert ask(port, body, f"/secret{path}", Host="localhost")[0] == 403
            for wrong in ("", "/secre", "/secrett", "//secret"):
                status, text, _ = ask(port, body, wrong + path)
                assert status == 404 and "secret" not in text


def test_one_photo_is_looked_at_at_a_time(port, detector, drawn):
    detector.pnet.most = 0
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: ask(port, encoded(drawn()))[0], range(4)))
    assert replies == [200] * 4 and detector.pnet.most == 1


def test_nothing_is_written_to_disk(port, drawn):
    written, watching = [], True

    def watch(event, arguments):
        if watching and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])

    sys.addaudithook(watch)  # None can be taken away again.
    with open(os.devnull, "w"):
        assert written == [os.devnull]
    for body in (encoded(drawn(13)), encoded(drawn(13), "TIFF"), bytes(2**21)):
        ask(port, body)
    watching = False
    assert written == [os.devnull]


# The least contrast of any text on the page with what is behind it, as WCAG counts it.
CONTRAST = """
const parse = colour => colour.match(/[0-9.]+/g).map(Number);
const light = colour => colour.slice(0, 3).map(v => v / 255).map(
  v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce(
  (sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = parse(getComputedStyle(element).backgroundColor);
    if (colour[3] !== 0) return colour;
  }
};
return Math.min(...[...document.querySelectorAll("main *")].filter(element =>
  [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())
  && element.checkVisibility()).map(element => {
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
"""


class Page:
    """The page in a browser of this width and height, in pixels."""

    def __init__(self, browser, port, width, height):
        self.browser, self.width = browser, width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"http://127.0.0.1:{port}/")
        self.wait(lambda: "age-gender-B version 1" in self.part("titles").text)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda _: condition())

    def part(self, name):
        return self.browser.find_element("id", name)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def wait_for(self, text):
        self.wait(lambda: text in self.part("status").text)
        script = "return document.documentElement.scrollWidth"
        assert self.browser.execute_script(script) <= self.width

    def downloaded(self, link):
        kind, _, content = link.get_attribute("href").partition(",")
        return base64.b64decode(content) if "base64" in kind else urllib.parse.unquote(content)


@pytest.fixture(params=[(390, 844), (1400, 900)], ids=["phone", "desktop"])
def page(request, browser, port):
    found = Page(browser, port, *request.param)
    browser.get_log("browser")
    yield found
    assert browser.get_log("browser") == []


@pytest.mark.system
def test_a_page_shows_a_photo(page, port, drawn, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(2):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.append(page.browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["file", "camera"]

    photo = drawn(13, 16)
    photo.save(tmp_path / "two faces.png")
    page.part("file").send_keys(str(tmp_path / "two faces.png"))
    page.wait_for("2 faces found")
    answer = json.loads(ask(port, encoded(photo))[1])
    cards, boxes = page.all("article"), page.all(".box")
    shown = page.all(".picture img")[0].rect
    scale = shown["width"] / photo.width
    for card, box, row in zip(cards, boxes, answer["rows"], strict=True):
        assert f"{row['age']:.0f} years" in card.text and "90 % interval" in card.text
        assert f"{row['age_low']:.0f} to {row['age_high']:.0f}" in card.text
        assert row["gender_text"].removeprefix("gender ") in card.text.replace("\xa0", " ")
        assert box.text == f"{row['face']}: {row['age']:.0f}"
        assert box.rect["x"] - shown["x"] == pytest.approx(row["box"][0] * scale, abs=2)
        assert box.rect["width"] == pytest.approx((row["box"][2] - row["box"][0]) * scale, abs=2)

    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        assert page.browser.execute_script(CONTRAST) >= 4.5, scheme

    (marked,) = page.all("a[download$='marked.jpg']")
    assert marked.get_attribute("download") == "two faces marked.jpg"
    assert page.downloaded(marked) == base64.b64decode(answer["marked"])
    rows = list(csv.DictReader(io.StringIO(page.downloaded(page.part("table")))))
    assert [row["photo"] for row in rows] == ["two faces.png"] * 2
    for row, wanted in zip(rows, answer["rows"], strict=True):
        assert [float(row[side]) for side in ("left", "top", "right", "bottom")] == wanted["box"]
        assert float(row["age"]) == wanted["age"] and row["model"] == wanted["model"]

    page.all("[value=AB]")[0].click()
    page.wait_for("2 faces found")
    page.wait(lambda: "Network A B" in page.all("article")[0].text)
    assert len(page.all("article")) == 2 and len(page.all("article .scale")) == 4


@pytest.mark.system
def test_a_page_takes_examples_several_photos_and_what_is_pasted(page, drawn, tmp_path):
    for button, faces in zip(page.all("#examples button"), (1, 1, 3), strict=True):
        button.click()  # The status says 'Looking' before the click returns.
        page.wait_for(f"{faces} face")

    drawn(13).save(tmp_path / "one.jpg")
    drawn().save(tmp_path / "none.png")
    (tmp_path / "=notes.txt").write_text("no photo")
    paths = [str(tmp_path / name) for name in ("one.jpg", "none.png", "=notes.txt", "one.jpg")]
    page.part("file").send_keys("\n".join(paths))
    page.wait_for("2 faces found in 4 photos.")
    assert [title.text for title in page.all("#results h2")] == ["one.jpg", "none.png", "one.jpg"]
    (wrong,) = page.all("#results .wrong")
    assert wrong.text == "=notes.txt: This is not a picture. Try JPEG, PNG or HEIC."
    assert page.downloaded(page.part("table")).count("one.jpg") == 2

    pasted = base64.b64encode((tmp_path / "one.jpg").read_bytes()).decode()
    page.browser.execute_script(
        "const data = new DataTransfer();"
        "const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));"
        "data.items.add(new File([bytes], 'x'));"
        "dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))",
        pasted,
    )
    page.wait_for("1 face found.")

    page.part("file").send_keys(str(tmp_path / "=notes.txt"))
    page.wait_for("This is not a picture. Try JPEG, PNG or HEIC.")
    assert not page.all("#results *") and not page.part("table").is_displayed()
    for message in page.browser.get_log("browser"):  # Of these refusals, and no other.
        assert "/answer?model=B - Failed to load resource" in message["message"]


@pytest.mark.system
def test_a_page_uses_the_camera(page):
    page.part("camera").click()  # Its pattern holds no face.
    page.wait(
        lambda: page.browser.execute_script("return document.querySelector('video').videoWidth")
    )
    page.part("take").click()
    page.wait_for("No face found")
    assert not page.all("article") and not page.part("video").is_displayed()


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_the_line_on_the_page_gets_the_same_answer(page, port, drawn, tmp_path):
    drawn(13, 16).save(tmp_path / "photo.jpg")
    line = page.part("curl").get_attribute("textContent")
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    (faces,) = json.loads(done.stdout)["answers"]
    shown = json.loads(ask(port, (tmp_path / "photo.jpg").read_bytes())[1])["rows"]
    assert len(faces) == 2
    for face, row in zip(faces, shown, strict=True):
        assert face == {name: row[name] for name in face}
