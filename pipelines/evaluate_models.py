"""Score both candidates on the locked test, once: `make evaluate`. Each look is in the ledger.

Leaves with each candidate, and in its MLflow run, the predictions of every test and validation
face, metrics with intervals, slices, robustness, calibrated age intervals and the figures.
"""

import json

import keras
import numpy as np
import pandas as pd

from agegender import disk, progress
from agegender.data import pixels, splits
from agegender.evidence import evaluation, robustness, uncertainty
from agegender.networks import export, predict
from agegender.registry import tracking
from agegender.show import card, figures, intervals
from pipelines import command_line
from tuning import families, release_training

EXAMPLES = 12  # pictures in a figure of faces


def evaluate(work: command_line.Work) -> dict[str, dict]:
    """Return each family's test metrics with intervals; log them, figures and predictions.

    A candidate that was evaluated already is not looked at again.
    """
    for family in families.FAMILIES:
        record = work.candidate(family)
        if "evidence" in record:
            continue
        work.display(f"\nLocked test of {families.FAMILIES[family].title}")
        tracking.record_test_look(
            record["run_id"],
            purpose="final evaluation",
            details={"data": work.faces.digest, "family": family},
        )
        evaluate_candidate(work, family, record)
    return {family: work.candidate(family)["test"] for family in families.FAMILIES}


