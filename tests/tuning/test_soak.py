"""What a long search keeps of the machine: memory, and how much faster several workers are."""

import re
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def resident_megabytes(process_id):
    return (
        int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process_id}/status").read_text())[1]) / 1024
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_after_200_trials_is_that_after_10(new_place, record_property):
    place = new_place("memory", "A", trials=200, faces=60, epochs=1)
    process = place.start()
    curve = {}
    while process.poll() is None:
        count = sum(trial["told"] is not None for trial in place.journal())
        if count and count % 10 == 0 and count not in curve:
            # Those that stay: the search itself, and the one that trials are forked from.
            started, _ = place.processes(process.pid)
            curve[count] = sum(map(resident_megabytes, [process.pid, *started]))
        time.sleep(0.1)
    assert process.returncode == 0
    last = max(curve)
    record_property(
        "figures",
        f"{curve[10]:.0f} MB after 10 trials, {curve[last]:.0f} MB after {last}; curve: "
        + ", ".join(f"{n}: {megabytes:.0f}" for n, megabytes in curve.items() if n % 50 == 0),
    )
    assert last >= 190 and curve[last] < 1.1 * curve[10]


def test_two_workers_on_one_machine(new_place, record_property):
    seconds = {}
    for workers in (1, 2):
        place = new_place(f"{workers}", "A", trials=8, workers=workers, faces=800, epochs=4)
        process = place.start()
        while process.poll() is None and not place.journal():
            time.sleep(0.05)
        started = time.monotonic()
        assert process.wait(1500) == 0
        seconds[workers] = time.monotonic() - started
        assert [trial["number"] for trial in place.journal()] == list(range(1, 9))
        assert len(place.runs()) == 8
    record_property(
        "figures",
        f"8 trials: {seconds[1]:.0f} s with 1 worker, {seconds[2]:.0f} s with 2, "
        f"{seconds[1] / seconds[2]:.2f} times the throughput",
    )
