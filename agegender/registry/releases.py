"""The models in models/: written by a release, registered at the first use of an empty registry.

A released model NAME is age_gender_NAME.h5 with age_gender_NAME.json (what made it, what was
measured, its history), age_gender_NAME.md (its card) and age_gender_NAME.csv (its predictions of
the test faces).
"""

import json
import shutil
from pathlib import Path

import keras
import pandas as pd

from agegender import config, records
from agegender.data import pixels, splits, utkface
from agegender.networks import export, predict
from agegender.photos import estimate
from agegender.registry import candidates, ledger, promotion, tracking, versions
from agegender.show import figures

# More than in the coursework's 5,000 faces: all of UTKFace, whose models are named so.
FULL_FACES = 10_000
FULL, TAUGHT = "_full", "_taught"


def check_faces(name: str, faces: pixels.Faces) -> None:
    """Raise ValueError where a release of config.RELEASES is not trained on these faces."""
    full, count = name.endswith(FULL), len(faces.manifest)
    if faces.kind != "utkface" or full != (count > FULL_FACES):
        expected = "all of UTKFace" if full else "the coursework's 5,000 faces"
        raise ValueError(f"{name} is trained on {expected}; DATA has {count:,} {faces.kind} faces.")


def check_unseen(trained: pixels.Faces, judged: pixels.Faces) -> None:
    """Raise ValueError where a training used test faces of `judged`, or copies of them.

    judged: holds all that the training used, so that its groups show what is a copy.
    """
    rows = trained.rows("train", "validation")
    used = set(trained.manifest["name"].iloc[rows].map(utkface.face_key))
    keys, groups = judged.manifest["name"].map(utkface.face_key), judged.manifest["group"]
    tested = set(keys[groups.isin(groups.iloc[judged.rows("test")])])
    if used & tested or used - set(keys):
        raise ValueError(
            f"TEST_DATA holds {len(used & tested)} of the {len(used):,} training faces as test "
            f"faces or their copies and lacks {len(used - set(keys))}: expected all of UTKFace."
        )


def publish(
    name: str, candidate: records.Candidate, source: Path, faces: pixels.Faces, folder: Path
) -> str:
    """Write an evaluated release to models/ unless the one there is as good; say what was done.

    The .json comes last: a model that it does not fit is no release.

    source: the folder of the candidate's files.
    faces: the gate judges by their test faces, which may be others than the candidate's.
    folder: models/.
    """
    title = rival = f"{records.PREFIX}{name}"
    if not (folder / f"{title}.json").exists():  # The first one that was taught: against the plain.
        rival = title.removesuffix(TAUGHT)
    predictions, compared = records.read_predictions(source / records.PREDICTIONS), ""
    if (folder / f"{rival}.json").exists():
        details = {"data": faces.digest, "family": candidate.family}
        details |= {"release": f"{rival} as it was"}
        ledger.note(candidate.run_id, "promotion gate", details)
        old = predict.table(export.load_h5(folder / f"{rival}.h5"), faces, "test")
        new = predictions
        if faces.digest != candidate.data:
            new = predict.table(export.load_h5(source / candidate.h5), faces, "test")
        decided = promotion.decide(old, new, config.Gate(), candidate.seed)
        if not decided.promote:
            return f"models/{rival}.h5 stays: {'; '.join(decided.reasons)}"
        compared = decided.card_section()
    card, metrics, tags = candidates.describe(candidate, faces.kind)
    tags |= {promotion.RELEASED_WITHOUT: splits.test_names_checksum(), "release": title}
    folder.mkdir(exist_ok=True)
    (folder / f"{title}.json").unlink(missing_ok=True)
    shutil.copyfile(source / candidate.h5, folder / f"{title}.h5")
    (folder / f"{title}.md").write_text(card + compared)
    records.write_predictions(predictions.round(4), folder / f"{title}.csv")
    kept = {"record": candidate.to_json(), "metrics": metrics, "tags": tags}
    (folder / f"{title}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return f"Written: {folder / title}.h5, .json, .md and .csv"


def register(folder: Path, *, full: bool) -> dict[str, int]:
    """Register the released models of both families where their registry is empty.

    full: those trained on all of UTKFace, where there are; the others stand in for them. Each
    becomes version 1 and champion, with its card, its history and its evidence. Return the new
    versions; none where nothing is released or the registry has the model already.
    """
    registered = {}
    for family in "AB":
        model = versions.full_name(family)
        path = estimate.released(folder, family, full=full)
        if path and "champion" not in versions.aliases(model):
            registered[family] = _register(path, model)
    return registered


def _register(path: Path, model: str) -> int:
    """Register one release under a model's name; path: its .h5."""
    kept, card = json.loads(path.with_suffix(".json").read_text()), path.with_suffix(".md")
    candidate = records.Candidate.from_json(kept["record"])
    with tracking.run(
        f"released {path.stem}",
        experiment="age-gender",
        tags={"family": candidate.family, "role": "released", "data.kind": "utkface"},
        params=candidate.values,
        description=f"{path.stem}, as it came with this project; trained elsewhere.",
    ) as run_id:
        # Where it was released, in a store that did not come along.
        details = {"release": path.stem, "data": candidate.data}
        ledger.note(run_id, purpose="release, before it came here", details=details)
        history = pd.DataFrame(candidate.history)
        for epoch in candidate.history:
            tracking.log_epoch(run_id, epoch)
        curves = figures.learning_curves({candidate.family: history})
        tracking.log_figure(run_id, curves, records.CURVES)
        tracking.log_metrics(run_id, candidate.val)
        tracking.log_text(run_id, card.read_text(), records.CARD)
        predictions = records.read_predictions(path.with_suffix(".csv"))
        candidates.log_tested(run_id, candidate, predictions)
        network = export.load_h5(path)
        # Not the two passes over the picture and its mirror image, but what makes them.
        inside = [layer for layer in network.layers if isinstance(layer, keras.Model)]
        tracking.log_network(run_id, inside[0] if inside else network)
        return versions.register_version(
            model_name=model,
            run_id=run_id,
            h5_path=path,
            metrics=kept["metrics"],
            tags=kept["tags"],
            description=card.read_text(),
        )
