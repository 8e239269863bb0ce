"""Publish released models in models/ and register them in an empty registry at its first use.

A released model NAME consists of age_gender_NAME.h5, age_gender_NAME.json (how it was made, its
measurements and its history), age_gender_NAME.md (its card) and age_gender_NAME.csv (its
predictions for the test faces).
"""

import json
import shutil
from pathlib import Path

import keras
import pandas as pd

from agegender import config, disk, records
from agegender.data import pixels, splits, utkface
from agegender.networks import export, predict
from agegender.photos import estimate
from agegender.registry import candidates, ledger, promotion, tracking, versions
from agegender.show import figures

# Data with more faces is all of UTKFace, for models with FULL in their name, not the coursework's
# 5,000 faces.
FULL_FACES = 10_000
FULL, TAUGHT = "_full", "_taught"


def check_faces(name: str, faces: pixels.Faces) -> None:
    """Raise ValueError if these are not the training faces of a release of config.RELEASES."""
    full, count = FULL in name, len(faces.manifest)
    if faces.kind != "utkface" or full != (count > FULL_FACES):
        expected = "all of UTKFace" if full else "the coursework's 5,000 faces"
        raise ValueError(f"{name} is trained on {expected}; DATA has {count:,} {faces.kind} faces.")


def check_unseen(trained: pixels.Faces, judged: pixels.Faces) -> None:
    """Raise ValueError if training used test faces of `judged` or copies of them.

    judged: holds all faces used in training, so that its groups show which ones are copies.
    """
    rows = trained.rows("train", "validation")
    used = set(trained.manifest["name"].iloc[rows].map(utkface.face_key))
    keys, groups = judged.manifest["name"].map(utkface.face_key), judged.manifest["group"]
    tested = set(keys[groups.isin(groups.iloc[judged.rows("test")])])
    if used & tested or used - set(keys):
        raise ValueError(
            f"TEST_DATA holds {len(used & tested)} of the {len(used):,} training faces as test "
            f"faces or copies of them and lacks {len(used - set(keys))}: expected all of UTKFace."
        )


def publish(
    name: str, candidate: records.Candidate, source: Path, faces: pixels.Faces, folder: Path
) -> str:
    """Write an evaluated release to models/ if it passes the gate; return what was done.

    The .json is removed first and written last: without it, a model is no release.

    source: the folder of the candidate's files.
    faces: the gate judges on their test faces, which may differ from the candidate's.
    folder: models/.
    """
    title = rival = f"{records.PREFIX}{name}"
    if not (folder / f"{title}.json").exists():  # First taught model: compare to the plain one.
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
    disk.write(folder / f"{title}.json", json.dumps(kept, indent=1) + "\n")
    return f"Written: {folder / title}.h5, .json, .md and .csv"


def register(folder: Path, *, full: bool) -> dict[str, int]:
    """Register the released models of families without a champion; return the new versions.

    Each becomes version 1 and champion, with its card, history and evidence.

    full: prefer models trained on all of UTKFace; if one is missing, use the other.
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
        description=f"{path.stem}, shipped with this project; trained elsewhere.",
    ) as run_id:
        # The look was taken at its release, in a store that is not shipped.
        details = {"release": path.stem, "data": candidate.data}
        ledger.note(run_id, purpose="release, before it came here", details=details)
        history = pd.DataFrame(candidate.history)
        for epoch in candidate.history:
            tracking.log_epoch(run_id, epoch)
        curves = figures.learning_curves({candidate.family: history})
        tracking.log_figure(run_id, curves, records.CURVES)
        tracking.log_text(run_id, card.read_text(), records.CARD)
        predictions = records.read_predictions(path.with_suffix(".csv"))
        candidates.log_tested(run_id, candidate, predictions)
        network = export.load_h5(path)
        # Log the inner network, not the wrapper that averages a picture and its mirror image.
        inside = [layer for layer in network.layers if isinstance(layer, keras.Model)]
        tracking.log_network(run_id, inside[0] if inside else network, candidate.val)
        return versions.register_version(
            model_name=model,
            run_id=run_id,
            h5_path=path,
            metrics=kept["metrics"],
            tags=kept["tags"],
            description=card.read_text(),
        )
