import io
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

from agegender.evidence import figures

PARAMETERS = ["learning_rate", "width", "age_head", "residual", "age_deviation_years"]


def draw(figure):
    """Draw a figure, and with it what goes wrong only then."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def trials(count):
    generator = np.random.default_rng(count)
    table = pd.DataFrame(
        {
            "trial": range(1, count + 1),
            "learning_rate": 10 ** generator.uniform(-5, -2, count),
            "width": generator.choice([16, 32, 48], count),
            "age_head": generator.choice(["distribution", "ordinal"], count),
            "residual": generator.choice([True, False], count),
        }
    )
    table["age_deviation_years"] = np.where(
        table.age_head == "distribution", table.width / 10, np.nan
    )
    table["val_age_mae"] = 5 + (np.log10(table.learning_rate) + 3) ** 2
    table["val_gender_accuracy"] = 0.9 + generator.normal(0, 0.01, count)
    table["val_score"] = table.val_age_mae / 15
    return table


def history(epochs):
    names = ["age_loss", "age_mae", "gender_loss", "gender_accuracy"]
    table = pd.DataFrame({"epoch": range(epochs)})
    for name, prefix in itertools.product(names, ("", "val_")):
        table[prefix + name] = 1 / (table.epoch + 1)
    return table.assign(val_score=(table.epoch - 2.0).abs())


def test_learning_curves_have_four_panels_with_the_best_epoch_marked():
    figure = figures.learning_curves(history(5))
    assert draw(figure)
    assert len(figure.axes) == 4
    for axis in figure.axes:
        training, validation, circle = axis.lines
        assert list(training.get_xdata()) == list(validation.get_xdata()) == [1, 2, 3, 4, 5]
        assert list(circle.get_xdata()) == [3]
    assert "3 of 5" in figure.get_suptitle()
    two = figures.learning_curves(history(4).assign(phase=["head", "head", "fine", "fine"]))
    assert [len(axis.lines) for axis in two.axes] == [4] * 4
    assert draw(figures.learning_curves(history(1)))


def test_best_so_far_never_rises():
    figure = figures.best_so_far(trials(30))
    assert draw(figure)
    _, best = figure.axes[0].lines
    assert (np.diff(best.get_ydata()) <= 0).all()
    assert best.get_ydata()[-1] == trials(30).val_score.min()


@pytest.mark.parametrize("count", [1, 2, 6, 40])
def test_every_number_of_trials_is_drawn(count):
    table = trials(count)
    for name in ("best_so_far", "pareto_front"):
        assert draw(getattr(figures, name)(table))
    for name in ("parallel_coordinates", "hyperparameter_importance"):
        assert draw(getattr(figures, name)(table, PARAMETERS))
    assert draw(figures.hyperparameter_importance(table.assign(val_score=0.5), PARAMETERS))


def test_parallel_coordinates_put_equal_values_at_equal_heights():
    table = trials(12)
    figure = figures.parallel_coordinates(table, PARAMETERS)
    order = table.val_score.to_numpy().argsort()[::-1]
    lines = figure.axes[0].lines[: len(table)]
    for column, name in enumerate(PARAMETERS):
        heights = [line.get_ydata()[column] for line in lines]
        values = table[name].iloc[order]
        assert min(heights) >= 0 and max(heights) <= 1
        assert (
            pd.Series(heights)
            .groupby(values.astype(object).fillna("none").to_numpy())
            .nunique()
            .eq(1)
            .all()
        )
    assert lines[-1].get_linewidth() > lines[0].get_linewidth()
    with pytest.raises(ValueError, match="Nothing to draw"):
        figures.parallel_coordinates(table, [])


@pytest.mark.parametrize("count", [12, 60])
def test_importance_finds_what_matters_and_says_how(count):
    figure = figures.hyperparameter_importance(trials(count), PARAMETERS)
    axis = figure.axes[0]
    # The score is a function of the rate alone, with its optimum near one end.
    assert axis.get_yticklabels()[-1].get_text() == "learning_rate"
    assert ("Random forest" in axis.get_title()) == (count >= figures.FEW_TRIALS)
    assert str(count) in axis.get_title()


def test_the_pareto_front_is_what_nothing_beats():
    generator = np.random.default_rng(0)
    mae, accuracy = generator.integers(3, 9, 60), generator.integers(80, 95, 60)
    front = figures.pareto_members(mae, accuracy)
    for point in range(60):
        beaten = any(
            mae[other] <= mae[point]
            and accuracy[other] >= accuracy[point]
            and (mae[other], accuracy[other]) != (mae[point], accuracy[point])
            for other in range(60)
        )
        assert front[point] != beaten


def test_predictions_are_drawn_and_counted():
    generator = np.random.default_rng(0)
    age, gender = generator.integers(1, 90, 50), np.repeat([0, 1], 25)
    probability = np.concatenate([np.full(20, 0.1), np.full(15, 0.9), np.full(15, 0.5)])
    assert draw(figures.predicted_against_true(age, age - 3.0))
    figure = figures.confusion(gender, probability)
    assert draw(figure)
    counts = [int(text.get_text().split("\n")[0]) for text in figure.axes[0].texts]
    assert counts == [20, 5, 0, 25]
    assert draw(figures.predicted_against_true(age[:1], age[:1]))


def test_styles_are_left_as_they_were():
    before = dict(matplotlib.rcParams)
    figures.best_so_far(trials(5))
    assert dict(matplotlib.rcParams) == before
