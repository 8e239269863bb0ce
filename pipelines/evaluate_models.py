"""Score both candidates on the locked test, once: `make evaluate`. Each look is in the ledger.

Leaves with each candidate, and in its MLflow run, the predictions of every test and validation
face, metrics with intervals, slices, robustness, calibrated age intervals and the figures.
"""

import dataclasses
import json

import numpy as np
import pandas as pd

from agegender import progress, records
from agegender.data import splits
from agegender.measure import evaluation, robustness, uncertainty
from agegender.networks import export, predict
from agegender.registry import tracking
from agegender.show import card, figures, intervals
from pipelines.work import Work
from tuning import families

EXAMPLES = 12  # pictures in a figure of faces


def evaluate(work: Work) -> None:
    """Evaluate both candidates; one that was evaluated already is not looked at again."""
    for family in families.FAMILIES:
        candidate = work.candidate(family)
        if candidate.evidence:
            continue
        work.display(f"\nLocked test of {families.FAMILIES[family].title}")
        tracking.record_test_look(
            candidate.run_id,
            purpose="final evaluation",
            details={"data": work.faces.digest, "family": family},
        )
        evaluate_candidate(work, candidate)


def evaluate_candidate(work: Work, candidate: records.Candidate) -> records.Candidate:
    """Return a candidate with what its test found, which its folder and its run keep too."""
    faces, seed, run_id = work.faces, work.settings.seed, candidate.run_id
    family, folder = candidate.family, work.candidate_folder(candidate.family)
    network = export.load_h5(folder / candidate.h5)

    def begin(step: int, name: str) -> None:
        work.display(progress.Progress(f"Test of {family}", step, 5, name))

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return predict.predict(network, images, np.arange(len(images)))

    begin(0, "predictions")
    test = predict.table(network, faces, "test")
    truth = test.age_years.to_numpy(), test.gender.to_numpy()
    held_out, mirror = folder / records.HELD_OUT, {}
    if held_out.exists():
        # A release: trained on its validation faces, and averaging over the mirror image itself.
        validation = records.read_predictions(held_out)
    else:
        validation = predict.table(network, faces, "validation")
        for key, split, table in (
            ("mirror_validation", "validation", validation),
            ("mirror", "test", test),
        ):
            averaged = predict.table(network, faces, split, mirrored=True)
            for name in records.PREDICTED:
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
    against_frozen_features = None
    if candidate.fine_tuning_kept:
        frozen = predict.table(export.load_h5(folder / records.FROZEN), faces, "test")
        against_frozen_features = evaluation.compare(test, frozen, seed=seed)

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
    evidence = records.Evidence(
        intervals=intervals
        | {"test": uncertainty.interval_coverage(intervals, truth[0], test.age_predicted)},
        abstention=uncertainty.fit_abstention(validation.gender, validation.gender_probability),
        label_noise=evaluation.label_noise(faces.manifest),
        slices=slices.to_dict("records"),
        robustness=corrupted.to_dict("records"),
        **mirror,
    )
    gender_error = test.gender_probability - test.gender
    # Names are in the order of the ages: a step through them shows all.
    examples = images[drawn[:: -(-len(drawn) // 6)]]
    begin(3, "figures")
    tested = figures.Tested(test, slices, corrupted)
    drawings = figures.of_test({family: tested}) | {
        "occlusion_maps": figures.occlusion_maps(
            examples, [robustness.occlusion_map(answer, image) for image in examples]
        ),
        "most_wrong_age": most_wrong(images, test, records.age_error(test)),
        "most_wrong_gender": most_wrong(images, test, gender_error.to_numpy()),
    }
    begin(4, "to MLflow")
    for name, figure in drawings.items():
        tracking.log_figure(run_id, figure, f"test/{name}.png")
    for name, table in (
        (records.PREDICTIONS, test),
        (records.VALIDATION_PREDICTIONS, validation),
    ):
        records.write_predictions(table, folder / name)
        tracking.log_table(run_id, table, name)
    tracking.log_table(run_id, slices, "test/slices.csv")
    tracking.log_table(run_id, corrupted, "test/robustness.csv")
    tracking.log_text(run_id, json.dumps(evidence.to_json(), indent=1), records.EVIDENCE)
    flat = evaluation.flatten(metrics)
    tracking.log_metrics(run_id, {f"test_{name}": value for name, value in flat.items()})
    candidate = dataclasses.replace(
        candidate,
        test=metrics,
        evidence=evidence,
        against_frozen_features=against_frozen_features,
    )
    candidate.save(folder)
    begin(5, "")
    return candidate


def most_wrong(images: np.ndarray, test: pd.DataFrame, error: np.ndarray):
    """Draw the faces with the largest errors; a figure for the store, never for the repository."""
    worst = np.argsort(-np.abs(error), kind="stable")[:EXAMPLES]
    labels = [
        f"{row.age_years:.0f} -> {row.age_predicted:.0f} years\n"
        f"{'female' if row.gender else 'male'} -> {row.gender_probability:.2f} female"
        for row in test.iloc[worst].itertuples()
    ]
    return figures.face_grid(images[worst], labels, 6, (2.0, 2.5))


def verdicts(work: Work) -> list[str]:
    """Return lines on what the locked test says of B against A, and against its frozen features."""
    a, b = (
        records.read_predictions(work.candidate_folder(family) / records.PREDICTIONS)
        for family in families.FAMILIES
    )
    lines = verdict("B", "A", evaluation.compare(b, a, seed=work.settings.seed))
    candidate = work.candidate("B")
    if candidate.fine_tuning_kept:
        return lines + verdict("B", "B's frozen head", candidate.against_frozen_features)
    return [*lines, f"B  {card.FINE_TUNING[str(candidate.fine_tuning_kept)]}"]


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
