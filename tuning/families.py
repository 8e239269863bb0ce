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
from collections.abc import Callable
from pathlib import Path

import keras
import pandas as pd

from agegender import config, disk
from agegender.data import pixels
from agegender.evidence import figures
from agegender.networks import backbones, export, training
from agegender.registry import stored_checkpoints, tracking
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
    report: Callable[[str], None] = print,
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
        report(f"Search of {TITLES[family]} (MLflow run {parent_run_id}):")

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
            try:
                result = processes.run(train_trial, arguments, report)
            except workers.TrialError as error:
                if run_id := tracking.find_child(parent_run_id, arguments["name"]):
                    tracking.end_failed(run_id, str(error))
                raise
            except training.CheckpointError as error:
                raise search.SearchError(str(error)) from error
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
            report=report,
        )
        _summarise(parent_run_id, done)
    return done


def train_trial(
    *, store, faces, settings, fold_count, seconds_left, report, alive, **arguments
) -> dict:
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
        alive=alive,
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
    report: Callable[[str], None] = print,
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
        report(f"{TITLES[family]} is trained: {candidate}. For more: another MINUTES=, SEED=.")
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
    report(f"Training {TITLES[family]}: {len(plan['trainings'])} x {epochs} epochs.")
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
            f"  finalist {trial.number}, fold {fold}: val_score {finalist.val_score:.3f} "
            f"({finalist.metrics['val_age_mae']:.2f} years, "
            f"{finalist.metrics['val_gender_accuracy']:.3f}) in {finalist.seconds:.0f} s"
        )
    means = {
        number: statistics.mean(result.val_score for result in finalists)
        for number, finalists in results.items()
    }
    winner, trained = first_folds[min(means, key=means.get)]
    candidate.mkdir(exist_ok=True)
    export_networks(family, trained, candidate, mirror_images=settings.mirror_images)
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
    report: Callable[[str], None] = print,
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
    """Write a trained network's .h5 and, of B, that of the same head before fine-tuning."""
    golden = export.golden_images()
    networks = {f"age_gender_{family}": trained.network}
    if trained.frozen_weights:
        networks["frozen_features"] = keras.models.clone_model(trained.network)
        networks["frozen_features"].set_weights(trained.frozen_weights)
    for name, network in networks.items():
        exported = export.with_mirror(network) if mirror_images else network
        export.export_h5(exported, folder / f"{name}.h5", golden)


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
    alive=lambda: None,
):
    """Train one setting on each fold in one MLflow run; return its Trial and the last network.

    params: which of the values the run shows; None: all of them. checkpoint: a folder for what an
    interrupted call goes on from, in the same run; keep_in_store: also among the run's artifacts,
    for a call on another machine. alive: called whenever something is done.
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
        last_line = uploaded = started
        upload_seconds = 0.0
        length = epochs + (settings.head_epochs if family == "B" else 0)

        def on_progress(done, total):
            nonlocal last_line
            alive()
            now = time.monotonic()
            if now - last_line > 10:
                last_line = now
                left = (now - started) * (total - done) / done
                report(f"  backbone's activations: {done} of {total} faces, {left:.0f} s left")

        def on_epoch(row):
            nonlocal last_line, uploaded, upload_seconds
            alive()
            if fold is folds[-1]:  # The one whose curves the run shows.
                tracking.log_epoch(run_id, row)
            now = time.monotonic()
            # A tenth of the time at most goes into uploads.
            if keep_in_store and now - uploaded > 10 * upload_seconds:
                stored_checkpoints.upload(run_id, checkpoint)
                uploaded = time.monotonic()
                upload_seconds = uploaded - now
            if now - last_line > 30:
                last_line = now
                prefix, split = ("val_", "validation") if "val_score" in row else ("", "training")
                report(
                    f"  {name}, epoch {row['epoch'] + 1}: {split} "
                    f"{row[f'{prefix}age_mae']:.2f} years, "
                    f"{row[f'{prefix}gender_accuracy']:.3f}; {row['seconds']:.0f} s an epoch, at "
                    f"that pace {row['seconds'] * (length - row['epoch'] - 1) / 60:.0f} min left"
                )

        records = []
        for fold_number, fold in enumerate(folds):
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
                on_epoch=on_epoch,
                on_progress=on_progress,
                checkpoint=checkpoint and checkpoint / f"fold-{fold_number}",
            )
            # The quickest epoch: what else ran on the machine for a while is no plan's measure.
            epoch_seconds = trained.history.seconds.tail(epochs).min()
            records.append(trained.best_epoch | {"epoch_seconds": epoch_seconds})
        seconds = time.monotonic() - started
        metrics = pd.DataFrame(records).mean().to_dict()
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
                curves = figures.learning_curves(trained.history)
                tracking.log_figure(run_id, curves, "learning_curves.png")
        lines: list[str] = []
        trained.network.summary(print_fn=lines.append, line_length=100)
        tracking.log_text(run_id, "\n".join(lines), "model_summary.txt")
    result = search.Trial(number, values, "COMPLETED", metrics, seconds, run_id)
    return result, trained


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


def _summarise(run_id: str, done: list[search.Trial]) -> None:
    """Put on the parent what one compares, the table of trials and its pictures; draw each trial's.

    Half a second a trial, which would otherwise be its own.
    """
    table = trial_table(done)
    tracking.log_table(run_id, table, "trials.csv")
    leader = search.best(done)[0]
    tracking.log_metrics(run_id, leader.metrics | {"trials": len(done)})
    tracking.set_tags(run_id, {"best_trial": str(leader.number)})
    for trial in done:
        if trial.status == "COMPLETED":
            curves = figures.learning_curves(tracking.history(trial.run_id))
            tracking.log_figure(trial.run_id, curves, "learning_curves.png")
    completed = table[table.status == "COMPLETED"]
    varying = [name for name in completed.columns if name in leader.values]
    varying = [name for name in varying if completed[name].nunique() > 1]
    tracking.log_figure(run_id, figures.best_so_far(completed), "best_so_far.png")
    tracking.log_figure(run_id, figures.pareto_front(completed), "pareto_front.png")
    if varying and len(completed) > 2:
        for draw in (figures.parallel_coordinates, figures.hyperparameter_importance):
            tracking.log_figure(run_id, draw(completed, varying), f"{draw.__name__}.png")
