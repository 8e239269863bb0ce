"""The environment of all tests, set before anything is imported."""

import os
import pathlib
import shutil
import signal

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# If both cores are busy, OpenBLAS threads spin waiting: proposals took several times longer.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Parallel test processes get one core each, or their threads would wait for each other.
    os.environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
    )
# Programs that a test starts in its own folder import from here.
os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).parents[1])
# Tests create their own stores and never write to a user's.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Background processes of a shell ignore Ctrl-C, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests with one of these start other programs, or several Python processes.
SYSTEM_FIXTURES = {"browser", "new_place", "running", "server"}
LONGEST_FILES = ("test_miniature.py", "test_fit.py", "test_search.py", "test_export.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests that use one of SYSTEM_FIXTURES as `system`, before any is deselected."""
    for item in items:
        if SYSTEM_FIXTURES & set(item.fixturenames):
            item.add_marker("system")
    # Start the longest files first, so that no process is left alone with one at the end.
    order = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that keeps its console messages; its fake camera shows a pattern."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(shutil.which("chromedriver"))
    with selenium.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    """An empty store: creating its tables takes over a second, copying them almost none."""
    from agegender.registry import tracking

    root = tmp_path_factory.mktemp("made")
    tracking.connect(root)
    return root


@pytest.fixture
def root(made_store, tmp_path):
    """A clone's folder with an empty store, connected."""
    from agegender.registry import tracking

    folder = tmp_path / "a clone, 100%"
    shutil.copytree(made_store, folder)
    tracking.connect(folder)
    return folder


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory):
    """A hundred drawn faces, prepared once."""
    from agegender.data import pixels

    folder = tmp_path_factory.mktemp("drawn-faces")
    return pixels.open_faces(pixels.prepare(None, folder, seed=0, generated_faces=100))


@pytest.fixture(scope="session")
def labelled_faces():
    """120 faces of all decades; rows 0 and 1 are one photo labelled with two ages."""
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(0)
    ages = np.arange(120) % 90 + 1
    manifest = pd.DataFrame(
        {
            "name": [f"{age}_face_{row}" for row, age in enumerate(ages)],
            "age_years": ages,
            "gender": np.arange(120) // 2 % 2,
            "race": np.arange(120) % 5,
            "group": [0, 0, *range(2, 120)],
            "split": np.where(np.arange(120) % 6 == 5, "test", "train"),
        }
    )
    manifest.loc[0, "age_years"] = 50
    return manifest, generator.integers(0, 256, (120, 16, 16, 3), np.uint8)


def pytest_terminal_summary(terminalreporter):
    """Print what the tests measured, each with the command that repeats it."""
    measured = [
        (report.nodeid, figures)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, figures in report.user_properties
        if name == "figures"
    ]
    if measured:
        terminalreporter.section("measured")
    for node, figures in measured:
        terminalreporter.write_line(f"{figures}\n    pytest '{node}' -m 'slow or not slow'")
