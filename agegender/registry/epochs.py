"""The epochs of a run as MLflow metrics: one series for each column of a training's history."""

import math
import threading
import time
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import mlflow
import pandas as pd

PREFIX = "epochs/"  # of the name of every series
# Training B's head for an epoch takes hardly longer than writing its metrics. MLflow takes 1,000
# at once.
WRITE_SECONDS, MOST_AT_ONCE = 1.0, 1000
# One thread, so that epochs are written in order. MLflow's own asynchronous logging drops a batch
# that it cannot write and mentions it only in a log.
_thread = futures.ThreadPoolExecutor(1, "epochs")


class Writer:
    """Writes the epochs of an open run in the background while training continues.

    They are written in the order of the calls, those within WRITE_SECONDS together.

    last_epoch: the last one that an interrupted call wrote; up to it, none is written again.
    """

    def __init__(self, run_id: str, last_epoch: float = -1):
        self.run_id, self.last_epoch = run_id, last_epoch
        self.unwritten: list[mlflow.entities.Metric] = []
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.writes: list[futures.Future] = []
        self.next_write = time.monotonic() + WRITE_SECONDS

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of the history.

        Step 1 is the end of epoch 0; step 0 and names without PREFIX are for the whole run.
        """
        if row["epoch"] <= self.last_epoch:
            return
        series = {
            _series(name): value
            # The UI's comparison of runs opens with the first metric.
            for name, value in sorted(row.items(), key=lambda column: column[0] != "val_score")
            if name not in ("epoch", "phase")
        }
        self.put(entries(series, int(row["epoch"]) + 1))

    def put(self, metrics: list[mlflow.entities.Metric]) -> None:
        """Have metrics written with the next epochs, or after WRITE_SECONDS at the latest."""
        with self.lock:
            if not self.unwritten:
                self.writes.append(_thread.submit(self._write))
            self.unwritten += metrics

    def _write(self) -> None:
        self.ended.wait(max(0.0, self.next_write - time.monotonic()))
        self.next_write = time.monotonic() + WRITE_SECONDS
        with self.lock:
            metrics, self.unwritten = self.unwritten, []
        for start in range(0, len(metrics), MOST_AT_ONCE):
            log_batch(self.run_id, metrics[start : start + MOST_AT_ONCE])

    def end(self) -> list[futures.Future]:
        """Write the rest at once; return all writes, which may still be under way."""
        self.ended.set()
        return self.writes


def entries(metrics: Mapping[str, Any], step: int) -> list[mlflow.entities.Metric]:
    """Return metrics with the current time."""
    now = time.time_ns() // 1_000_000
    return [mlflow.entities.Metric(name, float(v), now, step) for name, v in metrics.items()]


def log_batch(run_id: str, metrics: list[mlflow.entities.Metric]) -> None:
    """Write metrics; those that are not finite are named in a tag instead."""
    # MLflow would show infinity as 1.8e308 and NaN as a separate value.
    client = mlflow.MlflowClient()
    client.log_batch(run_id, [metric for metric in metrics if math.isfinite(metric.value)])
    if odd := sorted({metric.key for metric in metrics if not math.isfinite(metric.value)}):
        client.set_tag(run_id, "metrics_not_finite", ", ".join(odd))


def history(run_id: str) -> pd.DataFrame:
    """Return what a `Writer` wrote, one row per epoch; empty if nothing was written."""
    client = mlflow.MlflowClient()
    columns: dict[str, dict[int, float]] = {}
    for series in client.get_run(run_id).data.metrics:
        if series.startswith(PREFIX):
            points = client.get_metric_history(run_id, series)
            of_column = columns.setdefault(_column(series), {})
            of_column.update({point.step - 1: point.value for point in points})
    return pd.DataFrame(columns).sort_index().rename_axis("epoch").reset_index()


def _series(column: str) -> str:
    """Return the name that a history's column has as a metric of a run.

    The UI groups metrics by the part before the last slash: the first section has only val_score,
    the others show training and validation of one metric side by side.
    """
    if column == "val_score":
        return f"{PREFIX}{column}"
    name = column.removeprefix("val_")
    return f"{PREFIX}{name}/{'training' if name == column else 'validation'}"


def _column(series: str) -> str:
    """Return the column of a series; earlier versions of this project added no suffix."""
    name, _, split = series.removeprefix(PREFIX).partition("/")
    return f"val_{name}" if split == "validation" else name
