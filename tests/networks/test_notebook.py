"""The notebook's networks have the notebook's numbers of parameters."""

import pytest

from agegender.networks import backbones, notebook


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (notebook.build_scratch, 2_295_026),
        (
            lambda: notebook.build_pretrained(backbones.load("vgg16", 128, None, pretrained=False)),
            19_435_330,
        ),
    ],
)
def test_layer_by_layer(network, parameters):
    built = network()
    assert built.count_params() == parameters
    assert built.output_names == ["age", "gender"]
