"""A search as one interactive page: Optuna draws the trials that Keras Tuner proposed."""

from collections.abc import Sequence

import markupsafe
import optuna
import pandas as pd
from optuna import distributions, visualization

from agegender.show import pages

# With fewer trials, a figure of the search or of the importances is meaningless.
FEWEST_TRIALS, FEWEST_FOR_IMPORTANCE = 3, 15
OBJECTIVES = {"val_age_mae": "minimize", "val_gender_accuracy": "maximize"}


def page(trials: pd.DataFrame, searched: Sequence[str]) -> str:
    """Return the page: about 5 MB of self-contained HTML.

    trials: one row per trial with trial, status, val_score, val_age_mae (years),
        val_gender_accuracy and the searched settings; a value that a trial lacks is missing.

    Raises ValueError for fewer than FEWEST_TRIALS complete trials.
    """
    done = trials[trials["status"] == "COMPLETED"]
    if len(done) < FEWEST_TRIALS:
        raise ValueError(
            f"Expected {FEWEST_TRIALS} complete trials or more; got {len(done)}. Search longer."
        )
    varied = [name for name in searched if done[name].nunique() > 1]
    shared = [name for name in varied if done[name].notna().all()]
    study = _study(done, varied, {"val_score": "minimize"})
    named = {"target_name": "val_score (lower is better)"}
    drawn = {"History": visualization.plot_optimization_history(study, **named)}
    if shared:
        drawn["Parallel coordinates"] = visualization.plot_parallel_coordinate(
            study, params=shared, **named
        )
        drawn["Slices"] = visualization.plot_slice(study, params=varied, **named)
    if shared and len(done) >= FEWEST_FOR_IMPORTANCE:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        drawn["Importance (fANOVA)"] = visualization.plot_param_importances(
            study, evaluator=evaluator, params=shared, target_name="val_score"
        )
    drawn["Age against gender (Pareto front)"] = visualization.plot_pareto_front(
        _study(done, varied, OBJECTIVES), target_names=["MAE (years)", "gender accuracy"]
    )
    parts = [
        f'<h2 id="{place}">{markupsafe.escape(title)}</h2>'
        # Include the library once, with the first figure.
        + figure.to_html(full_html=False, include_plotlyjs=place == 0, default_height="460px")
        for place, (title, figure) in enumerate(drawn.items())
    ]
    title = f"{len(trials)} trials, {len(done)} complete"
    sections = [(str(place), name) for place, name in enumerate(drawn)]
    return pages.page(title, sections, f"<h1>{title}</h1>" + "".join(parts))


def _study(
    trials: pd.DataFrame, searched: Sequence[str], objectives: dict[str, str]
) -> optuna.Study:
    """Return an in-memory study with the trials under their own numbers."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Else it reports each new study.
    study = optuna.create_study(directions=list(objectives.values()))
    known = {name: _distribution(trials[name].dropna()) for name in searched}
    rows = {row["trial"]: row for row in trials.to_dict("records")}
    for number in range(max(rows) + 1):
        # Optuna counts from 0 without gaps, so a missing number becomes a failed trial, not drawn.
        row = rows.get(number, {})
        values = {name: row[name] for name in known if not pd.isna(row.get(name))}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if row else optuna.trial.TrialState.FAIL,
                params=values,
                distributions={name: known[name] for name in values},
                values=[row[name] for name in objectives] if row else None,
            )
        )
    return study


def _distribution(values: pd.Series) -> distributions.BaseDistribution:
    """Return the range of values tried for a setting; logarithmic above a factor of 30."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return distributions.CategoricalDistribution(sorted(values.unique().tolist(), key=str))
    low, high = values.min(), values.max()
    logarithmic = bool(low > 0 and high / low > 30)
    return distributions.FloatDistribution(float(low), float(high), log=logarithmic)
