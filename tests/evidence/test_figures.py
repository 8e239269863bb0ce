import io
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

from agegender.evidence import evaluation, figures, robustness, uncertainty

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


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"age_years": generator.integers(1, 100, 300)})
    table["gender"] = generator.integers(0, 2, 300)
    table["race"] = generator.integers(0, 5, 300)
    table["age_predicted"] = table.age_years + generator.normal(2, 5, 300)
    probability = table.gender * 0.5 + generator.normal(0.25, 0.2, 300)
    return table.assign(gender_probability=probability.clip(0, 1))


def heights(container):
    return container.lines[0].get_ydata()


def test_errors_are_drawn_by_decade(predictions):
    figure = figures.error_by_age(predictions)
    assert draw(figure)
    error = predictions.age_predicted - predictions.age_years
    decade = (predictions.age_years // 10).clip(upper=8)
    for axis, values in zip(figure.axes, (error.abs(), error), strict=True):
        means = values.groupby(decade).mean()
        assert heights(axis.containers[0]) == pytest.approx(means.to_numpy())
    assert "n = 300" in figure.axes[0].get_title()
    assert draw(figures.error_by_age(predictions[:1]))


def test_reliability_is_the_share_of_women_and_its_error_that_of_the_evaluation(predictions):
    gender, probability = predictions.gender, predictions.gender_probability
    figure = figures.reliability_diagram(gender, probability)
    assert draw(figure)
    ages = predictions.age_years
    found = evaluation.evaluate(ages, ages, gender, probability, seed=0, resamples=9)
    assert f"error {found['gender_ece']['value']:.3f}, n = 300" in figure.axes[0].get_title()
    bars = figure.axes[1].patches
    assert sum(bar.get_height() for bar in bars) == 300
    assert draw(figures.reliability_diagram([0, 1], [0.2, 1.0]))


def test_risk_coverage_ends_at_all_faces(predictions):
    error = (predictions.age_predicted - predictions.age_years).abs()
    curves = [uncertainty.risk_coverage(error, each) for each in (error, np.zeros(300))]
    figure = figures.risk_coverage(*curves)
    assert draw(figure)
    for axis in figure.axes:
        x, y = axis.lines[0].get_data()
        assert (x[-1], y[-1]) == (1, pytest.approx(error.mean()))
        assert "n = 300" in axis.get_title()


def test_robustness_curves_share_their_clean_beginning():
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)

    def predict(pictures):
        brightness = pictures.mean(axis=(1, 2, 3))
        return brightness / 3, brightness / 255

    table = robustness.curves(predict, images, np.full(4, 40), np.array([0, 1, 0, 1]), seed=0)
    figure = figures.robustness_curves(table)
    assert draw(figure)
    drawn = [heights(axis.containers[0]) for axis in figure.axes]
    assert len(drawn) == 2 * len(robustness.CORRUPTIONS)
    assert len({values[0] for values in drawn[:6]}) == 1 == len({v[0] for v in drawn[6:]})
    dark = table[table.corruption == "darkness"]
    assert drawn[3][1:] == pytest.approx(dark.mae.to_numpy())
    maps = [robustness.occlusion_map(predict, image) for image in images]
    assert draw(figures.occlusion_maps(images, maps))
    small = [robustness.occlusion_map(predict, images[0], patch_pixels=10, stride_pixels=5)]
    assert draw(figures.occlusion_maps(images[:1], small))


def test_slices_are_drawn_with_their_numbers_and_small_ones_faded(predictions):
    table = evaluation.slices(predictions[predictions.age_years < 85], seed=0)
    figure = figures.slices(table)
    assert draw(figure)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    shown = table[table.ranked | ~table.slice.str.contains(",")]
    assert ticks == [f"{row.slice}, n = {row.n}" for row in shown.itertuples()]
    bold, faded = figure.axes[0].containers
    assert len(faded.lines[0].get_xdata()) == (~shown.ranked).sum() > 0
    assert len(bold.lines[0].get_xdata()) == shown.ranked.sum() > 0
    assert faded.lines[0].get_alpha() < bold.lines[0].get_alpha()


def test_a_grid_shows_each_face_under_its_label():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    figure = figures.most_wrong(images, [f"face {i}" for i in range(8)])
    assert draw(figure)
    shown = [(a.get_title(), a.images[0].get_array()) for a in figure.axes if a.images]
    assert [title for title, _ in shown] == [f"face {i}" for i in range(8)]
    assert (np.stack([image for _, image in shown]) == images).all()
    assert draw(figures.most_wrong(images[:1], ["one"]))


def test_age_intervals_are_shaded(predictions):
    age, predicted = predictions.age_years, predictions.age_predicted
    calibration = uncertainty.fit_age_intervals(age, predicted)
    intervals = uncertainty.age_intervals(calibration, predicted)
    figure = figures.predicted_against_true(age, predicted, intervals)
    assert draw(figure)
    shade = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (shade.xmin, shade.xmax) == (intervals[0].min(), intervals[1].max())
