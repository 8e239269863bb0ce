"""Sixty drawn faces that pass for a user's: a folder without the marker."""

from pathlib import Path

import pytest

from agegender.data import generated_faces, utkface


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    generated_faces.write_faces(folder, 60)
    (folder / utkface.GENERATED_MARKER).unlink()
    return folder
