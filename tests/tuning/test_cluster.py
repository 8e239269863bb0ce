"""A search on a real Ray cluster of two nodes, which share a store and nothing else."""

import contextlib
import importlib.util
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile

import mlflow
import numpy as np
import pytest

from tuning import cluster, journal

EPOCHS = 5
TOKEN = os.urandom(32).hex()
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}


@pytest.fixture
def place(new_place):
    """A function that makes a folder for a search whose trials have one thread each."""

    def make(name, trials, workers, **variables):
        made = new_place(name, "A", trials, workers, epochs=EPOCHS)
        made.environment |= {"TF_NUM_INTRAOP_THREADS": "1"} | variables
        return made

    return make


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two nodes, at two addresses of the loopback device."""
    if not importlib.util.find_spec("ray"):
        pytest.skip("ray is not installed")
    # Its sockets' paths may have 107 characters: no place for it in tmp_path.
    folder = tempfile.mkdtemp(prefix="ray-")
    os.mkdir(f"{folder}/ray")
    for name, value in {
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
        # Else its workers give way to all else that this machine does.
        "RAY_worker_niceness": "0",
        # Else whoever reaches a port of it may run anything.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    # Ray reads them when it is imported.
    from ray import cluster_utils

    head = NODE | {"node_ip_address": "127.0.0.2", "include_dashboard": False}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        both = cluster_utils.Cluster(True, head_node_args=head, connect=False)
        stack.callback(both.shutdown)
        both.add_node(**NODE, node_ip_address="127.0.0.3")
        yield both


@pytest.fixture
def store(tmp_path):
    """MLflow's server on a free port, its artifacts below `artifacts`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with open(tmp_path / "server.txt", "w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health").close()
                break
            assert server.poll() is None, (tmp_path / "server.txt").read_text()
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def epochs_kept(artifacts):
    """Return how many epochs are in each run's checkpoint in the store."""
    found = {}
    for path in sorted(artifacts.glob("*/*/artifacts/checkpoint/*.zip")):
        with (
            contextlib.suppress(OSError, zipfile.BadZipFile),
            zipfile.ZipFile(path) as archive,
            np.load(io.BytesIO(archive.read("fold-0/full.npz"))) as file,
        ):
            found[path.parts[-4]] = len(json.loads(str(file["notes"]))["history"])
    return found


def test_a_store_that_the_nodes_cannot_reach_is_refused():
    here = {platform.node()}
    for uri in ("sqlite:////folder/mlflow.db", "http://127.0.0.1:5000", "http://localhost:5000"):
        cluster.check_store(uri, here)
        with pytest.raises(journal.SearchError, match="other-host.*MLFLOW_TRACKING_URI=http"):
            cluster.check_store(uri, here | {"other-host"})
    cluster.check_store("http://team:5000", here | {"other-host"})


def test_no_cluster_at_the_address_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        cluster.check_address(address)
        cluster.check_address(f"ray://{address}")
        cluster.check_address("auto")
    with pytest.raises(journal.SearchError, match=f"No Ray cluster answers at .*{address}"):
        cluster.check_address(address)


@pytest.mark.slow
def test_faults_on_two_nodes_change_nothing(tmp_path, place, nodes, store, record_property):
    trials, artifacts = 3, tmp_path / "artifacts"
    clustered = place("cluster", trials, 2, RAY_ADDRESS=nodes.address, MLFLOW_TRACKING_URI=store)
    client, epochs_seen, faults = mlflow.MlflowClient(store), {}, []

    def advanced():
        """Return the runs in training of which an epoch more is in the store than before."""
        found = []
        for run_id, epochs in epochs_kept(artifacts).items():
            before = epochs_seen.get(run_id, 0)
            assert epochs >= before  # It went on, and did not start again.
            epochs_seen[run_id] = epochs
            if before < epochs < EPOCHS - 1:
                found.append(run_id)
        return found

    def a_worker_and_a_node():
        for run_id in advanced():
            if not faults:
                os.kill(int(client.get_run(run_id).data.tags["process.id"]), signal.SIGKILL)
                faults.append("worker")
            elif faults == ["worker"] and len(epochs_seen) > 1:
                nodes.remove_node(*nodes.worker_nodes, allow_graceful=False)
                faults.append("node")
        # Not before Ray has started one of them again.
        said = (clustered.folder / "output.txt").read_text()
        if faults == ["worker", "node"] and "its worker died, attempt 2 of 3" in said:
            faults.append("oracle")
        return "oracle" in faults

    started = time.monotonic()
    status, output = clustered.run(until=a_worker_and_a_node)
    assert (status, faults) == (-signal.SIGKILL, ["worker", "node", "oracle"]), output
    status, output = clustered.run(until=lambda: advanced() is None)
    assert status == 0, output
    seconds = time.monotonic() - started
    alone = place("alone", trials, 1)
    status, output = alone.run()
    assert status == 0, output
    assert clustered.results() == alone.results()
    runs, expected = clustered.runs(), alone.runs()
    assert sorted(runs) == sorted(trial["run_id"] for trial in clustered.journal())
    for run in runs.values():
        assert run["status"] == "FINISHED"
        assert run["steps"] == list(range(1, EPOCHS + 1))
    losses = [{run["name"]: run["losses"] for run in found.values()} for found in (runs, expected)]
    assert losses[0] == losses[1]
    assert not list(artifacts.rglob("*.zip"))
    record_property(
        "figures",
        f"Ray, 2 nodes: {trials} trials in {seconds:.0f} s, killed: {', '.join(faults)}; "
        "differences: none",
    )
