"""A checkpoint goes into the store and comes back on another disk."""

from pathlib import Path

import numpy as np

from agegender.registry import stored_checkpoints, tracking


def test_the_last_whole_checkpoint_comes_back_and_goes_in_the_end(client, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "fold-0").mkdir(parents=True)
    with tracking.run("trial", experiment="tests") as run_id:
        stored_checkpoints.download(run_id, there)
        stored_checkpoints.remove(run_id)
        assert not there.exists()
        for epoch in range(3):
            np.savez(here / "fold-0" / "scratch.npz", epoch=epoch)
            stored_checkpoints.upload(run_id, here)
        (kept,) = client.list_artifacts(run_id, stored_checkpoints.FOLDER)
        # The next was cut off while it was written.
        torn = tmp_path / "000004.zip"
        torn.write_bytes(Path(client.download_artifacts(run_id, kept.path)).read_bytes()[:-1])
        client.log_artifact(run_id, str(torn), stored_checkpoints.FOLDER)
        stored_checkpoints.download(run_id, there)
        with np.load(there / "fold-0" / "scratch.npz") as file:
            assert file["epoch"] == 2
        stored_checkpoints.remove(run_id)
        assert not client.list_artifacts(run_id, stored_checkpoints.FOLDER)
