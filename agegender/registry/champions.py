"""The champions as they are used: networks with their intervals and their abstention."""

import json
import tempfile
from pathlib import Path

import mlflow

from agegender.networks import export
from agegender.photos import estimate
from agegender.registry import tracking, versions

EVIDENCE = "evidence.json"  # In the run of each version, from its evaluation.


def models_for_prediction(generated: bool = False) -> dict[str, estimate.Model]:
    """Return the champions of A and B, or of the one that has one, each checked by `versions.pull`.

    ValueError where there is none, where a file fails its checks, or where a champion was never
    evaluated.
    """
    models = {}
    for family in ("A", "B"):
        name = versions.full_name(family, generated)
        if "champion" not in versions.aliases(name):
            continue
        version = versions.get(name, "champion")
        text = tracking.read_text(version["run_id"], EVIDENCE)
        if text is None:
            raise ValueError(
                f"{name} version {version['version']} has no {EVIDENCE} in its run, and so no "
                "intervals: it was not registered by `make promote`. Promote or roll back another."
            )
        evidence = json.loads(text)
        with tempfile.TemporaryDirectory() as folder:
            network = export.load_h5(versions.pull(name, int(version["version"]), Path(folder)))
        models[family] = estimate.Model(
            f"{name} version {version['version']}",
            network,
            evidence["intervals"],
            evidence["abstention"]["confidence"],
        )
    if not models:
        raise ValueError(
            f"No champion of {versions.full_name('A', generated)} or "
            f"{versions.full_name('B', generated)} in {mlflow.get_tracking_uri()}: "
            + ("run `make tune`" if generated else "run `make tune DATA=...` on real faces")
            + " first, or set MLFLOW_TRACKING_URI"
            + ("." if generated else "; GENERATED=1 takes the models of drawn faces.")
        )
    return models
