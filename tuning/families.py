"""One family's search and last trainings on real faces, every run in the tracking store.

The stages hand over by files in the family's folder: `trials.json` (the journal), `search.json`
(the parent run), `plan.json` (the last trainings) and `candidate/` (the network to evaluate and
what made it). `checkpoints/` holds what interrupted trainings go on from, and nothing else.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import statistics
import time
from pathlib import Path

import keras
import pandas as pd

from agegender import config, disk, progress
from agegender.data import pixels
from agegender.networks import backbones, export, models, training
from agegender.registry import stored_checkpoints, tracking
from agegender.show import figures
from tuning import cluster, search, spaces, trials, workers

FAMILIES = {"A": "scratch", "B": "pretrained"}
HELD_OUT = "held_out.csv"
TITLES = {"A": "A, trained from scratch", "B": "B, pretrained and fine-tuned"}


def experiment(faces: pixels.Faces) -> str:
    """Return the MLflow experiment that runs on these faces belong to."""
    return "age-gender" if faces.kind == "utkface" else f"age-gender-{faces.kind}"


def search_family(
    family: str,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    folder: Path,
    cache: Path,
    stop_at: float = math.inf,
    report: progress.Report = progress.plain,
) -> list[search.Trial]:
    """Search the space of family "A" or "B"; one parent run, one child run a trial.

    folder: where the journal is; a search found there is continued, in the same parent run, and one
    that led to last trainings on the same budget is left as it is. cache: fetched weights and
    cached activations. stop_at: on time.monotonic()'s clock. Return the trials; SearchError as in
    `search.search`.
    """
    if _plan_of(family, settings, folder):
        return search.read_journal(folder / "trials.json")
    work = getattr(settings, FAMILIES[family])
    at_hand = backbones.available(trials.weights(cache))
    handover = folder / "search.json"
    names, constants = spaces.searched(family, settings.tier, at_hand)
    with tracking.run(
        f"search {family} · {settings.preset} · seed {settings.seed}",
        experiment=experiment(faces),
        run_id=json.loads(handover.read_text())["run_id"] if handover.exists() else None,
        tags=run_tags(family, faces, settings, "search"),
        params={"seed": settings.seed, "algorithm": settings.algorithm, "tier": settings.tier}
        | constants,
        description=f"Search of network {TITLES[family]}. The child runs are its trials; what is "
        "the same in all of them is a parameter here alone.",
    ) as parent_run_id:
        disk.write(handover, json.dumps({"run_id": parent_run_id}))
        log_dataset(parent_run_id, faces, "search")
        tracking.save_view(
            parent_run_id,
            f"trials-{family}",
            condition=f"tags.role = 'trial' and tags.family = '{family}'",
            metrics=["val_score", "val_age_mae", "val_gender_accuracy"],
            params=names,
        )
        report(f"\nSearch of {TITLES[family]}")

        on_cluster = bool(os.environ.get("RAY_ADDRESS"))
        if on_cluster:
            processes = cluster.Tasks(faces, trials.weights(cache), settings)
        else:
            processes = workers.Processes(settings.workers, 60 * settings.silent_minutes)

        def trial_name(trial):
            return f"{family} trial {trial.number:03d}"

        def checkpoint(trial):
            return folder / "checkpoints" / f"{trial.number:03d}"

        def forget(trial):
            shutil.rmtree(checkpoint(trial), ignore_errors=True)
            if on_cluster and (run_id := tracking.find_child(parent_run_id, trial_name(trial))):
                stored_checkpoints.remove(run_id)

        def run_trial(trial):
            # Heads on cached features are quick enough to be compared by cross-validation.
            head_only = trial.values.get("unfrozen_share") == 0
            arguments = {
                "store": tracking.current_uri(),
                "faces": faces.folder,
                "family": family,
                "values": trial.values,
                "settings": settings,
                "name": trial_name(trial),
                "role": "trial",
                "number": trial.number,
                "parent_run_id": parent_run_id,
                "cache": cache,
                "fold_count": work.folds if head_only else 1,
                "params": {n: value for n, value in trial.values.items() if n not in constants},
                "epochs": trial.values.get("tuner/epochs", trial_epochs(work, faces)),
                # A clock of one process says nothing in another on some systems.
                "seconds_left": stop_at - time.monotonic(),
                "checkpoint": checkpoint(trial),
            }
            report(progress.Progress(arguments["name"], 0, 1, "begins"))
            try:
                result = processes.run(train_trial, arguments, report)
            except workers.TrialError as error:
                if run_id := tracking.find_child(parent_run_id, arguments["name"]):
                    tracking.end_failed(run_id, str(error))
                raise
            except training.CheckpointError as error:
                raise search.SearchError(str(error)) from error
            finally:
                report(progress.Progress(arguments["name"], 1, 1))
            return dataclasses.replace(trial, **result)

        done = search.search(
            run_trial,
            lambda hp: spaces.space(family, hp, settings.tier, at_hand),
            path=folder / "trials.json",
            algorithm=settings.algorithm,
            seed=settings.seed,
            most_trials=work.trials,
            workers=settings.workers,
            stop_at=stop_at,
            cancel=processes.stop,
            on_end=forget,
            name=f"Search of {family}",
            report=report,
        )
        _summarise(parent_run_id, done, report)
    return done


def train_trial(*, store, faces, settings, fold_count, seconds_left, report, **arguments) -> dict:
    """Train a trial in a process of its own; return what `search.Trial` keeps of it.

    faces: themselves, or their folder.
    """
    training.prepare_backend()
    tracking.use(store)
    faces = faces if isinstance(faces, pixels.Faces) else pixels.open_faces(faces)
    result, _ = train_and_log(
        faces=faces,
        settings=settings,
        folds=trials.folds(faces, fold_count, settings.seed),
        stop_at=time.monotonic() + seconds_left,
        report=report,
        **arguments,
    )
    return {name: getattr(result, name) for name in ("status", "metrics", "seconds", "run_id")}


def train_finalists(
    family: str,
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
    candidate's folder: the .h5, for B also frozen_features.h5 (the same head before fine-tuning),
    and candidate.json.
    """
    candidate = folder / "candidate"
    if _is_done(family, settings, folder):
        report(f"{TITLES[family]}: trained before. For more: another MINUTES= or SEED=.")
        return candidate
    work = getattr(settings, FAMILIES[family])
    parent_run_id = json.loads((folder / "search.json").read_text())["run_id"]
    done = search.read_journal(folder / "trials.json")
    best = to_train_again(done, work.finalists)
    # Never less than its trial had: cut short, the same setting would only be worse.
    stop_at = max(stop_at, time.monotonic() + best[0].seconds)
    checkpoints = folder / "checkpoints"
    plan = _plan_of(family, settings, folder)
    if not plan:
        shutil.rmtree(checkpoints, ignore_errors=True)
        trainings, epochs = _plan(family, faces, settings, done, best, stop_at)
        plan = {"budget": _budget(family, settings), "trainings": trainings, "epochs": epochs}
        disk.write(folder / "plan.json", json.dumps(plan))
    epochs = plan["epochs"]
    folds = trials.folds(faces, work.folds, settings.seed)
    report(
        f"\nLast training of {TITLES[family]}: "
        f"{search.count(len(plan['trainings']), 'training')} of {search.count(epochs, 'epoch')}"
    )
    results: dict[int, list[search.Trial]] = {}
    first_folds = {}
    by_number = {trial.number: trial for trial in done}
    for number, fold in plan["trainings"]:
        trial = by_number[number]
        finalist, trained = train_and_log(
            family,
            faces,
            spaces.for_epochs(trial.values, epochs),
            settings,
            name=f"{family} finalist {trial.number:03d} fold {fold}",
            role="finalist",
            number=trial.number,
            parent_run_id=parent_run_id,
            cache=cache,
            folds=[folds[fold]],
            epochs=epochs,
            stop_at=stop_at,
            seed=settings.seed + fold,
            report=report,
            checkpoint=checkpoints / f"finalist-{trial.number:03d}-{fold}",
        )
        results.setdefault(trial.number, []).append(finalist)
        if fold == 0:
            first_folds[trial.number] = (finalist, trained)
        report(
            f"  trial {trial.number:>2} again, fold {fold}  val_score {finalist.val_score:.3f}  "
            f"{finalist.metrics['val_age_mae']:5.2f} years  gender "
            f"{finalist.metrics['val_gender_accuracy']:.3f}  {finalist.seconds:4.0f} s"
        )
    means = {
        number: statistics.mean(result.val_score for result in finalists)
        for number, finalists in results.items()
    }
    winner, trained = first_folds[min(means, key=means.get)]
    candidate.mkdir(exist_ok=True)
    report(progress.Progress(f"Export of {family}", 0, 1, "written, then read by a new process"))
    export_networks(family, trained, candidate, mirror_images=settings.mirror_images)
    report(progress.Progress(f"Export of {family}", 1, 1))
    record = {
        "family": family,
        "run_id": winner.run_id,
        "values": winner.values,
        "epochs": epochs,
        "seed": settings.seed,
        "budget": _budget(family, settings),
        "data": faces.digest,
        "backbone": _backbone(family, winner.values),
        "origin": origin(faces, settings) | {"epochs_trained": str(len(trained.history))},
        "val": winner.metrics,
        "fine_tuning_kept": trained.fine_tuning_kept,
        "folds": {number: [dataclasses.asdict(r) for r in rs] for number, rs in results.items()},
    }
    disk.write(candidate / "candidate.json", json.dumps(record, indent=1))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return candidate


