"""The pyfunc answers the same to every form of one face, and clearly to what is none."""

import base64
import io
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request

import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from agegender.registry import serving, tracking


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(register, tmp_path_factory):
    """The registered model, loaded by alias as a user does."""
    tracking.connect(tmp_path_factory.mktemp("store"))
    register()
    return mlflow.pyfunc.load_model("models:/age-gender-A@champion")


def encoded(face, kind="png"):
    stream = io.BytesIO()
    PIL.Image.fromarray(face).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def drawn(size, kind):
    return encoded(np.zeros((*size[::-1], 3), np.uint8), kind)


def test_every_form_of_a_face_gives_the_networks_answer(model, network, faces, tmp_path):
    paths = []
    for number, face in enumerate(faces):
        paths.append(str(tmp_path / f"{number}.png"))
        PIL.Image.fromarray(face).save(paths[-1])
    age, gender = network.predict_on_batch(faces.astype("float32") / 255)
    strings = [encoded(face) for face in faces]
    for given in (
        pd.DataFrame({"image": paths}),
        pd.DataFrame(strings),
        paths,
        strings,
        np.array(paths),
        pd.DataFrame({"image": list(faces)}),
        {"image": faces},
        {"image": faces.astype("float32") / 255},
    ):
        answer = model.predict(given)
        np.testing.assert_allclose(answer.age_years, age[:, 0], atol=1e-5)
        np.testing.assert_allclose(answer.gender_probability_female, gender[:, 0], atol=1e-6)
        assert list(answer.gender) == ["female" if g >= 0.5 else "male" for g in gender[:, 0]]
    bare = model.unwrap_python_model()
    for array in (faces, faces.astype("float32") / 255):
        pd.testing.assert_frame_equal(bare.predict(None, array), answer, atol=1e-5)


def test_signature_example_and_requirements_are_stored(model):
    columns = model.predict(model.input_example).columns
    assert list(columns) == model.metadata.signature.outputs.input_names()
    assert len(model.input_example) == 2
    uri = "models:/age-gender-A@champion/requirements.txt"
    lines = pathlib.Path(mlflow.artifacts.download_artifacts(uri)).read_text().splitlines()
    assert {line.partition("==")[0] for line in lines} >= {"keras", "h5py", "pillow", "mlflow"}


def test_the_index_of_a_table_is_kept(model, faces):
    table = pd.DataFrame({"image": [encoded(face) for face in faces]}, index=[7, 3, 5])
    assert list(model.predict(table).index) == [7, 3, 5]


def test_batches_do_not_show(model, faces, monkeypatch):
    whole = model.predict({"image": faces})
    monkeypatch.setitem(type(model.unwrap_python_model()).predict.__globals__, "BATCH_SIZE", 2)
    pd.testing.assert_frame_equal(model.predict({"image": faces}), whole, atol=1e-5)


def test_pictures_are_read_as_in_training(tmp_path):
    half = np.zeros((200, 200), np.uint16)
    half[:100] = 65535
    PIL.Image.fromarray(half).save(tmp_path / "grey16.png")
    grey = serving.to_pixels(str(tmp_path / "grey16.png"), 128)
    assert grey.shape == (128, 128, 3) and grey[0, 0, 0] == 1 and grey[-1, 0, 0] == 0
    turned = PIL.Image.new("RGB", (200, 200), "black")
    turned.paste("white", (0, 0, 200, 100))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = serving.to_pixels(tmp_path / "turned.png", 128)
    assert upright[0, 0, 0] == 0 and upright[-1, 0, 0] == 1
    PIL.Image.new("RGBA", (64, 90), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert serving.to_pixels(str(tmp_path / "clear.png"), 128).min() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["no/such/file.jpg"], "neither a file nor a picture in base64"),
        (["aGVsbG8="], "not a picture that can be read"),
        ([np.full((128, 128, 3), 1.5)], "floats 0..1"),
        ([np.full((128, 128, 3), np.nan)], "floats 0..1"),
        ([np.full((128, 128, 3), 256)], "integers 0..255"),
        ([np.zeros((128, 128))], r"array \(S, S, 3\)"),
        ([None], r"array \(S, S, 3\)"),
        ([np.zeros((0, 0, 3))], "at least one pixel"),
        (["A" * 12_000_000], "9,000,000 bytes; expected at most 8,388,608"),
        ([drawn((4097, 4096), "png")], "4097 x 4096 pixels, expected at most 16,777,216"),
        ([drawn((8, 8), "gif")], "JPEG, PNG or WebP"),
        ([], "at least one face"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "Expected one column 'image'"),
        (pd.DataFrame({"photo": ["x"]}), "Expected one column 'image'"),
    ],
)
def test_what_is_no_face_is_told(network, given, message):
    model = serving.AgeGender()
    model.network = network
    with pytest.raises(ValueError, match=message):
        model.predict(None, given)


def test_behind_a_server_only_a_few_pictures_in_base64_are_taken(
    model, faces, tmp_path, monkeypatch
):
    PIL.Image.fromarray(faces[0]).save(tmp_path / "face.png")
    path, code = str(tmp_path / "face.png"), encoded(faces[0])
    here = [model.predict(given) for given in ([path], {"image": faces[:1]}, [code] * 65)]
    monkeypatch.setenv(serving.SERVED, "true")
    pd.testing.assert_frame_equal(model.predict([code]), here[0])
    for given, message in (
        ([path], "not a picture in base64"),
        ({"image": faces[:1]}, "base64; got list"),
        ([code] * 65, "at most 64 faces in a request; got 65"),
    ):
        with pytest.raises(mlflow.MlflowException, match=message) as refused:
            model.predict(given)
        assert refused.value.get_http_status_code() == 400


@pytest.mark.system
def test_mlflows_own_server_serves_it_and_refuses_what_is_no_face(
    running, root, register, faces, network
):
    register()
    command = ["mlflow", "models", "serve", "--model-uri", "models:/age-gender-A@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1"]
    surroundings = {
        "MLFLOW_TRACKING_URI": tracking.current_uri(),
        # It calls uvicorn by its name.
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with running(root, *command, health="/ping", **surroundings) as url:

        def ask(*images):
            body = json.dumps({"inputs": images}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/invocations", body, headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return reply.status, json.load(reply)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        status, answer = ask(*map(encoded, faces))
        assert status == 200
        age, _ = network.predict_on_batch(faces.astype("float32") / 255)
        found = [row["age_years"] for row in answer["predictions"]]
        np.testing.assert_allclose(found, age[:, 0], atol=1e-4)
        for images, reason in (
            (["/etc/passwd"], "not a picture in base64"),
            ([drawn((8, 8), "gif")], "JPEG, PNG or WebP"),
            ([encoded(faces[0])] * 65, "at most 64 faces"),
        ):
            status, answer = ask(*images)
            assert status == 400 and reason in answer["message"]


def test_a_truncated_picture_is_told(faces, tmp_path):
    PIL.Image.fromarray(faces[0]).save(tmp_path / "torn.jpg")
    os.truncate(tmp_path / "torn.jpg", 2000)
    with pytest.raises(ValueError, match="torn.jpg"):
        serving.to_pixels(str(tmp_path / "torn.jpg"), 128)
