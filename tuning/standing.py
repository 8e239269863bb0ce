"""Terminal output of a search: one line per result, the progress, the best settings."""

import math
import statistics
import textwrap
import time

from agegender import progress
from tuning import journal

LINE_LENGTH = 79  # of the narrowest terminal
MOST_SHOWN = 5


def measured(trial: journal.Trial) -> str:
    """Return a completed trial's scores and time as text."""
    return (
        f"val_score {trial.val_score:.3f}  {trial.metrics['val_age_mae']:5.2f} years  "
        f"gender {trial.metrics['val_gender_accuracy']:.3f}  {trial.seconds:4.0f} s"
    )


def result_line(results: list[journal.Trial]) -> str:
    """Return a line with the last result, marked if it is the best so far.

    On the first rung, only the best so far gets a line; the others get "".
    """
    trial = results[-1]
    line = f"  trial {trial.number:>2}  "
    if trial.status == "FAILED":
        return f"{line}failed: {trial.message.strip().splitlines()[-1]}"[:LINE_LENGTH]
    if trial is journal.best(results)[0]:
        return f"{line}{measured(trial)}  best so far"
    return "" if trial.rung == 0 else line + measured(trial)


def progress_of(
    results: list[journal.Trial], most_trials: int, stop_at: float, name: str, workers: int = 1
) -> progress.Progress:
    """Return a search's progress: trials done and expected at this pace, the best, time left."""
    total, seconds_left, note = most_trials, stop_at - time.monotonic(), ""
    if results:
        pace = max(1e-9, statistics.mean(trial.seconds for trial in results) / workers)
        more = int(min(most_trials - len(results), max(1, seconds_left / pace)))
        total = len(results) + more
        seconds_left = min(seconds_left, pace * more)
        note = f"trial {min(len(results) + 1, total)} of {total}"
    if any(trial.status == "COMPLETED" for trial in results):
        metrics = journal.best(results)[0].metrics
        note += f", best {metrics['val_age_mae']:.2f} years, {metrics['val_gender_accuracy']:.3f}"
    finite = seconds_left if math.isfinite(seconds_left) else None
    return progress.Progress(name, len(results), total, note, finite)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def leaders(trials: list[journal.Trial]) -> list[str]:
    """Return lines with the best settings and how each differs from trial 1, the defaults."""
    settings = count(journal.count_settings(trials), "setting")
    lines = [f"  Best of {settings} in {count(len(trials), 'trial')}:"]
    defaults = trials[0].setting
    for trial in journal.best(trials, MOST_SHOWN):
        changes = [
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.setting.items()
            if value != defaults.get(name)
        ]
        line = (
            f"  trial {trial.number:>2}  {trial.val_score:.3f}  "
            f"{trial.metrics['val_age_mae']:5.2f} years  "
            f"{trial.metrics['val_gender_accuracy']:.3f}  {', '.join(changes) or 'the defaults'}"
        )
        lines += textwrap.wrap(line, LINE_LENGTH, subsequent_indent=" " * 12)
    return lines