def to_train_again(done: list[search.Trial], count: int) -> list[search.Trial]:
    """Return the best `count` trials; of several, the last is trial 1, the defaults.

    What mixing and strong augmentation bring to the long training that the defaults were chosen
    for, no short trial shows.
    """
    best = search.best(done, count)
    if len(best) > 1 and done[0].status == "COMPLETED" and done[0] not in best:
        best[-1] = done[0]
    return best


def _plan(family, faces, settings, done, best, stop_at):
    """Return which trial is trained on which fold, as pairs, and for how many epochs.

    All trainings get the same number of epochs: as many as fit the time if the plan is carried out,
    or fewer trainings where that would leave them too short to be worth it.
    """
    work = getattr(settings, FAMILIES[family])
    trainings = [(trial.number, fold) for fold in range(work.folds) for trial in best]
    if not math.isfinite(stop_at):
        return trainings, work.final_epochs
    epoch_seconds = {trial.number: trial.metrics["epoch_seconds"] for trial in best}
    # What a training costs besides: the head, compiling; the quickest trial found it cached.
    completed = [trial for trial in done if trial.status == "COMPLETED"]
    short = trial_epochs(work, faces)
    other_seconds = min(t.seconds - short * t.metrics["epoch_seconds"] for t in completed)
    seconds = 0.9 * (stop_at - time.monotonic())

    def affordable():
        an_epoch = statistics.mean(epoch_seconds[number] for number, _ in trainings)
        return (seconds / len(trainings) - other_seconds) / an_epoch

    while len(trainings) > 1 and affordable() < 0.75 * work.final_epochs:
        trainings.pop()
    return trainings, int(min(work.final_epochs, max(short, affordable())))


