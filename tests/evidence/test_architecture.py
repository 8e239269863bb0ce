"""Architecture: what Keras prints is read as it was meant."""

import keras
import pytest

from agegender.evidence import architecture
from agegender.networks import models


def summary(network):
    lines = []
    network.summary(print_fn=lines.append, line_length=100)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def network():
    return models.build_scratch(width=8, stages=3)


def test_every_layer_is_read(network):
    table = architecture.layers(summary(network))
    assert table.name.tolist() == [layer.name for layer in network.layers]
    assert table.kind.tolist() == [type(layer).__name__ for layer in network.layers]
    assert table.parameters.tolist() == [layer.count_params() for layer in network.layers]
    assert table["shape"][0] == (128, 128, 3) and table["shape"].iloc[-1] == (1,)


def test_names_too_long_for_their_column_are_put_together():
    image = keras.Input((8, 8, 3), name="an_input_with_a_rather_long_name")
    x = keras.layers.GlobalAveragePooling2D(name="another_name_longer_than_its_column")(image)
    network = keras.Model(image, keras.layers.Dense(1, name="age")(x))
    table = architecture.layers(summary(network))
    assert table.name.tolist() == [layer.name for layer in network.layers]
    assert table.kind.tolist() == ["InputLayer", "GlobalAveragePooling2D", "Dense"]


def test_blocks_lose_no_parameter_and_end_in_two_branches(network):
    table = architecture.blocks(architecture.layers(summary(network)))
    assert table.parameters.sum() == network.count_params()
    assert table.block.tolist() == [
        *("128 x 128", "64 x 64", "32 x 32", "16 x 16", "8 x 8"),
        *("vector", "age", "gender"),
    ]
    assert table["shape"].iloc[-1] == (1,) and table["shape"][1] == (64, 64, 24)
    words = architecture.block_table(table)
    assert words.block.iloc[-2] == "age branch" and "1 Conv2D" in words.layers[1]
    figure = architecture.diagram(table)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert "age in years" in written and "8 x 8\n32 ch." in written
    assert f"{network.count_params():,}" in figure.axes[0].get_title()


def test_a_text_without_layers_is_refused():
    with pytest.raises(ValueError, match="found none"):
        architecture.layers("Model: nothing")
