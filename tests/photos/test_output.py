"""Files to answers on a disk: nothing lost or unsaid, and no run's output in another's input."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from agegender.data import utkface
from agegender.photos import estimate, output
from pipelines import __main__ as command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(coloured_model):
    return coloured_model("A")


def saved(folder, name, image):
    image.save(folder / name)
    return folder / name


def listed(folder, *sources):
    return [str(path.relative_to(folder)) for path in output.list_photos(sources or [folder])]


def test_folders_are_listed_sorted_with_all_below_and_without_what_is_hidden(tmp_path):
    for name in ("b.jpg", "a/c.jpg", ".hidden.jpg", ".trash/d.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe.jpg")
    names = listed(tmp_path, tmp_path / "nowhere.jpg", tmp_path)
    assert names == ["nowhere.jpg", "b.jpg", "pipe.jpg", "a/c.jpg", "a/link", "a/notes.txt"]


@pytest.fixture
def without_rights():
    """A folder, seen by a user who has no rights but those that it gives."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        user = os.geteuid()
        yield folder, lambda: os.seteuid(65534 if user == 0 else user)
        os.seteuid(user)
        for path in folder.iterdir():
            path.chmod(0o755)


@pytest.mark.parametrize(
    "mode", [0o000, 0o444], ids=["not listed", "listed, its files not reached"]
)
def test_a_folder_or_file_without_permission_is_counted(without_rights, mode):
    folder, lose_rights = without_rights
    for name in ("closed", "photos"):
        (folder / name).mkdir()
        saved(folder / name, "a.jpg", PIL.Image.new("RGB", (9, 9)))
    (folder / "photos" / "a.jpg").chmod(0o000)
    (folder / "closed").chmod(mode)
    lose_rights()
    paths = output.list_photos([folder, folder / "closed" / "b.jpg"])
    assert len(paths) == 3
    for path in paths:
        with pytest.raises(utkface.Rejection, match="cannot be read: .*Permission denied"):
            estimate.read_photo(path)