def train_release(
    name: str,
    faces: pixels.Faces,
    settings: config.Settings,
    *,
    folder: Path,
    cache: Path,
    report: progress.Report = progress.plain,
) -> Path:
    """Train a model of config.RELEASES on training and validation faces; return its folder.

    All is fixed before: the defaults of the full space with the release's own changes, epochs and
    seed; the last epoch is kept. A shorter training without the validation faces, in a child run,
    gives their predictions, on which age intervals and abstention are calibrated; it errs more, so
    they are wide: in the first releases 94.7 % of the test for A, 89.8 % for B. The folder is as
    `train_finalists` leaves it, with these predictions in HELD_OUT. Nothing is done where it is
    complete.
    """
    release = config.RELEASES[name]
    family, candidate = release.family, folder / "candidate"
    if (candidate / "candidate.json").exists():
        report(f"{name} is trained: {candidate}.")
        return candidate
    settings = dataclasses.replace(
        settings, tier="full", seed=release.seed, mirror_images=True, views=release.views
    )
    values = spaces.defaults(family, backbones.available(trials.weights(cache))) | release.changes
    handover, checkpoints = folder / "release.json", folder / "checkpoints"
    rows = {"train": faces.rows("train"), "validation": faces.rows("validation")}
    every_row = faces.rows("train", "validation")
    with tracking.run(
        f"release {name}",
        experiment=experiment(faces),
        run_id=json.loads(handover.read_text())["run_id"] if handover.exists() else None,
        tags=run_tags(family, faces, settings, "release") | {"release": name},
        params={"seed": release.seed, "epochs": release.epochs},
        description=f"{TITLES[family]}, trained on training and validation faces for models/.",
    ) as parent_run_id:
        disk.write(handover, json.dumps({"run_id": parent_run_id}))

        def train(part, epochs, fold):
            report(f"Release {name}, {part}: {epochs} epochs on {len(fold[0]):,} faces.")
            return train_and_log(
                family,
                faces,
                values,
                settings,
                name=f"release {name}, {part}",
                role="release",
                number=0,
                parent_run_id=parent_run_id,
                cache=cache,
                folds=[fold],
                epochs=epochs,
                stop_at=math.inf,
                report=report,
                checkpoint=checkpoints / part,
            )

        calibration, calibrated = train(
            "calibration", release.calibration_epochs, tuple(rows.values())
        )
        final, trained = train("final", release.epochs, (every_row, every_row[:0]))
    record = {
        "family": family,
        "run_id": final.run_id,
        "values": values,
        "epochs": release.epochs,
        "seed": release.seed,
        "data": faces.digest,
        "backbone": _backbone(family, values),
        "origin": origin(faces, settings) | {"epochs_trained": str(len(trained.history))},
        "val": calibration.metrics,
        "fine_tuning_kept": trained.fine_tuning_kept,
        "history": calibrated.history.to_dict("records"),
        "faces": len(every_row),
    }
    export_networks(family, trained, candidate, mirror_images=True)
    averaged = export.with_mirror(calibrated.network)
    table = faces.manifest.iloc[rows["validation"]][["name", "age_years", "gender", "race"]]
    age, gender = training.predict(averaged, faces.pixels, rows["validation"])
    table.assign(age_predicted=age, gender_probability=gender).to_csv(
        candidate / HELD_OUT, index=False
    )
    disk.write(candidate / "candidate.json", json.dumps(record, indent=1))
    shutil.rmtree(checkpoints)
    return candidate


