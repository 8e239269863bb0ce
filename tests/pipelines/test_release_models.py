"""A release is trained on the faces that it is named for, and on no others."""

from pathlib import Path

import pandas as pd
import pytest

from agegender import config
from agegender.data import pixels
from pipelines import pull_model, release_models
from pipelines.work import Work


@pytest.mark.parametrize(
    ("model", "kind", "count", "expected"),
    [
        ("A", "generated", 5000, "the coursework's 5,000 faces; DATA has 5,000 generated faces"),
        ("B", "utkface", 20_000, "the coursework's 5,000 faces; DATA has 20,000 utkface faces"),
        ("B_full", "utkface", 5000, "all of UTKFace; DATA has 5,000 utkface faces"),
    ],
)
def test_other_faces_make_no_release(tmp_path, model, kind, count, expected):
    faces = pixels.Faces(tmp_path, pd.DataFrame(index=range(count)), None, "digest", kind, {})
    work = Work(config.Settings(), faces, tmp_path, tmp_path, started=0.0)
    with pytest.raises(ValueError, match=f"{model} is trained on {expected}"):
        release_models.release(work, model=model)
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.system
def test_pull_hands_over_the_released_model_where_nothing_is_registered(tmp_path, monkeypatch):
    models = Path(__file__).parents[2] / "models"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(models)
    pull_model.pull(model="B", to=tmp_path / "B.h5")
    assert (tmp_path / "B.h5").read_bytes() == (models / "age_gender_B_full.h5").read_bytes()
