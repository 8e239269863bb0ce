"""What a run says of itself: lines, bars on a terminal, sparse lines elsewhere, estimates."""

import pytest

from agegender import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""

    class Clock:
        now = 1000.0

        def wait(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def epoch(done, **changes):
    return progress.Progress("A trial 003", done, 4, f"epoch {done} of 4", **changes)


def test_lines_of_progress_are_sparse_where_there_is_no_terminal(clock, capsys):
    with progress.Display() as report:
        for done in range(3):
            clock.wait(6)
            report(epoch(done, seconds_left=65.4))
        report("  trial  3  val_score 0.5")
        clock.wait(6)
        report(epoch(3))
        clock.wait(60)
        report(epoch(4))
    assert capsys.readouterr().out.splitlines() == [
        "  A trial 003: epoch 1 of 4, 1:05 left",
        "  trial  3  val_score 0.5",
    ]


def test_a_terminal_has_a_bar_a_part_and_none_when_it_ends(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("COLUMNS", "110")
    with progress.Display() as report:
        report(progress.Progress("Search of A", 2, 5, "trial 3 of 5", 125.0))
        report(epoch(2))
        report._bars.refresh()
        drawn = capsys.readouterr().out
        assert "Search of A" in drawn and "trial 3 of 5" in drawn and "2:0" in drawn
        assert "A trial 003" in drawn and "epoch 2 of 4" in drawn
        report("a line")
        report(epoch(4))
        capsys.readouterr()
        report._bars.refresh()
        drawn = capsys.readouterr().out
        assert "Search of A" in drawn and "A trial 003" not in drawn


def test_the_first_step_is_no_measure_of_the_pace(clock):
    pace = progress.Pace()
    clock.wait(60)
    assert pace.seconds_left(1, 5) is None
    clock.wait(2)
    assert pace.seconds_left(2, 5) == 6
    clock.wait(4)
    assert pace.seconds_left(3, 5) == 6


@pytest.mark.parametrize(("seconds", "told"), [(-3, "0:00"), (9.6, "0:10"), (125, "2:05")])
def test_a_clock_has_minutes_and_seconds(seconds, told):
    assert progress.clock(seconds) == told