def export_networks(
    family: str, trained: trials.Trained, folder: Path, *, mirror_images: bool
) -> None:
    """Write a trained network's .h5 and, of a fine-tuned one, that of its head before that.

    The second is for the evaluation alone, so no fresh process has to read it.
    """
    golden = export.golden_images()

    def write(network, name, *, fresh_process):
        exported = export.with_mirror(network) if mirror_images else network
        path = folder / f"{name}.h5"
        export.export_h5(exported, path, golden, fresh_process=fresh_process)

    write(trained.network, f"age_gender_{family}", fresh_process=True)
    if trained.fine_tuning_kept:
        frozen = keras.models.clone_model(trained.network)
        frozen.set_weights(trained.frozen_weights)
        write(frozen, "frozen_features", fresh_process=False)


def train_and_log(
    family,
    faces,
    values,
    settings,
    *,
    name,
    role,
    number,
    parent_run_id,
    cache,
    folds,
    epochs,
    stop_at,
    report,
    seed=None,
    params=None,
    checkpoint=None,
    keep_in_store=False,
):
    """Train one setting on each fold in one MLflow run; return its Trial and the last network.

    params: which of the values the run shows; None: all of them. checkpoint: a folder for what an
    interrupted call goes on from, in the same run; keep_in_store: also among the run's artifacts,
    for a call on another machine. report: called whenever something is done.
    """
    run_id = None
    if checkpoint:
        if keep_in_store or checkpoint.exists():
            run_id = tracking.find_child(parent_run_id, name)
        checkpoint.mkdir(parents=True, exist_ok=True)
    with tracking.run(
        name,
        experiment=experiment(faces),
        run_id=run_id,
        parent_run_id=parent_run_id,
        tags=run_tags(family, faces, settings, role) | {"trial": str(number)},
        params=values if params is None else params,
    ) as run_id:
        if keep_in_store:
            stored_checkpoints.download(run_id, checkpoint)
        started = time.monotonic()
        length = epochs + (settings.head_epochs if family == "B" else 0)
        records, watches = [], []
        for fold_number, fold in enumerate(folds):
            watch = _Watch(name, run_id, length, stop_at, report)
            watches.append(watch)
            watch.logs_epochs = fold is folds[-1]  # The one whose curves the run shows.
            if keep_in_store:
                watch.kept = checkpoint
            trained = trials.train(
                family,
                faces,
                values,
                settings,
                cache=cache,
                fold=fold,
                epochs=epochs,
                seed=settings.seed if seed is None else seed,
                stop_at=stop_at,
                on_epoch=watch.epoch,
                on_progress=watch.activations,
                checkpoint=checkpoint and checkpoint / f"fold-{fold_number}",
            )
            # The quickest epoch: what else ran on the machine for a while is no plan's measure.
            epoch_seconds = trained.history.seconds.tail(epochs).min()
            records.append(trained.best_epoch | {"epoch_seconds": epoch_seconds})
        metrics = pd.DataFrame(records).mean().to_dict()
        # What is computed once for all trials is no part of what the next one takes.
        if shared_seconds := sum(watch.activation_seconds for watch in watches):
            metrics["activation_seconds"] = shared_seconds
        seconds = time.monotonic() - started - shared_seconds
        tracking.log_metrics(
            run_id,
            metrics
            | {
                "seconds": seconds,
                "images_per_second": trained.history.images_per_second.median(),
                "parameters": trained.network.count_params(),
            },
        )
        log_dataset(run_id, faces, role)
        if "val_score" in trained.history:
            best_epoch = int(trained.history.val_score.idxmin())
            tracking.log_metrics(run_id, {"best_epoch": best_epoch})
            if role != "trial":  # Those are drawn when the search has ended.
                curves = figures.learning_curves({family: trained.history})
                tracking.log_figure(run_id, curves, "learning_curves.png")
        lines: list[str] = []
        trained.network.summary(print_fn=lines.append, line_length=100)
        tracking.log_text(run_id, "\n".join(lines), "model_summary.txt")
        tracking.log_text(run_id, json.dumps(models.layers(trained.network)), "layers.json")
    report(progress.Progress(name, 1, 1))
    result = search.Trial(number, values, "COMPLETED", metrics, seconds, run_id)
    return result, trained


