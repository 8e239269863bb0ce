"""The models in models/: written by a release, registered at the first use of an empty registry.

A released model NAME is age_gender_NAME.h5 with age_gender_NAME.json (what made it, what was
measured, its history), age_gender_NAME.md (its card) and age_gender_NAME.csv (its predictions of
the test faces).
"""

import json
from pathlib import Path

import keras
import pandas as pd

from agegender import records
from agegender.data import splits
from agegender.measure import evaluation
from agegender.networks import export, models
from agegender.photos import estimate
from agegender.registry import promotion, tracking, versions
from agegender.show import figures

# More than in the coursework's 5,000 faces: all of UTKFace, whose models are named so.
FULL_FACES = 10_000
FULL = "_full"


def write(
    folder: Path,
    title: str,
    source: Path,
    candidate: records.Candidate,
    card: str,
    metrics: dict[str, float],
    tags: dict[str, str],
) -> None:
    """Put an evaluated candidate, whose files are in the folder `source`, into models/.

    The .json comes last: what it does not fit is no release.
    """
    folder.mkdir(exist_ok=True)
    (folder / f"{title}.json").unlink(missing_ok=True)
    (folder / f"{title}.h5").write_bytes((source / candidate.h5).read_bytes())
    (folder / f"{title}.md").write_text(card)
    predictions = records.read_predictions(source / records.PREDICTIONS)
    records.write_predictions(predictions.round(4), folder / f"{title}.csv")
    tags = tags | {promotion.RELEASED_WITHOUT: splits.test_names_checksum(), "release": title}
    kept = {"record": candidate.to_json(), "metrics": metrics, "tags": tags}
    (folder / f"{title}.json").write_text(json.dumps(kept, indent=1) + "\n")


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
        if path is None or "champion" in versions.aliases(model):
            continue
        title = path.stem
        kept = json.loads((folder / f"{title}.json").read_text())
        record = records.Candidate.from_json(kept["record"])
        card = (folder / f"{title}.md").read_text()
        with tracking.run(
            f"released {title}",
            experiment="age-gender",
            tags={"family": family, "role": "released", "data.kind": "utkface"},
            params=record.values,
            description=f"{title}, as it came with this project; trained elsewhere.",
        ) as run_id:
            history = pd.DataFrame(record.history)
            tracking.log_epochs(run_id, history)
            curves = figures.learning_curves({family: history})
            tracking.log_figure(run_id, curves, records.CURVES)
            flat = evaluation.flatten(record.test)
            tracking.log_metrics(
                run_id, record.val | {f"test_{key}": value for key, value in flat.items()}
            )
            tracking.log_text(
                run_id, json.dumps(record.evidence.to_json(), indent=1), records.EVIDENCE
            )
            tracking.log_text(run_id, card, records.CARD)
            # Where it was released, in a store that did not come along.
            tracking.record_test_look(
                run_id, purpose="release, before it came here", details={"release": title}
            )
            predictions = records.read_predictions(folder / f"{title}.csv")
            tracking.log_table(run_id, predictions, records.PREDICTIONS)
            tables = map(pd.DataFrame, (record.evidence.slices, record.evidence.robustness))
            tested = figures.Tested(predictions, *tables)
            for drawing, figure in figures.of_test({family: tested}).items():
                tracking.log_figure(run_id, figure, f"test/{drawing}.png")
            lines: list[str] = []
            network = export.load_h5(folder / f"{title}.h5")
            # Not the two passes over the picture and its mirror image, but what makes them.
            inside = [layer for layer in network.layers if isinstance(layer, keras.Model)]
            network = inside[0] if inside else network
            network.summary(print_fn=lines.append, line_length=100)
            tracking.log_metrics(run_id, {"parameters": network.count_params()})
            tracking.log_text(run_id, "\n".join(lines), records.SUMMARY)
            tracking.log_text(run_id, json.dumps(models.layers(network)), records.LAYERS)
            registered[family] = versions.register_version(
                model_name=model,
                run_id=run_id,
                h5_path=folder / f"{title}.h5",
                metrics=kept["metrics"],
                tags=kept["tags"],
                example=export.golden_images()[:2],
                description=card,
            )
    return registered