def test_outputs_are_no_inputs_and_a_run_keeps_those_of_no_other(detector, model, drawn, tmp_path):
    saved(tmp_path, "a.jpg", drawn(13))
    saved(tmp_path, "b.png", drawn(16))
    (tmp_path / "0003_mine.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    for out in (tmp_path / "out", tmp_path):
        for count in (3, 3, 1):
            paths = output.list_photos([tmp_path])[:count]
            output.prepare(out)
            answered = list(output.answers(detector, {"A": model}, paths, out))
            output.write(out, {"A": model.title}, answered)
            assert listed(tmp_path) == ["0003_mine.jpg", "a.jpg", "b.png"]
            marked = {photo.marked for photo in answered}
            assert len(marked) == count and marked <= {path.name for path in out.iterdir()}
            kept = {"0003_mine.jpg", "a.jpg", "b.png", "out"} if out == tmp_path else set()
            assert {path.name for path in out.iterdir()} - kept == {
                *marked,
                "predictions.csv",
                "predictions.json",
            }
            assert output.list_photos(out / name for name in marked) == []
        output.prepare(out)
        assert not list(out.glob("0001_*"))


def test_a_marked_photo_shows_box_and_text_and_leaves_the_photo_alone(detector, model, drawn):
    photo = drawn(13, 16).resize((3600, 1600))
    before = photo.tobytes()
    (table,) = estimate.answer(detector, {"A": model, "B": model}, [photo])
    marked = output.annotate(photo, table)
    assert photo.tobytes() == before and marked.size == (1600, 711)
    changed = np.abs(np.asarray(marked.resize((900, 400))).astype(int) - drawn(13, 16)).max(2) > 60
    for _, face in table.groupby("face"):
        left, right = face.iloc[0][["left", "right"]] / 4
        assert changed[:, int(left) : int(right)].sum() > 200
    plain = output.annotate(photo, table[:0])
    assert np.abs(np.asarray(plain).astype(int) - photo.resize(plain.size)).mean() < 3


@pytest.mark.parametrize("name", ["x" * 249 + ".png", "é" * 124 + ".png", "a\n" * 120 + ".png"])
def test_a_photo_with_a_long_name_is_marked_under_a_shorter_one(
    detector, model, drawn, tmp_path, name
):
    path = saved(tmp_path, name, drawn(13))
    [photo] = output.answers(detector, {"A": model}, [path], tmp_path)
    assert (tmp_path / photo.marked).stat().st_size > 0
    assert photo.marked.startswith(f"0001_{utkface.printable(name)[:90]}")


def test_a_photo_without_a_face_is_not_copied(detector, model, tmp_path):
    path = saved(tmp_path, "nobody.png", PIL.Image.new("RGB", (90, 60)))
    [photo] = output.answers(detector, {"A": model}, [path], tmp_path)
    assert output.text(photo).endswith("nobody.png: no face found") and photo.marked is None
    assert [path.name for path in tmp_path.iterdir()] == ["nobody.png"]


@pytest.mark.parametrize(
    ("probability", "sure", "said"),
    [(0.93, True, "female 93 %"), (0.996, True, ">99 %"), (0.6, False, "not sure (female 60 %)")],
)
def test_what_is_not_sure_is_said_in_words(probability, sure, said):
    row = {"face": 1, "model": "B", "age_years": 31.24, "age_low": 22.4, "age_high": 40.1}
    row |= {"gender": "female", "gender_probability": probability, "gender_sure": sure}
    text = output.text(output.Answered("a.jpg", answers=[row | {"doubtful": not sure}]))
    assert "31.2 years (22 to 40)" in text and said in text and ("doubtful" in text) != sure


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder where the released models answer."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_disk(place):
    """A function that mounts a disk with these options and returns its folder."""
    folder = place / "disk"
    folder.mkdir()

    def call(options):
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        made = subprocess.run(mount, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"may not mount a small disk: {made.stderr.strip()}")
        return folder

    yield call
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def test_what_cannot_be_written_is_said_before_anything_is_loaded(place, small_disk, capsys):
    (place / "photo.jpg").touch()
    for out in (small_disk("ro"), place / "photo.jpg", Path("/proc/here"), place / ("x" * 300)):
        assert command.main(["predict", "--photo", "photo.jpg", "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert "Loading the models" not in captured.out
        assert captured.err.startswith("agegender: Cannot write to ")
        assert captured.err.endswith("choose another folder with OUT=.\n")
        assert len(captured.err.splitlines()) == 1


def test_a_disk_that_fills_keeps_what_is_finished(place, small_disk, drawn, capsys):
    generator = np.random.default_rng(0)
    for number in range(6):
        photo = drawn(13).resize((900, 800))
        noise = generator.integers(0, 256, (300, 900, 3), dtype=np.uint8)
        photo.paste(PIL.Image.fromarray(noise), (0, 500))
        saved(place, f"{number}.png", photo)
    out = small_disk("size=800k")
    assert command.main(["predict", "--photo", "*.png", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    written = json.loads((out / "predictions.json").read_text())
    marked = [photo["marked"] for photo in written["photos"]]
    assert 1 <= len(marked) < 6 and marked == sorted(path.name for path in out.glob("*.jpg"))
    assert len(pd.read_csv(out / "predictions.csv")) == len(marked)
    for name in marked:
        with PIL.Image.open(out / name) as picture:
            picture.load()


ODD_NAMES = [name.encode() for name in ("a 😀.png", "b\x1b[31m\r.png", "c\n.png")] + [b"d\xe9.png"]


@pytest.mark.system
@pytest.mark.parametrize("lines_read", [None, 1, 0])
def test_a_result_depends_on_no_terminal(place, drawn, lines_read):
    """Odd names, an ASCII terminal, and a reader who leaves: the files are the same."""
    drawn(13).save("face.png")
    folder = place / "é"
    folder.mkdir()
    for name in ODD_NAMES:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write((place / "face.png").read_bytes())
    surroundings = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    started = [sys.executable, "-m", "pipelines", "predict", "--photo", "é", "--out", "ü"]
    with subprocess.Popen(
        started, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(lines_read or 0):
            process.stdout.readline()
        text = process.stdout.read().decode("ascii") if lines_read is None else ""
        process.stdout.close()
        said = process.stderr.read().decode("ascii")
        assert process.wait() == 0 and said == ""
    if lines_read is None:
        assert "4 of 4 photos read, 4 faces" in text and "results in /" in text and r"/\xfc" in text
        for shown in (r"a \U0001f600.png", r"b\x1b[31m\r.png", r"c\n.png", r"d\udce9.png"):
            assert f"\\xe9/{shown}:\n" in text
    with open(place / "ü" / "predictions.csv", newline="") as file:
        assert [row["photo"] for row in csv.DictReader(file)] == [
            "é/a 😀.png",
            r"é/b\x1b[31m\r.png",
            r"é/c\n.png",
            r"é/d\udce9.png",
        ]
    assert len(list((place / "ü").glob("*.jpg"))) == 4


def test_b_answers_and_a_on_request(place, drawn, capsys):
    drawn(13).save("face.png")
    for asked, families in (([], "B"), (["--model", "A"], "A"), (["--model", "AB"], "AB")):
        assert command.main(["predict", "--photo", "face.png", *asked]) == 0
        assert capsys.readouterr().err == ""
        written = json.loads(Path("predictions/predictions.json").read_text())
        assert list(written["models"]) == list(families)
        assert [row["model"] for row in written["photos"][0]["answers"]] == list(families)
