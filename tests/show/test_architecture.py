"""Architecture: the blocks hold every layer of a real network."""

import json

import keras
import pytest

from agegender.networks import models
from agegender.show import architecture


@pytest.fixture(scope="module")
def network():
    return models.build_scratch(width=8, stages=3)


def test_every_layer_is_listed_and_survives_its_file(network):
    layers = json.loads(json.dumps(models.layers(network)))
    assert [layer["name"] for layer in layers] == [layer.name for layer in network.layers]
    assert [layer["kind"] for layer in layers] == [type(layer).__name__ for layer in network.layers]
    assert sum(layer["parameters"] for layer in layers) == network.count_params()
    assert layers[0]["shape"] == [128, 128, 3] and layers[-1]["shape"] == [1]


def test_blocks_lose_no_parameter_and_end_in_two_branches(network):
    blocks = architecture.blocks(models.layers(network))
    assert sum(block.parameters for block in blocks) == network.count_params()
    assert sum(block.layers for block in blocks) == len(network.layers)
    assert [block.name for block in blocks] == [
        *("128 x 128", "64 x 64", "32 x 32", "16 x 16", "8 x 8"),
        *("vector", "age", "gender"),
    ]
    assert blocks[-1].shape == (1,) and blocks[1].shape == (64, 64, 24)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(block.convolutions for block in blocks) == len(convolutions)
    figure = architecture.diagram(blocks)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert any(text.startswith("age in years") for text in written)
    assert any(text.startswith("8 x 8\n32 ch.") for text in written)
    assert f"{network.count_params():,}" in figure.axes[0].get_title()
