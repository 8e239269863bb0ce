import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agegender import records
from agegender.measure import evaluation, robustness
from agegender.show import figures


def draw(figure):
    """Draw a figure, and with it what goes wrong only then."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def trials(count):
    generator = np.random.default_rng(count)
    return pd.DataFrame(
        {"trial": range(1, count + 1), "val_score": generator.uniform(0.3, 1, count)}
    )


def history(epochs):
    names = ["age_loss", "age_mae", "gender_loss", "gender_accuracy"]
    table = pd.DataFrame({"epoch": range(epochs)})
    for name, prefix in itertools.product(names, ("", "val_")):
        table[prefix + name] = 1 / (table.epoch + 1)
    return table.assign(val_score=(table.epoch - 2.0).abs())


def test_learning_curves_have_four_panels_with_the_best_epoch_marked():
    figure = figures.learning_curves({"A": history(5)})
    assert draw(figure)
    assert len(figure.axes) == 4
    for axis in figure.axes:
        training, validation, circle = axis.lines
        assert list(training.get_xdata()) == list(validation.get_xdata()) == [1, 2, 3, 4, 5]
        assert list(circle.get_xdata()) == [3]
    assert "3 of 5" in figure.axes[2].get_xlabel()
    phases = history(4).assign(phase=["head", "head", "fine", "fine"])
    two = figures.learning_curves({"A": history(1), "B": phases})
    assert draw(two)
    assert [len(axis.lines) for axis in two.axes] == [3] * 4 + [4] * 4


def test_the_best_so_far_never_rises():
    figure = figures.search_history({"A": trials(1), "B": trials(30)})
    assert draw(figure)
    _, best = figure.axes[1].lines
    assert (np.diff(best.get_ydata()) <= 0).all()
    assert best.get_ydata()[-1] == trials(30).val_score.min()


def test_predictions_are_drawn_and_counted():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"age_years": generator.integers(1, 90, 50)})
    table["age_predicted"] = table.age_years - 3.0
    table["gender"] = np.repeat([0, 1], 25)
    table["gender_probability"] = np.repeat([0.1, 0.9, 0.5], [20, 15, 15])
    assert draw(figures.predicted_against_true({"A": table, "B": table[:1]}))
    figure = figures.confusion({"A": table, "B": table[:25]})
    assert draw(figure)
    shown = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert shown == [["80.0%", "20.0%", "0.0%", "100.0%"], ["80.0%", "20.0%", "0.0%", "0.0%"]]
    assert "25 men, 25 women" in figure.axes[0].get_title()


@pytest.fixture
def predictions():
    return records.read_predictions(Path(__file__).parents[2] / "models" / "age_gender_A.csv")


def heights(container):
    return container.lines[0].get_ydata()


def test_reliability_is_the_share_of_women(predictions):
    figure = figures.reliability_diagram({"A": predictions})
    assert draw(figure)
    found = evaluation.reliability(
        predictions.gender.to_numpy(), predictions.gender_probability.to_numpy()
    )
    assert heights(figure.axes[0].containers[0]) == pytest.approx(found.share.to_numpy())
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(predictions)
    assert draw(figures.reliability_diagram({"A": predictions[:2]}))


def test_robustness_curves_share_their_clean_beginning():
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)

    def predict(pictures):
        brightness = pictures.mean(axis=(1, 2, 3))
        return brightness / 3, brightness / 255

    table = robustness.curves(predict, images, np.full(4, 40), np.array([0, 1, 0, 1]), seed=0)
    figure = figures.robustness_curves({"A": table})
    assert draw(figure)
    drawn = [heights(axis.containers[0]) for axis in figure.axes]
    assert len(drawn) == 2 * len(robustness.CORRUPTIONS)
    assert len({values[0] for values in drawn[:6]}) == 1 == len({v[0] for v in drawn[6:]})
    dark = table[table.corruption == "darkness"]
    assert drawn[3][1:] == pytest.approx(dark.mae.to_numpy())
    maps = [robustness.occlusion_map(predict, image) for image in images]
    assert draw(figures.occlusion_maps(images, maps))


def test_slices_are_drawn_with_their_numbers_and_small_ones_faded(predictions):
    table = evaluation.slices(predictions[predictions.age_years < 85], seed=0)
    figure = figures.slices({"A": table, "B": table.assign(mae=table.mae + 1)})
    assert draw(figure)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    shown = table[table.ranked | ~table.slice.str.contains(",")]
    assert ticks == [f"{row.slice}, n = {row.n}" for row in shown.itertuples()]
    bold, faded, other, _ = figure.axes[0].containers
    assert list(bold.lines[0].get_xdata()) == list(shown.mae[shown.ranked])
    assert list(other.lines[0].get_xdata()) == list(shown.mae[shown.ranked] + 1)
    assert list(faded.lines[0].get_xdata()) == list(shown.mae[~shown.ranked])
    assert faded.lines[0].get_alpha() < bold.lines[0].get_alpha()


def test_a_grid_shows_each_face_under_its_label():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    figure = figures.face_grid([*images[:4], None, *images[4:]], [f"face {i}" for i in range(9)], 6)
    assert draw(figure)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == [f"face {i}" for i in range(9) if i != 4]
    assert (np.stack([image.get_array() for image in axis.images]) == images).all()
    for image, text in zip(axis.images, axis.texts, strict=True):
        left, right, _, top = image.get_extent()
        assert left < text.get_position()[0] < right and text.get_position()[1] > top
    places = [np.floor(image.get_extent()[0]) for image in axis.images]
    assert places == [0, 1, 2, 3, 5, 0, 1, 2]
    assert axis.images[5].get_extent()[3] < axis.images[4].get_extent()[2]


def test_age_intervals_are_shaded(predictions):
    figure = figures.predicted_against_true({"A": predictions})
    assert draw(figure)
    shade = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (shade.xmin, shade.xmax) == (predictions.age_low.min(), predictions.age_high.max())
