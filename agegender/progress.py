"""Progress reports of long runs: permanent lines, and bars on a terminal."""

import dataclasses
import time
from collections.abc import Callable

import rich.console
import rich.progress
import rich.table
import rich.text

# Minimum time between two lines of progress if the output is not a terminal.
PLAIN_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of one part of a run, which ends when `done` (in any unit) reaches `total`."""

    part: str  # its name, such as "B trial 003"
    done: float
    total: float
    note: str = ""  # extra information, such as the errors of the last epoch
    seconds_left: float | None = None  # None until it can be estimated


Report = Callable[[str | Progress], None]


class Display:
    """A `Report` for people: lines, and one bar per part.

    Outside `with` or a terminal, occasional lines replace the bars.
    """

    def __init__(self) -> None:
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("  {task.description}", markup=False),
            rich.progress.BarColumn(bar_width=10),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
            _TimeLeft(table_column=rich.table.Column(no_wrap=True, min_width=10)),
            console=rich.console.Console(),
            transient=True,
            refresh_per_second=2,
        )
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "Display":
        if self._bars.console.is_interactive:
            self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def __call__(self, said: str | Progress) -> None:
        """Print a line, or show the progress of a part."""
        if isinstance(said, str):
            print(said, flush=True)  # rich puts it above the bars.
        elif self._bars.live.is_started:
            self._draw(said)
        elif said.done < said.total and time.monotonic() - self._last_line > PLAIN_SECONDS:
            note = said.note or f"{said.done:g} of {said.total:g}"
            left = f", {clock(said.seconds_left)} left" if said.seconds_left is not None else ""
            print(f"  {said.part}: {note}{left}", flush=True)
        else:
            return
        self._last_line = time.monotonic()

    def _draw(self, said: Progress) -> None:
        if said.done >= said.total:
            if said.part in self._tasks:
                self._bars.remove_task(self._tasks.pop(said.part))
            return
        ends_at = None if said.seconds_left is None else time.monotonic() + said.seconds_left
        now = {"completed": said.done, "total": said.total, "note": said.note, "ends_at": ends_at}
        if said.part in self._tasks:
            self._bars.update(self._tasks[said.part], **now)
        else:
            self._tasks[said.part] = self._bars.add_task(said.part, **now)


class _TimeLeft(rich.progress.ProgressColumn):
    """Counts down between two estimates."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        ends_at = task.fields["ends_at"]
        left = "" if ends_at is None else f"{clock(ends_at - time.monotonic())} left"
        return rich.text.Text(left)


class Pace:
    """Estimates the time left, ignoring the first step because it also builds and traces."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def seconds_left(self, done: float, total: float) -> float | None:
        """Return the estimate after `done` of `total` steps; None on the first call."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        since, before = self._first
        return (now - since) * (total - done) / (done - before) if done > before else None


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, such as 2:05."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


# The default `Report`: lines, and plain lines of progress.
plain = Display()
