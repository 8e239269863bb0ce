"""The search of one family: a parent run, one child run per trial, a table and figures.

The search keeps its state in the family's folder: the journal, the parent run's id and
`checkpoints/`, which holds only what interrupted training runs resume from.
"""

import dataclasses
import functools
import json
import math
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd

from agegender import config, disk, hyperparameters, progress, records
from agegender.data import pixels, splits
from agegender.networks import backbones, backend, fit, step
from agegender.registry import epochs, stored_checkpoints, tracking, ui
from agegender.show import figures
from tuning import cluster, experiment, families, finalists, journal, search, standing, workers

# With fewer settings, the best is hardly better than the defaults, and the summary says so.
LEAST_TRIALS = 4
# The number of best settings of earlier searches that are tried again.
MOST_REMEMBERED = 3


def search_family(job: experiment.Job) -> list[journal.Trial]:
    """Search the space of a network; return its trials.

    A search found in the job's folder is continued in the same parent run, or left as it is if it
    led to final training runs on the same budget. Raises SearchError like `search.search`.
    """
    path, settings, effort = job.folder / records.JOURNAL, job.settings, job.effort
    if finalists.read_plan(job):
        return journal.read(path)
    names, constants = families.searched(job.family, settings.tier, job.cache)
    with experiment.parent_run(
        job,
        f"search {job.letter} · {settings.preset} · seed {settings.seed}",
        "search",
        handover=job.folder / records.SEARCH,
        params={"seed": settings.seed, "algorithm": settings.algorithm, "tier": settings.tier}
        | constants,
        description=f"Search of network {job.family.title}. The child runs are its trials. "
        "Parameters that all trials share are shown only here.",
    ) as parent_run_id:
        tracking.log_dataset(parent_run_id, job.faces, "search")
        measures = ["val_score", "val_age_mae", "val_gender_accuracy"]
        ui.save_view(parent_run_id, metrics=measures, params=names)
        job.report(f"\nSearch of {job.family.title}")
        trials = _Trials(job, parent_run_id, constants, _processes(job))
        done = search.search(
            search.Runner(
                trials.run,
                trials.forget,
                trials.follow,
                trials.processes.stop,
                f"Search of {job.letter}",
            ),
            search.Plan(
                lambda hp: job.family.space(hp, settings.tier, job.cache),
                settings.algorithm,
                settings.seed,
                most_trials=effort.trials,
                fewest_trials=effort.fewest_trials,
                rungs=effort.rungs,
                later_rungs=effort.later_rungs,
                factor=effort.factor,
                known=known_settings(job),
            ),
            path=path,
            workers=settings.workers,
            stop_at=job.stop_at,
            report=job.report,
        )
        _summarise(parent_run_id, done, job.report)
    return done


def known_settings(job: experiment.Job) -> tuple[dict[str, Any], ...]:
    """Return the best settings of earlier searches, the same ones when a search resumes.

    They are kept in the search's folder, with the runs that they come from.
    """
    path, tier = job.folder / records.MEMORY, job.settings.tier
    if not path.exists():
        found: dict[str, dict[str, str]] = {}
        if job.settings.memory and not (job.folder / records.JOURNAL).exists():
            tags = {"family": job.letter, "tier": tier, "data.digest": job.faces.digest}
            found = tracking.best_trials(experiment.name_of(job.faces), tags, 5 * MOST_REMEMBERED)
        space = families.searched_space(job.family, tier, job.cache)
        kept: dict[str, dict[str, Any]] = {}
        for run_id, params in found.items():
            setting = families.typed(space, params)
            if setting and setting not in kept.values() and len(kept) < MOST_REMEMBERED:
                kept[run_id] = setting
        disk.write(path, json.dumps(kept, indent=1))
    known = json.loads(path.read_text())
    if known:
        job.report(f"  Starts with {standing.count(len(known), 'setting')} from earlier searches.")
    return tuple(known.values())


def _processes(job: experiment.Job) -> cluster.Tasks | workers.Processes:
    """Return what runs the trials: the Ray cluster if RAY_ADDRESS is set, else this machine."""
    if os.environ.get("RAY_ADDRESS"):
        return cluster.Tasks(job.faces, families.weights(job.cache), job.settings)
    return workers.Processes(job.settings.workers, 60 * job.settings.silent_minutes)


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Runs the trials of a search.

    constants: the values that all trials share, which are left out of their runs.
    """

    job: experiment.Job
    parent_run_id: str
    constants: dict[str, Any]
    processes: cluster.Tasks | workers.Processes

    def name(self, trial: journal.Trial) -> str:
        """Return the name of a trial's run."""
        settings = self.job.settings
        return f"{self.job.letter} {trial.number:03d} · {settings.preset} · seed {settings.seed}"

    def checkpoint(self, trial: journal.Trial) -> Path:
        """Return the folder of a trial's checkpoint."""
        return self.job.folder / "checkpoints" / f"{trial.number:03d}"

    def forget(self, trial: journal.Trial) -> None:
        """Remove the checkpoint of a trial that has ended."""
        shutil.rmtree(self.checkpoint(trial), ignore_errors=True)
        if isinstance(self.processes, cluster.Tasks):
            run_id = tracking.find_child(self.parent_run_id, self.name(trial))
            if run_id:
                stored_checkpoints.remove(run_id)

    def follow(self, results: list[journal.Trial]) -> None:
        """Log the score of the best trial so far on the parent run."""
        if any(trial.status == "COMPLETED" for trial in results):
            score = journal.best(results)[0].val_score
            tracking.log_metrics(self.parent_run_id, {"best_val_score": score}, step=len(results))

    def run(self, trial: journal.Trial) -> journal.Trial:
        """Train a trial in another process; return it with its result."""
        job, name = self.job, self.name(trial)
        training = experiment.Training(
            trial.values,
            job.trial_epochs(trial.values),
            job.settings.seed,
            name,
            role="trial",
            number=trial.number,
            parent_run_id=self.parent_run_id,
            shown={
                name.removeprefix(hyperparameters.OF_ORACLE): value
                for name, value in trial.values.items()
                if name not in self.constants
            },
            checkpoint=self.checkpoint(trial),
        )
        # Trials that run however late it is are not cut short either.
        in_any_case = trial.number <= job.effort.fewest_trials > 1
        arguments = {
            "training": training,
            "store": tracking.current_uri(),
            "letter": job.letter,
            "faces": job.faces.folder,
            "settings": job.settings,
            "folder": job.folder,
            "cache": job.cache,
            # On some systems, one process's clock means nothing in another.
            "seconds_left": math.inf if in_any_case else job.stop_at - time.monotonic(),
        }
        job.report(progress.Progress(name, 0, 1, "starting"))
        try:
            result = self.processes.run(train_trial, arguments, job.report)
        except workers.TrialError as error:
            if run_id := tracking.find_child(self.parent_run_id, name):
                tracking.end_failed(run_id, str(error))
            raise
        except (backbones.WeightsError, fit.CheckpointError) as error:
            raise journal.SearchError(str(error)) from error
        finally:
            job.report(progress.Progress(name, 1, 1))
        return dataclasses.replace(result, asked_after=trial.asked_after)