def evaluate_candidate(work: command_line.Work, family: str, record: dict) -> None:
    """Measure one candidate and put what was found into its record and its run."""
    faces, seed, run_id = work.faces, work.settings.seed, record["run_id"]
    folder = work.folder / family / "candidate"
    network = export.load_h5(folder / f"age_gender_{family}.h5")

    def begin(step: int, name: str) -> None:
        work.display(progress.Progress(f"Test of {family}", step, 5, name))

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return predict.predict(network, images, np.arange(len(images)))

    begin(0, "predictions")
    test = predictions(network, faces, "test")
    truth = test.age_years.to_numpy(), test.gender.to_numpy()
    held_out, mirror = folder / release_training.HELD_OUT, {}
    if held_out.exists():
        # A release: trained on its validation faces, and averaging over the mirror image itself.
        validation = pd.read_csv(held_out, keep_default_na=False)
    else:
        validation = predictions(network, faces, "validation")
        for key, split, table in (
            ("mirror_validation", "validation", validation),
            ("mirror", "test", test),
        ):
            averaged = predictions(network, faces, split, mirrored=True)
            for name in ("age_predicted", "gender_probability"):
                averaged[name] = (averaged[name] + table[name]) / 2
            mirror[key] = evaluation.compare(averaged, table, seed=seed)
    begin(1, "intervals")
    metrics = evaluation.evaluate(
        truth[0], test.age_predicted, truth[1], test.gender_probability, seed=seed
    )
    metrics["score"] = evaluation.val_score(
        metrics["mae"]["value"],
        metrics["gender_accuracy"]["value"],
        splits.training_floors(faces.manifest),
    )
    # Of a head on frozen features there is nothing to compare: it would be with itself.
    if record.get("fine_tuning_kept", family == "B"):
        frozen = predictions(export.load_h5(folder / "frozen_features.h5"), faces, "test")
        record["against_frozen_features"] = evaluation.compare(test, frozen, seed=seed)

    intervals = uncertainty.fit_age_intervals(validation.age_years, validation.age_predicted)
    test["age_low"], test["age_high"] = uncertainty.age_intervals(intervals, test.age_predicted)
    slices = evaluation.slices(test, seed=seed)
    begin(2, "blurred, dark and covered faces")
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.permutation(len(test))[: work.settings.robustness_faces])
    images = faces.pixels[faces.rows("test")]
    corrupted = robustness.curves(
        answer, images[drawn], truth[0][drawn], truth[1][drawn], seed=seed
    )
    evidence = {
        "intervals": intervals
        | {"test": uncertainty.interval_coverage(intervals, truth[0], test.age_predicted)},
        "abstention": uncertainty.fit_abstention(validation.gender, validation.gender_probability),
        "label_noise": evaluation.label_noise(faces.manifest),
        "worst_slices": evaluation.worst_slices(slices),
        "slices": slices.to_dict("records"),
        "robustness": corrupted.to_dict("records"),
    } | mirror
    age_error = (test.age_predicted - test.age_years).abs()
    gender_error = (test.gender_probability - test.gender).abs()
    # Names are in the order of the ages: a step through them shows all.
    examples = images[drawn[:: -(-len(drawn) // 6)]]
    begin(3, "figures")
    tested = figures.Tested(test, slices, corrupted)
    drawings = figures.of_test({family: tested}) | {
        "occlusion_maps": figures.occlusion_maps(
            examples, [robustness.occlusion_map(answer, image) for image in examples]
        ),
        "most_wrong_age": most_wrong(images, test, age_error),
        "most_wrong_gender": most_wrong(images, test, gender_error),
    }
    begin(4, "to MLflow")
    for name, figure in drawings.items():
        tracking.log_figure(run_id, figure, f"test/{name}.png")
    for name, table in (("predictions", test), ("validation_predictions", validation)):
        table.to_csv(folder / f"{name}.csv", index=False)
        tracking.log_table(run_id, table, f"{name}.csv")
    tracking.log_table(run_id, slices, "test/slices.csv")
    tracking.log_table(run_id, corrupted, "test/robustness.csv")
    tracking.log_text(run_id, json.dumps(evidence, indent=1), "evidence.json")
    flat = evaluation.flatten(metrics)
    tracking.log_metrics(run_id, {f"test_{name}": value for name, value in flat.items()})
    record |= {"test": metrics, "evidence": evidence}
    disk.write(folder / "candidate.json", json.dumps(record, indent=1))
    begin(5, "")


def predictions(
    network: keras.Model, faces: pixels.Faces, split: str, *, mirrored: bool = False
) -> pd.DataFrame:
    """Return the labels of a split's faces and what a network says of them."""
    rows = faces.rows(split)
    table = faces.manifest.iloc[rows][["name", "age_years", "gender", "race"]].reset_index(
        drop=True
    )
    pictures = faces.pixels[:, :, ::-1] if mirrored else faces.pixels
    table["age_predicted"], table["gender_probability"] = predict.predict(network, pictures, rows)
    return table


def most_wrong(images: np.ndarray, test: pd.DataFrame, error: pd.Series):
    """Draw the faces with the largest errors; a figure for the store, never for the repository."""
    worst = error.nlargest(EXAMPLES).index
    labels = [
        f"{row.age_years:.0f} -> {row.age_predicted:.0f} years\n"
        f"{'female' if row.gender else 'male'} -> {row.gender_probability:.2f} female"
        for row in test.loc[worst].itertuples()
    ]
    return figures.face_grid(images[worst], labels, 6, (2.0, 2.5))


def verdicts(work: command_line.Work) -> list[str]:
    """Return lines on what the locked test says of B against A, and against its frozen features."""
    a, b = (
        pd.read_csv(work.folder / family / "candidate" / "predictions.csv")
        for family in families.FAMILIES
    )
    lines = verdict("B", "A", evaluation.compare(b, a, seed=work.settings.seed))
    record = work.candidate("B")
    # A candidate of before the field was kept always has the comparison.
    if record.get("fine_tuning_kept", True):
        return lines + verdict("B", "B's frozen head", record["against_frozen_features"])
    return [*lines, f"B  {card.FINE_TUNING[str(record['fine_tuning_kept'])]}"]


def verdict(first: str, second: str, pair: dict) -> list[str]:
    """Say in two lines what a pair of paired differences shows at 95 %, and what it does not."""
    mae, gender = pair["mae"], pair["gender"]
    clear = {True: "a clear difference", False: "no clear difference"}
    return [
        f"{first} against {second}, age: {intervals.digits(intervals.Interval.of(mae))} years, "
        f"{clear[not mae['low'] <= 0 <= mae['high']]}",
        f"{first} against {second}, gender: {gender['only_a']} faces right only in {first}, "
        f"{gender['only_b']} only in {second}, {intervals.probability(gender['p'])}, "
        f"{clear[gender['p'] < 0.05]}",
    ]
