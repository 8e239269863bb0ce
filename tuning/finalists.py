"""The final training runs: a search's best settings, trained longer; the best is the candidate.

They read the search's journal. In the family's folder they leave the plan (which runs, and how
long) and the candidate (the network to evaluate and how it was made).
"""

import dataclasses
import json
import math
import shutil
import statistics
import time
from pathlib import Path

import keras

from agegender import config, disk, progress, records
from agegender.data import splits
from agegender.networks import export, fit
from tuning import experiment, journal, standing


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which trial is trained on which fold, and for how many epochs.

    budget: minutes and number of trials, which can differ between otherwise identical searches.
    trainings: pairs of a trial's number and a fold, in order.
    """

    budget: list[float | None]
    trainings: list[tuple[int, int]]
    epochs: int


def train_finalists(job: experiment.Job) -> Path:
    """Train the best settings of a search again, longer, over folds; export the best as candidate.

    If time is short, it trains one setting on the manifest's own split. Once that has all its
    epochs, more time adds settings, then folds. The setting with the lowest mean val_score over its
    folds wins, with the network of its first fold. Return the candidate's folder: the .h5, for B
    also records.FROZEN (the same head before fine-tuning), and records.RECORD. Nothing is done if
    an earlier call ended with a candidate on the same budget.
    """
    candidate, checkpoints = job.folder / records.CANDIDATE, job.folder / "checkpoints"
    earlier = records.Candidate.load(candidate)
    if earlier and earlier.budget == budget(job):
        job.report(f"{job.family.title}: already trained. For more, set another MINUTES= or SEED=.")
        return candidate
    done = journal.read(job.folder / records.JOURNAL)
    least_gain = needed_gain(job.settings.least_gain, len(job.faces.rows("validation")))
    best = to_train_again(done, job.effort.finalists, least_gain)
    # Never less time than a trial had: cut short, the same setting would only do worse.
    least_seconds = 1.5 * max(trial.seconds for trial in done)
    job = dataclasses.replace(job, stop_at=max(job.stop_at, time.monotonic() + least_seconds))
    plan = read_plan(job)
    if not plan:
        shutil.rmtree(checkpoints, ignore_errors=True)
        plan = make_plan(job, done, best)
        disk.write(job.folder / records.PLAN, json.dumps(dataclasses.asdict(plan)))
    tried, chosen = journal.count_settings(done), {number for number, _ in plan.trainings}
    if tried > 1 and chosen == {best[0].number} and best[0].setting == done[0].setting:
        gain = f"{100 * least_gain:.0f} % " * (least_gain > 0)
        job.report(f"  No setting was {gain}better than the defaults, which are trained again.")
    training, result, trained = _carry_out(job, plan, {t.number: t.values for t in done})
    export_networks(job, trained, candidate)
    found = experiment.candidate(job, training, result, trained)
    dataclasses.replace(found, budget=plan.budget).save(candidate)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return candidate


def to_train_again(done: list[journal.Trial], count: int, least_gain: float) -> list[journal.Trial]:
    """Return `count` trials to train again, the most promising first, the defaults among the first.

    The defaults were chosen for a long training run, and the best of many short trials owes part of
    its score to luck. So the defaults come first, unless they did not get as far as the best other
    or its val_score is lower by the share least_gain in a trial as long. They come second then.
    """
    best = journal.best(done, len(done))
    tried = [t for t in done if t.setting == done[0].setting and t.status == "COMPLETED"]
    if not tried:
        return best[:count]
    (defaults,) = journal.best(tried)
    others = [trial for trial in best if trial.setting != defaults.setting]
    if others:
        as_far = [trial.val_score for trial in tried if trial.rung == others[0].rung]
        gained = others[0].val_score <= (1 - least_gain) * min(as_far, default=-math.inf)
        if gained or (others[0] is best[0] and not as_far):
            return [others[0], defaults, *others[1:]][:count]
    return [defaults, *others][:count]


def needed_gain(least_gain: float, validation_faces: int) -> float:
    """Return the share by which a setting must beat the defaults, by how many faces judge it."""
    return least_gain * math.sqrt(max(1.0, config.LEAST_GAIN_FACES / validation_faces))


def read_plan(job: experiment.Job) -> Plan | None:
    """Return the plan of the final training runs, or None if none has the same budget."""
    path = job.folder / records.PLAN
    plan = Plan(**json.loads(path.read_text())) if path.exists() else None
    return plan if plan and plan.budget == budget(job) else None


def budget(job: experiment.Job) -> list[float | None]:
    """Return the minutes and trials that a plan is made for."""
    return [job.settings.minutes, job.effort.trials]


def make_plan(job: experiment.Job, done: list[journal.Trial], best: list[journal.Trial]) -> Plan:
    """Plan as many training runs and epochs as the time allows.

    All runs get the same number of epochs. Several are planned only if each gets final_epochs:
    more epochs gain more than a comparison does.
    """
    final_epochs = job.effort.final_epochs
    trainings = [(trial.number, fold) for fold in range(job.effort.folds) for trial in best]
    if not math.isfinite(job.stop_at):
        return Plan(budget(job), trainings, final_epochs)
    epoch_seconds = {trial.number: _epoch_seconds(job, trial, done) for trial in best}
    # A run's time besides its epochs: the head, tracing. The first trial had to trace everything.
    first = next(trial for trial in done if trial.status == "COMPLETED")
    first_seconds = job.trial_epochs(first.values) * first.metrics.get("epoch_seconds", 0.0)
    other_seconds = first.seconds - first_seconds
    seconds = 0.9 * (job.stop_at - time.monotonic())

    def affordable() -> float:
        an_epoch = statistics.mean(epoch_seconds[number] for number, _ in trainings)
        if not an_epoch:  # Unknown: the clock ends it.
            return final_epochs
        return (seconds / len(trainings) - other_seconds) / an_epoch

    while len(trainings) > 1 and affordable() < final_epochs:
        # Whole folds, so that all settings are compared on the same ones.
        del trainings[-(len(best) if len(trainings) > len(best) else 1) :]
    epochs = int(min(final_epochs, max(job.trial_epochs({}), affordable())))
    return Plan(budget(job), trainings, epochs)


def _epoch_seconds(job: experiment.Job, trial: journal.Trial, done: list[journal.Trial]) -> float:
    """Return the seconds per epoch of a trial's final training run, from it or a similar trial.

    0 if no trial had an epoch, as on B's first rung.
    """
    timed = [one for one in done if "epoch_seconds" in one.metrics]
    if not timed:
        return 0.0
    like = trial if trial in timed else max(timed, key=lambda one: one.metrics["epoch_seconds"])
    longer = job.family.for_epochs(trial.values, 0, job.settings.tier)
    # One epoch of each phase.
    costs = [statistics.mean(job.family.epoch_costs(v, 2)) for v in (longer, like.values)]
    return costs[0] / costs[1] * like.metrics["epoch_seconds"]


def _carry_out(
    job: experiment.Job, plan: Plan, values: dict[int, dict]
) -> tuple[experiment.Training, journal.Trial, fit.Trained]:
    """Carry out a plan; return the best setting's training run on its first fold.

    values: the values of each trial, by number.
    """
    count, epochs = len(plan.trainings), standing.count(plan.epochs, "epoch")
    job.report(
        f"\nFinal training of {job.family.title}: {standing.count(count, 'run')} of {epochs}"
    )
    preset, seed = job.settings.preset, job.settings.seed
    folds = splits.folds(job.faces.manifest, job.effort.folds, seed)
    parent_run_id = json.loads((job.folder / records.SEARCH).read_text())["run_id"]
    scores: dict[int, list[float]] = {}
    on_first_fold: dict[int, tuple[experiment.Training, journal.Trial, fit.Trained]] = {}
    for number, fold in plan.trainings:
        training = experiment.Training(
            job.family.for_epochs(values[number], plan.epochs, job.settings.tier),
            plan.epochs,
            seed + fold,
            f"{job.letter} {number:03d} again, fold {fold} · {preset} · seed {seed}",
            role="finalist",
            number=number,
            parent_run_id=parent_run_id,
            checkpoint=job.folder / "checkpoints" / f"finalist-{number:03d}-{fold}",
        )
        try:
            result, trained = experiment.train_and_log(job, training, folds[fold])
        except fit.TrainingDivergedError as error:
            job.report(f"  {training.name}: {error}")
            scores.setdefault(number, []).append(math.inf)
            continue
        scores.setdefault(number, []).append(result.val_score)
        on_first_fold.setdefault(number, (training, result, trained))
        job.report(f"  trial {number:>2} again, fold {fold}  {standing.measured(result)}")
    if not on_first_fold:
        raise journal.SearchError("Every final training run diverged: search again with SEED=.")
    return on_first_fold[min(on_first_fold, key=lambda number: statistics.mean(scores[number]))]


def export_networks(job: experiment.Job, trained: fit.Trained, folder: Path) -> None:
    """Write a trained network's .h5 and, if fine-tuning was kept, one from before fine-tuning.

    The second is only for the evaluation, so no fresh process has to read it.
    """
    part = f"Export of {job.letter}"
    job.report(progress.Progress(part, 0, 1, "written, then read by a new process"))
    folder.mkdir(exist_ok=True)

    def write(network: keras.Model, name: str, *, fresh_process: bool) -> None:
        exported = export.with_mirror(network) if job.settings.mirror_images else network
        export.export_h5(exported, folder / name, fresh_process=fresh_process)

    write(trained.network, f"{records.PREFIX}{job.letter}.h5", fresh_process=True)
    if trained.fine_tuning_kept:
        frozen = keras.models.clone_model(trained.network)
        frozen.set_weights(trained.frozen_weights)
        write(frozen, records.FROZEN, fresh_process=False)
    job.report(progress.Progress(part, 1, 1))
