"""Score both candidates on the locked test, once: `make evaluate`. Each look is in the ledger."""

import json

import numpy as np
import pandas as pd

from agegender.evidence import evaluation, figures
from agegender.networks import export, training
from agegender.registry import tracking
from pipelines import command_line
from tuning import families, search, trials


def evaluate(work: command_line.Work) -> dict[str, dict]:
    """Return each family's test metrics with intervals; log them, figures and predictions.

    A candidate that was evaluated already is not looked at again.
    """
    faces, seed = work.faces, work.settings.seed
    rows = faces.rows("test")
    true = {"age_years": faces.age_years[rows], "gender": faces.gender[rows]}
    floors = trials.training_floors(faces)
    for family in families.FAMILIES:
        candidate = work.folder / family / "candidate"
        record = work.candidate(family)
        if "test" in record:
            continue
        run_id = record["run_id"]
        tracking.record_test_look(
            run_id, purpose="final evaluation", details={"data": faces.digest, "family": family}
        )
        predictions = pd.DataFrame({"name": faces.manifest.name.iloc[rows], **true})
        for path in sorted(candidate.glob("*.h5")):
            predicted = training.predict(export.load_h5(path), faces.pixels, rows)
            for column, values in zip(("age", "gender"), predicted, strict=True):
                predictions[f"{path.stem}:{column}"] = values
        predictions.to_csv(candidate / "predictions.csv", index=False)
        own = f"age_gender_{family}"
        metrics = evaluation.evaluate(
            true["age_years"],
            predictions[f"{own}:age"].to_numpy(),
            true["gender"],
            predictions[f"{own}:gender"].to_numpy(),
            seed=seed,
        )
        metrics["score"] = evaluation.val_score(
            metrics["mae"]["value"], metrics["gender_accuracy"]["value"], floors
        )
        record["test"] = metrics
        if family == "B":
            record["against_frozen_features"] = compare(predictions, own, "frozen_features", seed)
        flat = evaluation.flatten(metrics)
        tracking.log_metrics(run_id, {f"test_{name}": value for name, value in flat.items()})
        tracking.log_table(run_id, predictions, "test_predictions.csv")
        for draw, column in (
            (figures.predicted_against_true, "age"),
            (figures.confusion, "gender"),
        ):
            key = "age_years" if column == "age" else "gender"
            figure = draw(true[key], predictions[f"{own}:{column}"].to_numpy())
            tracking.log_figure(run_id, figure, f"test_{draw.__name__}.png")
        search.write_atomically(candidate / "candidate.json", json.dumps(record, indent=1))
    return {family: work.candidate(family)["test"] for family in families.FAMILIES}


def compare(predictions: pd.DataFrame, first: str, second: str, seed: int) -> dict:
    """Return paired differences, first minus second: MAE by bootstrap, gender by McNemar."""
    errors = [
        np.abs(predictions[f"{model}:age"] - predictions["age_years"]).to_numpy()
        for model in (first, second)
    ]
    correct = [
        ((predictions[f"{model}:gender"] >= 0.5) == (predictions["gender"] > 0.5)).to_numpy()
        for model in (first, second)
    ]
    return {
        "mae": evaluation.paired_difference(*errors, seed=seed),
        "gender": evaluation.mcnemar(*correct),
    }


def verdicts(work: command_line.Work) -> list[str]:
    """Return what the locked test allows to say of B against A and against its frozen features."""
    tables = [
        pd.read_csv(work.folder / family / "candidate" / "predictions.csv")
        for family in families.FAMILIES
    ]
    both = tables[0].merge(tables[1].drop(columns=["age_years", "gender"]), on="name")
    pairs = {
        "B against A": compare(both, "age_gender_B", "age_gender_A", work.settings.seed),
        "B against its head on frozen features": work.candidate("B")["against_frozen_features"],
    }
    return [f"{name}: {verdict(pair)}" for name, pair in pairs.items()]


def verdict(pair: dict) -> str:
    """Say in a line what a pair of paired differences shows at 95 %, and what it does not."""
    mae, gender = pair["mae"], pair["gender"]
    told = {True: "told apart", False: "not told apart"}
    return (
        f"MAE {mae['value']:+.2f} years [{mae['low']:.2f}, {mae['high']:.2f}], "
        f"{told[not mae['low'] <= 0 <= mae['high']]}; gender: {gender['only_a']} faces right only "
        f"here, {gender['only_b']} only there, p = {gender['p']:.2g}, {told[gender['p'] < 0.05]}"
    )


if __name__ == "__main__":
    command_line.run(__doc__, evaluate)
