"""The real faces: what cannot be fetched is said, and other faces are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

download_data = pytest.importorskip(
    "pipelines.download_data", reason="this environment was not made from the lock"
)
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("AGEGENDER_DATA", ROOT / ".." / "shared" / "data"))


def test_download_without_a_network_says_what_to_fetch_and_where_to_put_it(tmp_path):
    nowhere = "http://127.0.0.1:9"
    run = subprocess.run(
        [sys.executable, "-m", "pipelines", "data"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "https_proxy": nowhere, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    first, second = run.stderr.splitlines()
    assert str(tmp_path / "data" / "train_val") in first and "drive.google.com" in first
    assert str(tmp_path / "data" / "UTKFace.tar.gz") in second


def test_download_refuses_other_faces(tmp_path):
    (tmp_path / "1_0_0_20170109.jpg").write_bytes(b"not one of them")
    with pytest.raises(ValueError, match="5,000 known faces; 1 came, and some differ"):
        download_data.check_folder(tmp_path)


@pytest.mark.skipif(not (DATA / "train_val").is_dir(), reason=f"no real faces at {DATA}")
def test_download_knows_the_real_faces():
    download_data.check_folder(DATA / "train_val")