class _Watch:
    """Follows one training: epochs and checkpoints to the store, progress to the user.

    epochs: at most so many, of both phases. logs_epochs: whether the run gets them. kept: the
    checkpoint's folder, where it is to be among the run's artifacts.
    """

    def __init__(self, name, run_id, epochs, stop_at, report):
        self.name, self.run_id, self.epochs = name, run_id, epochs
        self.stop_at, self.report = stop_at, report
        self.logs_epochs, self.kept = True, None
        self.paces = {}
        self.uploaded, self.upload_seconds = time.monotonic(), 0.0
        self.activations_began, self.activation_seconds = None, 0.0

    def activations(self, done, total):
        """Tell how far the backbone's activations are."""
        now = time.monotonic()
        self.activations_began = self.activations_began or now
        self.activation_seconds = now - self.activations_began
        left = self._left("activations", done, total)
        note = f"activations of the backbone, {done:,} of {total:,} faces"
        self.report(progress.Progress(self.name, done, total, note, left))

    def epoch(self, row):
        """Log an epoch and tell of it."""
        if self.logs_epochs:
            tracking.log_epoch(self.run_id, row)
        # A tenth of the time at most goes into uploads.
        if self.kept and time.monotonic() - self.uploaded > 10 * self.upload_seconds:
            began = time.monotonic()
            stored_checkpoints.upload(self.run_id, self.kept)
            self.uploaded = time.monotonic()
            self.upload_seconds = self.uploaded - began
        done, prefix = row["epoch"] + 1, "val_" if "val_score" in row else ""
        note = (
            f"epoch {done} of {self.epochs}, {row[f'{prefix}age_mae']:.2f} years, "
            f"{row[f'{prefix}gender_accuracy']:.3f}"
        )
        left = self._left(row.get("phase"), done, self.epochs)
        if row.get("phase") == "head":
            left = None  # Its epochs say nothing of those that follow.
        elif left is not None:
            left = min(left, max(0.0, self.stop_at - time.monotonic()))
        self.report(progress.Progress(self.name, done, self.epochs, note, left))

    def _left(self, phase, done, total):
        return self.paces.setdefault(phase, progress.Pace()).seconds_left(done, total)


def trial_epochs(work: config.FamilySettings, faces: pixels.Faces) -> int:
    """Return how long a trial is: with more faces than the 5,000's, fewer epochs, 2 at least."""
    share = min(1.0, 3500 / len(faces.rows("train")))
    return max(min(2, work.epochs), round(share * work.epochs))


def _budget(family: str, settings: config.Settings) -> list[float | None]:
    """Return what bounds a search that is else the same."""
    return [settings.minutes, getattr(settings, FAMILIES[family]).trials]


