"""Presets: which one runs, and whether its plan fits its time."""

from pathlib import Path

import pytest

from agegender import config
from pipelines.work import Work
from tuning import spaces


def test_drawn_faces_have_a_preset_of_their_own():
    assert config.preset_for(None) == "drawn"
    assert config.preset_for(Path("train_val")) == "laptop"


@pytest.mark.parametrize("name", config.PRESETS)
def test_a_preset_knows_its_name_and_shares_out_no_more_time_than_there_is(name):
    settings = config.PRESETS[name]
    assert settings.preset == name and settings.tier in spaces.TIERS
    families = (settings.scratch, settings.pretrained)
    assert sum(part.search_share + part.final_share for part in families) <= 1


def test_the_time_for_training_is_shared_out_once_the_faces_are_ready():
    settings = config.Settings(minutes=5, closing_seconds=60)
    work = Work(settings, None, Path(), Path(), started=100, ready=140)
    assert [work.stop_at(share) for share in (0, 0.5, 1)] == [140, 240, 340]
