"""Versions are registered once, and only a file that keeps its word is handed over."""

import h5py
import keras
import pytest

from agegender.networks import inspection
from agegender.registry import tracking, versions
from pipelines import __main__ as command


@pytest.fixture
def server(running, tmp_path, monkeypatch):
    """A tracking server of one worker that keeps the artifacts itself."""
    command = ["mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "kept")]
    with running(tmp_path, *command, health="/health") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_versions_are_registered_once_and_only_the_first_is_champion(client, register):
    with tracking.run("train", experiment="tests") as first:
        tracking.log_metrics(first, {"test_mae": 6.5})
    assert versions.aliases("age-gender-A") == {}
    assert [register(run_id) for run_id in (first, None, first)] == [1, 2, 1]
    assert versions.aliases("age-gender-A") == {"champion": 1, "challenger": 2}
    # A promotion is not undone by a pipeline that is started again.
    client.set_registered_model_alias("age-gender-A", "champion", "2")
    assert register(first) == 1
    assert versions.aliases("age-gender-A")["champion"] == 2
    version = client.get_model_version("age-gender-A", "1")
    assert version.run_id == first and version.description == "A network."
    assert version.tags["test_mae"] == "6.543" and version.tags["licence"] == "research only"
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == {"test_mae": 6.5}


def test_a_version_shows_a_few_tags_and_its_run_keeps_the_others(client, register):
    tags = {
        name: name for name in ("data.digest", "licence", "settings", "seed", "trained_without")
    }
    with tracking.run("train", experiment="tests") as run_id:
        tracking.log_metrics(run_id, {"val_score": 0.123456})
    register(run_id, tags=tags, metrics={"test_mae": 5.0, "test_rmse": 7.0, "val_score": 0.123456})
    shown = client.get_model_version("age-gender-A", "1").tags
    assert shown.keys() >= {"data.digest", "licence", "test_mae"} and "settings" not in shown
    assert len(shown) + len(("time", "user", "reasons", "decision", "against")) <= 12
    known = versions.get("age-gender-A", 1)
    assert known.items() >= {**tags, "run_id": run_id, "val_score": "0.1235"}.items()
    # Earlier versions of this project put all tags on the version: these come first.
    versions.set_tags("age-gender-A", 1, {"seed": "7"})
    assert versions.get("age-gender-A", 1)["seed"] == "7"


def test_an_alias_lost_to_a_kill_is_set_by_the_next_call(client, register):
    register()
    client.delete_registered_model_alias("age-gender-A", "champion")
    client.delete_model_version_tag("age-gender-A", "1", "entered_as")
    assert register(versions.get("age-gender-A", 1)["run_id"]) == 1
    assert versions.aliases("age-gender-A") == {"champion": 1}


def test_pull_refuses_a_changed_file_and_keeps_the_old(root, register, network_h5, tmp_path):
    register()
    to = tmp_path / "exports" / "A.h5"
    versions.pull("age-gender-A", "champion", to)
    (stored,) = root.glob("mlruns/artifacts/**/artifacts/*.h5")
    stored.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        versions.pull("age-gender-A", "champion", to)
    assert to.read_bytes() == network_h5.read_bytes()
    assert [path.name for path in to.parent.iterdir()] == ["A.h5"]
    with pytest.raises(ValueError, match="No model 'age-gender-A' with the alias 'best'"):
        versions.pull("age-gender-A", "best", to)


def test_a_pulled_file_is_verified_by_its_own_golden_predictions(register, client, tmp_path):
    bad = tmp_path / "bad.h5"
    version = versions.get("age-gender-A", register())
    versions.pull("age-gender-A", 1, bad)
    with h5py.File(bad, "a") as file:
        file["model_weights/age/age/bias"][:] += 1
    assert register(h5_path=bad) == 2
    to = tmp_path / "exports"
    to.mkdir()
    with pytest.raises(inspection.ExportError, match="differs from its golden predictions"):
        versions.pull("age-gender-A", "challenger", to)
    assert list(to.iterdir()) == []
    assert versions.pull("age-gender-A", "champion", to) == to / "age_gender_A.h5"
    assert version["version"] == "1" and version["test_mae"] == "6.543"
    versions.set_tags("age-gender-A", 1, {"h5.path": "artifacts/../../escaped.h5"})
    with pytest.raises(ValueError, match="not registered by this project"):
        versions.pull("age-gender-A", 1, to)


def test_the_command_pulls_from_a_server(server, register, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tracking.connect(tmp_path)
    with tracking.run("train", experiment="tests") as run_id:
        tracking.log_text(run_id, "kept", "note.txt")
    register(run_id, model_name="age-gender-B-generated")
    assert tracking.read_text(run_id, "note.txt") == "kept"
    assert command.main(["pull", "--model", "B", "--generated", "--to", "B.h5"]) == 0
    assert "age-gender-B-generated (champion) is in B.h5" in capsys.readouterr().out
    assert keras.models.load_model("B.h5").output_shape == [(None, 1), (None, 1)]
    flags = ["--model", "age-gender-B-generated", "--version", "7", "--to", "7.h5"]
    assert command.main(["pull", *flags]) == 2
    assert "the version 7 in http" in capsys.readouterr().err
    assert not (tmp_path / "7.h5").exists() and not (tmp_path / "mlruns").exists()