def _is_done(family: str, settings: config.Settings, folder: Path) -> bool:
    """Say whether an earlier call ended with a candidate on the same budget."""
    path = folder / "candidate" / "candidate.json"
    return path.exists() and json.loads(path.read_text())["budget"] == _budget(family, settings)


def _plan_of(family: str, settings: config.Settings, folder: Path) -> dict:
    """Return the plan of the last trainings, empty where none was made on the same budget."""
    path = folder / "plan.json"
    plan = json.loads(path.read_text()) if path.exists() else {}
    return plan if plan.get("budget") == _budget(family, settings) else {}


def _backbone(family: str, values: dict) -> str:
    return values["backbone"] if family == "B" else "none"


def origin(faces: pixels.Faces, settings: config.Settings) -> dict[str, str]:
    """Return, as tags of a version, what besides its settings decides how a training comes out."""
    lock = Path(__file__).parents[1] / "requirements.lock"
    return tracking.common_tags(faces.digest, faces.kind) | {
        "lock.sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "preset": settings.preset,
        "tier": settings.tier,
    }


def run_tags(
    family: str, faces: pixels.Faces, settings: config.Settings, role: str
) -> dict[str, str]:
    """Return what every run of a family is tagged with."""
    return tracking.common_tags(faces.digest, faces.kind) | {
        "family": family,
        "role": role,
        "algorithm": settings.algorithm,
        "preset": settings.preset,
        "seed": str(settings.seed),
    }


def log_dataset(run_id: str, faces: pixels.Faces, context: str) -> None:
    """Link a run to the faces that it used."""
    tracking.log_dataset(
        run_id,
        faces.manifest,
        name=faces.kind,
        digest=faces.digest,
        source=str(faces.folder / "manifest.csv"),
        context=context,
    )


def trial_table(done: list[search.Trial]) -> pd.DataFrame:
    """Return one row a trial: number, status, metrics, seconds, then the hyperparameters."""
    rows = [
        {"trial": trial.number, "status": trial.status, **trial.metrics, "seconds": trial.seconds}
        | trial.values
        for trial in done
    ]
    return pd.DataFrame(rows)


def _summarise(run_id: str, done: list[search.Trial], report: progress.Report) -> None:
    """Put what one compares on the parent, with the page of the search; draw each trial's curves.

    Half a second a trial, which would otherwise be its own.
    """
    from agegender.show import search_page  # 2 s that no trial's process has to wait for.

    table = trial_table(done)
    tracking.log_table(run_id, table, "trials.csv")
    leader = search.best(done)[0]
    tracking.log_metrics(run_id, leader.metrics | {"trials": len(done)})
    tracking.set_tags(run_id, {"best_trial": str(leader.number)})
    for place, trial in enumerate(done):
        report(progress.Progress("Figures", place, len(done)))
        if trial.status == "COMPLETED":
            history = tracking.history(trial.run_id)
            curves = figures.learning_curves({f"trial {trial.number}": history})
            tracking.log_figure(trial.run_id, curves, "learning_curves.png")
    if len(table[table.status == "COMPLETED"]) >= search_page.FEWEST_TRIALS:
        searched = [name for name in table if any(name in trial.values for trial in done)]
        tracking.log_text(run_id, search_page.page(table, searched), "search.html")
    report(progress.Progress("Figures", 1, 1))


def shortfall(
    done: list[search.Trial],
    family: str,
    settings: config.Settings,
    starting_seconds: float,
) -> str:
    """Say that too few settings were tried for a search, and what would try more; else "".

    starting_seconds: what passed before the first search.
    """
    work = getattr(settings, FAMILIES[family])
    if len(done) >= search.LEAST_TRIALS or settings.tier == "notebook":
        return ""
    wanted = 2 * search.LEAST_TRIALS
    tried = f"{len(done)} of {search.count(work.trials, 'setting')} tried: too few for a search"
    if settings.minutes is None or work.trials < search.LEAST_TRIALS:
        return f"{tried}; TRIALS={wanted} tries more"
    seconds = wanted * statistics.mean(trial.seconds for trial in done)
    seconds += sum(trial.metrics.get("activation_seconds", 0) for trial in done)
    seconds = starting_seconds + seconds / work.search_share + settings.closing_seconds
    return f"{tried}; MINUTES={math.ceil(seconds / 60)} would try about {wanted}"