# What a process keeps from one trial to the next. Comparing the checksums of faces takes as long as
# an epoch of a short trial.
_kept, _opened = functools.cache(step.Kept), functools.cache(pixels.open_faces)


def train_trial(
    *,
    training: experiment.Training,
    store: str,
    letter: str,
    faces: pixels.Faces | Path,
    settings: config.Settings,
    folder: Path,
    cache: Path,
    seconds_left: float,
    report: progress.Report,
) -> journal.Trial:
    """Train a trial in a worker's process; return it with its result.

    faces: the faces or their folder.
    """
    backend.prepare()
    tracking.use(store)
    faces = faces if isinstance(faces, pixels.Faces) else _opened(faces)
    stop_at = time.monotonic() + seconds_left
    job = experiment.Job(letter, faces, settings, folder, cache, stop_at, report)
    (fold,) = splits.folds(faces.manifest, 1, settings.seed)
    return experiment.train_and_log(job, training, fold, _kept())[0]


def _summarise(run_id: str, done: list[journal.Trial], report: progress.Report) -> None:
    """Log the trials' table, the best metrics and a page on the parent; draw each trial's curves.

    The curves take half a second per trial, which would otherwise count as the trial's time.
    """
    table = _trial_table(done)
    tracking.log_table(run_id, table, records.TRIALS)
    leader = journal.best(done)[0]
    tracking.log_metrics(run_id, leader.metrics | {"trials": len(done)})
    tracking.set_tags(run_id, {"best_trial": str(leader.number)})
    for place, trial in enumerate(done):
        report(progress.Progress("Figures", place, len(done)))
        if trial.status == "COMPLETED":
            history = epochs.history(trial.run_id)
            curves = figures.learning_curves({f"trial {trial.number}": history})
            tracking.log_figure(trial.run_id, curves, records.CURVES)
    if drawn := page(done):
        tracking.log_text(run_id, drawn, "search.html")
    report(progress.Progress("Figures", 1, 1))


def page(done: list[journal.Trial]) -> str:
    """Return the interactive page of trials, their settings and epochs; "" for too few trials."""
    from agegender.show import search_page  # 2 s that trials' processes are spared

    table = _trial_table(done).rename(columns={journal.EPOCHS: "epochs"})
    if len(table[table.status == "COMPLETED"]) < search_page.FEWEST_TRIALS:
        return ""
    searched = [name for name in table if any(name in trial.setting for trial in done)]
    # Longer trials have lower scores, for which the settings would get the credit.
    return search_page.page(table, [*searched, "epochs"] if "epochs" in table else searched)


def _trial_table(done: list[journal.Trial]) -> pd.DataFrame:
    """Return one row per trial: number, status, metrics, seconds, then the hyperparameters."""
    parts = [
        pd.DataFrame({"trial": [t.number for t in done], "status": [t.status for t in done]}),
        pd.DataFrame([trial.metrics for trial in done]),
        pd.DataFrame({"seconds": [trial.seconds for trial in done]}),
        pd.DataFrame([trial.values for trial in done]),
    ]
    return pd.concat(parts, axis=1)


def shortfall(
    done: list[journal.Trial], letter: str, settings: config.Settings, starting_seconds: float
) -> str:
    """Return a note if too few settings were tried for a search, with what would try more; or "".

    starting_seconds: the time before the first search.
    """
    effort, wanted = families.FAMILIES[letter].settings(settings), 2 * LEAST_TRIALS
    tried_count = journal.count_settings(done)
    if tried_count >= LEAST_TRIALS or settings.tier == "notebook":
        return ""
    settings_asked = standing.count(effort.trials, "setting")
    tried = f"{tried_count} of {settings_asked} tried: too few for a search"
    if settings.minutes is None or effort.trials < LEAST_TRIALS:
        return f"{tried}; TRIALS={wanted} tries more"
    seconds = wanted * statistics.mean(trial.seconds for trial in done) / settings.workers
    seconds += sum(trial.metrics.get("activation_seconds", 0) for trial in done)
    seconds = starting_seconds + seconds / effort.search_share + settings.closing_seconds
    return f"{tried}; MINUTES={math.ceil(seconds / 60)} would try about {wanted}"
