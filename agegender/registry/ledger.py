"""The ledger of looks at the locked test: each is noted before it happens."""

import pandas as pd

from agegender.registry import tracking

EXPERIMENT = "test-ledger"


def note(run_id: str, purpose: str, details: dict[str, str]) -> None:
    """Note in the ledger, before the look, that a run's model is scored on the test."""
    tags = {"looked_at": run_id, "purpose": purpose} | details
    told = (f"{name} {value[:16]}" for name, value in details.items())
    with tracking.run(" · ".join([purpose, *told]), experiment=EXPERIMENT, tags=tags):
        pass


def looks() -> pd.DataFrame:
    """Return the looks, oldest first, with the columns when, user, run_id, purpose and details."""
    return pd.DataFrame(
        {
            "when": pd.Timestamp(look.info.start_time, unit="ms"),
            "user": look.data.tags["mlflow.user"],
            "run_id": look.data.tags["looked_at"],
        }
        | {
            name: value
            for name, value in look.data.tags.items()
            if not name.startswith(("mlflow.", "process.")) and name != "looked_at"
        }
        for look in tracking.search(EXPERIMENT)
    )
