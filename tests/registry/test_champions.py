"""The champions answer for photos, in Python and as `make predict` and `make app`."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from agegender import records
from agegender.data import generated_faces
from agegender.networks import export
from agegender.registry import access, champions, tracking
from pipelines import __main__ as command

ROOT = Path(__file__).parents[2]

EVIDENCE = {
    "intervals": {"edges": [], "half_widths_years": [7.0]},
    "abstention": {"confidence": 0.9},
}


@pytest.fixture
def champion(root, register, monkeypatch):
    """A function that registers a champion, with or without its evidence."""
    monkeypatch.chdir(root)

    def call(name, evidence=EVIDENCE):
        with tracking.run("candidate", experiment="age-gender") as run_id:
            if evidence:
                tracking.log_text(run_id, json.dumps(evidence), records.EVIDENCE)
        return register(run_id, model_name=name)

    return call


@pytest.fixture
def photos(root):
    folder = root / "my photos"
    folder.mkdir()
    generator = np.random.default_rng(13)
    face = PIL.Image.fromarray(generated_faces.draw_face(31, 1, 3, generator, 192))
    scene = PIL.Image.new("RGB", (500, 300), "grey")
    scene.paste(face, (150, 60))
    scene.save(folder / "a face.jpg")
    PIL.Image.new("RGB", (500, 300), "grey").save(folder / "nobody.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.mark.parametrize("through_mlflow", [False, True])
def test_champions_come_with_what_was_fitted_for_them(
    champion, root, network, through_mlflow, monkeypatch
):
    if through_mlflow:  # As from a server, or an SQLite store that was moved.
        monkeypatch.setattr(access, "in_place", lambda database: False)
    champion("age-gender-A")
    champion("age-gender-A")  # A challenger.
    (found,) = champions.models_for_prediction(root).values()
    assert found.title == "age-gender-A version 1" and found.confidence == 0.9
    assert found.intervals == EVIDENCE["intervals"]
    picture = np.random.default_rng(0).random((1, 128, 128, 3), "float32")
    np.testing.assert_allclose(
        found.network.predict_on_batch(picture)[0], network.predict_on_batch(picture)[0], rtol=1e-4
    )


def test_without_a_champion_it_is_told_what_to_do(champion, root):
    champion("age-gender-B-generated")
    with pytest.raises(ValueError, match="run `make tune DATA=...`.*GENERATED=1"):
        champions.models_for_prediction(root)
    assert list(champions.models_for_prediction(root, generated=True)) == ["B"]


def test_released_models_stand_in_for_a_champion_that_is_missing(champion, root):
    (root / "models").symlink_to(ROOT / "models")
    champion("age-gender-A")
    for families, expected in (
        ("AB", ["age-gender-A version 1", "age_gender_B_full"]),
        ("A", ["age-gender-A version 1"]),
        (None, ["age_gender_B_full"]),
    ):
        found = champions.models_for_prediction(root, families=families)
        assert [model.title for model in found.values()] == expected
    with pytest.raises(ValueError, match="No champion"):
        champions.models_for_prediction(root, generated=True)


def test_a_moved_store_is_mended_and_read(champion, root, tmp_path, capsys):
    champion("age-gender-A")
    root.rename(tmp_path / "moved")
    assert list(champions.models_for_prediction(tmp_path / "moved")) == ["A"]
    assert "paths are repaired" in capsys.readouterr().err


def test_a_changed_file_does_not_answer(champion, root):
    champion("age-gender-A")
    champions.models_for_prediction(root)
    (stored,) = root.glob("mlruns/artifacts/**/artifacts/*.h5")
    with stored.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="version 1: the .h5 has the SHA-256"):
        champions.models_for_prediction(root)


def test_golden_predictions_are_compared_once_for_a_file(champion, root, monkeypatch):
    champion("age-gender-A")
    compared = []
    monkeypatch.setattr(export, "compare_with_golden", lambda *given: compared.append(given))
    for _ in range(2):
        champions.models_for_prediction(root)
    assert len(compared) == 1


def test_a_champion_that_was_never_evaluated_is_told(champion, root):
    champion("age-gender-A", evidence=None)
    with pytest.raises(ValueError, match="age-gender-A version 1 has no evidence.json"):
        champions.models_for_prediction(root)


def test_predict_prints_and_writes_every_photo(champion, photos, root, capsys):
    champion("age-gender-A")
    assert command.main(["predict", "--photo", str(photos), "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 photos read, 1 faces" in printed and "faces per second" in printed
    assert "not read: 1 (not an image)" in printed and "nobody.png: no face found" in printed
    written = json.loads((root / "out" / "predictions.json").read_text())
    assert written["models"] == {"A": "age-gender-A version 1"}
    face, nobody, notes = written["photos"]
    (answer,) = face["answers"]
    assert answer["age_high"] - answer["age_years"] == pytest.approx(7)
    assert 150 < answer["left"] < answer["right"] < 342
    assert f"{answer['age_years']:.1f} years" in printed
    with PIL.Image.open(root / "out" / face["marked"]) as marked:
        assert marked.size == (500, 300)
    assert (nobody["faces"], nobody["reason"], nobody["marked"]) == (0, None, None)
    assert (notes["reason"], notes["marked"]) == ("not an image", None)
    with open(root / "out" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["", "no face found", "not an image"]
    assert [row["face"] for row in rows] == ["1", "", ""]
    assert float(rows[0]["age_years"]) == pytest.approx(answer["age_years"])


def test_predict_ends_with_2_where_nothing_was_read(champion, photos, capsys):
    champion("age-gender-B-generated")
    nothing = f"'{photos / 'notes.txt'}' nowhere.jpg"
    assert command.main(["predict", "--generated", "--photo", nothing]) == 2
    printed = capsys.readouterr().out
    assert "0 of 2 photos read" in printed and "no such file" in printed
    assert "These models have seen drawn faces only" in printed


def test_predict_without_photos_or_models_says_what_is_missing(root, photos, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (photos / "empty").mkdir()
    for place, message in ((photos / "empty", "No photo"), (photos, "No champion")):
        assert command.main(["predict", "--photo", str(place)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.system
def test_the_page_is_served_with_the_champions_until_interrupted(champion, photos, root):
    champion("age-gender-A", EVIDENCE | {"intervals": EVIDENCE["intervals"] | {"coverage": 0.9}})
    command = [sys.executable, "-m", "pipelines", "app", "--port", "0"]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=root, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            _, _, title, address = (process.stdout.readline() for _ in range(4))
            assert title == b"Using age-gender-A version 1\n", process.stderr.read()
            url = re.search(rb"http://127.0.0.1:\d+/", address)[0].decode()
            photo = (photos / "a face.jpg").read_bytes()
            with urllib.request.urlopen(f"{url}answer", photo, timeout=120) as reply:
                (row,) = json.load(reply)["rows"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert b"Traceback" not in process.stderr.read()
    assert row["age_high"] - row["age"] == pytest.approx(7)


def test_the_page_says_what_is_missing(champion, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, message in ((0, "No champion"), (taken.getsockname()[1], "in use")):
            assert command.main(["app", "--port", str(port)]) == 2
            assert message in capsys.readouterr().err
