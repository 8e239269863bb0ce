"""What a version left in the store is read back whole, and its absence is no error."""

import mlflow
import pandas as pd

from agegender.data import pixels
from agegender.registry import dossier, tracking
from agegender.show import report


def test_everything_of_a_version_and_its_search_is_read(root, register):
    with tracking.run("search A", experiment="e", params={"algorithm": "random"}) as parent:
        tracking.log_text(parent, "trial\n1\n", "trials.csv")
        with tracking.run(
            "finalist",
            experiment="e",
            parent_run_id=parent,
            tags={"trial": "4"},
            params={"width": 8},
        ) as run_id:
            history = pd.DataFrame(
                {"epoch": [0, 1], "val_score": [0.5, 0.4], "age_mae": [9.0, 8.0]}
            )
            for epoch in history.to_dict("records"):
                tracking.log_epoch(run_id, epoch)
            tracking.log_metrics(run_id, {"test_mae": 6.5})
            tracking.log_text(run_id, "{}", "evidence.json")
            tracking.log_text(run_id, "a picture", "test/confusion.png")
            manifest = pd.DataFrame({"split": ["train", "train", "test"]})
            faces = pixels.Faces(root, manifest, None, "abc", "generated", {})
            tracking.log_dataset(run_id, faces, "training")
    register(run_id)
    found = dossier.read("A")
    assert found.tags["version"] == "1" and found.run.tags["trial"] == "4"
    assert found.run.params == {"width": "8"} and found.run.metrics["test_mae"] == 6.5
    assert found.run.files["test/confusion.png"] == b"a picture"
    assert found.history[["epoch", "val_score", "age_mae"]].values.tolist() == [
        [0, 0.5, 9.0],
        [1, 0.4, 8.0],
    ]
    assert found.sizes == {"num_rows": 3, "train": 2, "test": 1}
    assert found.search.params == {"algorithm": "random"}
    assert found.search.files == {"trials.csv": b"trial\n1\n"}


def test_a_version_without_search_or_artifacts_has_empty_places(root, register):
    register()
    found = dossier.read("A")
    assert found.search == report.StoredRun() and found.sizes == {}
    assert found.history.empty and found.pretraining == ""
    # Of a taught A, the backbone is its teacher's.
    mlflow.MlflowClient().set_model_version_tag("age-gender-A", "1", "backbone", "faceres_deep")
    assert dossier.read("A").pretraining == ""
    # A version outlives its run.
    mlflow.MlflowClient().set_model_version_tag("age-gender-A", "1", "run_id", "0" * 32)
    found = dossier.read("A")
    assert found.run == report.StoredRun() and found.tags["licence"] == "research only"
