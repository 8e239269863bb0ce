"""MLflow's own UI, on this machine only, with links to the trials of each search."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow

from agegender.registry import tracking

LOG = Path(".cache", "ui.log")
SECONDS_TO_ANSWER = 120
MOST_SEARCHES = 10
_TAG, _NOTE = "mlflow.sharedViewState.", "mlflow.note.content"
_COLUMN_PIXELS = 150  # "val_gender_accuracy" fits


def show(root: Path, port: int) -> None:
    """Start MLflow's server on the store of `root`, print its addresses, wait for Ctrl-C.

    port: 0 for any. Raises ValueError if the server ends by itself or does not answer.
    """
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]  # a free one if it was 0
    uri = tracking.connect(root)
    print("Starting MLflow's server ...", flush=True)
    # MLflow's job runner would add eight processes of 240 MB that nothing here uses.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *where, "--backend-store-uri", uri]
    path = root / LOG
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as log:
        # In a separate session, so that Ctrl-C reaches only this process, which then ends it.
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        host = f"http://127.0.0.1:{port}"
        _wait_for(f"{host}/health", server, path)
        print(f"all runs: {host}/#/experiments?workflowType=machine_learning")
        for name, trials in addresses():
            print(f"{name}: {host}{trials}")
        print(f"registered models: {host}/#/models?workflowType=machine_learning")
        print("Ctrl-C ends it.", flush=True)
        while server.poll() is None:  # A long wait would miss a Ctrl-C at its start.
            time.sleep(0.5)
        raise ValueError(f"MLflow's server ended: see {path}.")
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # if it ended itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Wait until the address answers; raise ValueError if the server ended or took too long."""
    give_up = time.monotonic() + SECONDS_TO_ANSWER
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ValueError(f"MLflow's server does not answer at {url}: see {log}.")


def save_view(run_id: str, *, metrics: list[str], params: list[str]) -> None:
    """Save a view of a search's trials and link it from the search and its experiment.

    It is stored as the UI stores shared views. The lowest value of the first metric comes first.

    run_id: of the search, the trials' parent. metrics, params: the columns, in this order.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    columns = [f"metrics.`{metric}`" for metric in metrics] + [f"params.`{p}`" for p in params]
    view = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}' and tags.role = 'trial'",
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,  # By default, the UI sorts by name.
        "columnWidths": dict.fromkeys(columns, _COLUMN_PIXELS),
    }
    tracking.twice(client.set_experiment_tag, experiment_id, _TAG + run_id, json.dumps(view))
    links = [f"[{name}]({url[1:]})" for name, url in addresses(experiment_id)]
    note = "One run per search, one child run per trial. `val_score`: 1 is trivial, lower is "
    note += f"better. The trials of the last searches, best first: {', '.join(links)}."
    tracking.twice(client.set_experiment_tag, experiment_id, _NOTE, note)
    link = f"[Its trials, best first]({address(run_id)[1:]})"
    tracking.set_tags(run_id, {_NOTE: f"{run.data.tags.get(_NOTE, '')}\n\n{link}"})


def address(run_id: str) -> str:
    """Return the UI's path for the trials of a search."""
    client = mlflow.MlflowClient()
    run, key = client.get_run(run_id), run_id
    experiment = client.get_experiment(run.info.experiment_id)
    if _TAG + key not in experiment.tags:  # Earlier versions kept one view per family.
        key = f"trials-{run.data.tags.get('family')}"
    page = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    return f"{page}&viewStateShareKey={key}"


def addresses(experiment_id: str | None = None) -> list[tuple[str, str]]:
    """Return name and `address` of the last searches, newest first.

    experiment_id: restricts them to this experiment.
    """
    found = mlflow.search_runs(
        [experiment_id] if experiment_id else None,
        "tags.role = 'search'",
        max_results=MOST_SEARCHES,
        order_by=["attributes.start_time DESC"],
        output_format="list",
        search_all_experiments=experiment_id is None,
    )
    return [(run.info.run_name, address(run.info.run_id)) for run in found]
