"""The last trainings of a search: its best settings again, longer; the best one is the candidate.

They take the search's journal and leave, in the family's folder, the plan (which trainings, and how
long) and the candidate (the network to evaluate and what made it).
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
from agegender.data import pixels, splits
from agegender.networks import export
from tuning import experiment, families, journal, standing


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which trial is trained on which fold, and for how many epochs.

    budget: what bounds a search that is otherwise the same: minutes and number of trials.
    trainings: pairs of a trial's number and a fold, in their order.
    """

    budget: list[float | None]
    trainings: list[tuple[int, int]]
    epochs: int


def train_finalists(
    letter: str,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    folder: Path,
    cache: Path,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> Path:
    """Train the best settings of a search again, longer, over folds; export the best as candidate.

    Where time is short, one setting on the manifest's own split; then, as the time allows, further
    folds and settings, of which the last is the defaults'. The setting with the lowest mean
    val_score over its folds goes forward, with the network of its first fold. Return the
    candidate's folder: the .h5, for B also records.FROZEN (the same head before fine-tuning), and
    records.RECORD.
    """
    chosen, candidate = families.FAMILIES[letter], folder / records.CANDIDATE
    if _is_done(letter, settings, folder):
        report(f"{chosen.title}: trained before. For more: another MINUTES= or SEED=.")
        return candidate
    plan, stop_at = _planned(letter, faces, settings, folder, stop_at)
    trainings, epochs = len(plan.trainings), standing.count(plan.epochs, "epoch")
    report(
        f"\nLast training of {chosen.title}: {standing.count(trainings, 'training')} of {epochs}"
    )
    done = _carry_out(plan, letter, faces, settings, folder, cache, stop_at, report)
    results: dict[int, list[journal.Trial]] = {}
    for training, result, _ in done:
        results.setdefault(training.number, []).append(result)
    means = {n: statistics.mean(one.val_score for one in of_n) for n, of_n in results.items()}
    best = min(means, key=means.__getitem__)
    training, result, trained = next(one for one in done if one[0].number == best)
    assert trained  # It is the first of its setting.
    export_networks(letter, trained, candidate, settings.mirror_images, report)
    found = experiment.candidate(training, result, trained, faces, settings)
    dataclasses.replace(found, budget=plan.budget).save(candidate)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return candidate


def _carry_out(
    plan: Plan,
    letter: str,
    faces: pixels.Faces,
    settings: config.Settings,
    folder: Path,
    cache: Path,
    stop_at: float,
    report: progress.Report,
) -> list[tuple[experiment.Training, journal.Trial, families.Trained | None]]:
    """Train what is planned; of each setting, keep the network of its first fold."""
    chosen, done = families.FAMILIES[letter], []
    parent_run_id = json.loads((folder / records.SEARCH).read_text())["run_id"]
    values = {trial.number: trial.values for trial in journal.read(folder / records.JOURNAL)}
    folds = splits.folds(faces.manifest, chosen.settings(settings).folds, settings.seed)
    for number, fold in plan.trainings:
        training = experiment.Training(
            letter,
            chosen.for_epochs(values[number], plan.epochs, settings.tier),
            plan.epochs,
            settings.seed + fold,
            f"{letter} {number:03d} again, fold {fold} · {settings.preset} · seed {settings.seed}",
            role="finalist",
            number=number,
            parent_run_id=parent_run_id,
            checkpoint=folder / "checkpoints" / f"finalist-{number:03d}-{fold}",
        )
        result, trained = experiment.train_and_log(
            training, faces, settings, [folds[fold]], cache=cache, stop_at=stop_at, report=report
        )
        done.append((training, result, trained if fold == 0 else None))
        report(
            f"  trial {number:>2} again, fold {fold}  val_score {result.val_score:.3f}  "
            f"{result.metrics['val_age_mae']:5.2f} years  gender "
            f"{result.metrics['val_gender_accuracy']:.3f}  {result.seconds:4.0f} s"
        )
    return done


def to_train_again(done: list[journal.Trial], count: int) -> list[journal.Trial]:
    """Return the best `count` trials; of several, the last is trial 1, the defaults.

    What mixing and strong augmentation bring to the long training that the defaults were chosen
    for, no short trial shows.
    """
    best = journal.best(done, count)
    known = [trial.setting for trial in best]
    if len(best) > 1 and done[0].status == "COMPLETED" and done[0].setting not in known:
        best[-1] = done[0]
    return best


def read_plan(letter: str, settings: config.Settings, folder: Path) -> Plan | None:
    """Return the plan of the last trainings, None where none was made on the same budget."""
    path = folder / records.PLAN
    plan = Plan(**json.loads(path.read_text())) if path.exists() else None
    return plan if plan and plan.budget == _budget(letter, settings) else None


def _planned(
    letter: str, faces: pixels.Faces, settings: config.Settings, folder: Path, stop_at: float
) -> tuple[Plan, float]:
    """Return the plan, made and written where there is none, and when its trainings end."""
    done = journal.read(folder / records.JOURNAL)
    best = to_train_again(done, families.FAMILIES[letter].settings(settings).finalists)
    # Never less than a trial had: cut short, the same setting would only be worse.
    stop_at = max(stop_at, time.monotonic() + 1.5 * max(trial.seconds for trial in done))
    plan = read_plan(letter, settings, folder)
    if not plan:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        plan = _make_plan(letter, faces, settings, done, best, stop_at)
        disk.write(folder / records.PLAN, json.dumps(dataclasses.asdict(plan)))
    return plan, stop_at


def _make_plan(
    letter: str,
    faces: pixels.Faces,
    settings: config.Settings,
    done: list[journal.Trial],
    best: list[journal.Trial],
    stop_at: float,
) -> Plan:
    """Plan as many trainings and epochs as fit the time.

    All trainings get the same number of epochs: as many as fit the time if the plan is carried out,
    or fewer trainings where that would leave them too short to be worth it.
    """
    work, budget = families.FAMILIES[letter].settings(settings), _budget(letter, settings)
    trainings = [(trial.number, fold) for fold in range(work.folds) for trial in best]
    if not math.isfinite(stop_at):
        return Plan(budget, trainings, work.final_epochs)
    chosen, short = families.FAMILIES[letter], families.trial_epochs(work.rungs[-1], faces)
    epoch_seconds = {t.number: _epoch_seconds(chosen, t, done, settings.tier) for t in best}
    # What a training costs besides: the head, tracing. The first trial found nothing traced.
    first = next(trial for trial in done if trial.status == "COMPLETED")
    first_epochs = families.trial_epochs(first.values.get(journal.EPOCHS, work.rungs[-1]), faces)
    other_seconds = first.seconds - first_epochs * first.metrics.get("epoch_seconds", 0.0)
    seconds = 0.9 * (stop_at - time.monotonic())

    def affordable() -> float:
        an_epoch = statistics.mean(epoch_seconds[number] for number, _ in trainings)
        if not an_epoch:  # Nobody knows: the clock ends it.
            return work.final_epochs
        return (seconds / len(trainings) - other_seconds) / an_epoch

    while len(trainings) > 1 and affordable() < 0.75 * work.final_epochs:
        trainings.pop()
    return Plan(budget, trainings, int(min(work.final_epochs, max(short, affordable()))))


def _epoch_seconds(
    chosen: families.Family, trial: journal.Trial, done: list[journal.Trial], tier: str
) -> float:
    """Return what an epoch of a trial's last training takes, by the trial or one like it.

    0 where no trial had an epoch, as of B's on its first rung.
    """
    timed = [one for one in done if "epoch_seconds" in one.metrics]
    if not timed:
        return 0.0
    like = trial if trial in timed else max(timed, key=lambda one: one.metrics["epoch_seconds"])
    longer = chosen.for_epochs(trial.values, 0, tier)
    cost = chosen.relative_cost(longer) / chosen.relative_cost(like.values)
    return cost * like.metrics["epoch_seconds"]


def _budget(letter: str, settings: config.Settings) -> list[float | None]:
    return [settings.minutes, families.FAMILIES[letter].settings(settings).trials]


def _is_done(letter: str, settings: config.Settings, folder: Path) -> bool:
    """Say whether an earlier call ended with a candidate on the same budget."""
    found = records.Candidate.load(folder / records.CANDIDATE)
    return found is not None and found.budget == _budget(letter, settings)


def export_networks(
    letter: str,
    trained: families.Trained,
    folder: Path,
    mirror_images: bool,
    report: progress.Report,
) -> None:
    """Write a trained network's .h5 and, of a fine-tuned one, that of its head before that.

    The second is for the evaluation alone, so no fresh process has to read it.
    """
    report(progress.Progress(f"Export of {letter}", 0, 1, "written, then read by a new process"))
    folder.mkdir(exist_ok=True)

    def write(network: keras.Model, name: str, *, fresh_process: bool) -> None:
        exported = export.with_mirror(network) if mirror_images else network
        export.export_h5(exported, folder / name, fresh_process=fresh_process)

    write(trained.network, f"{records.PREFIX}{letter}.h5", fresh_process=True)
    if trained.fine_tuning_kept:
        frozen = keras.models.clone_model(trained.network)
        frozen.set_weights(trained.frozen_weights)
        write(frozen, records.FROZEN, fresh_process=False)
    report(progress.Progress(f"Export of {letter}", 1, 1))
