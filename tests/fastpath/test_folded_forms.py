"""A folded gate takes its means from the side of the convolution where it reads less."""

import pytest
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath.folded_forms import choose_form


def test_a_gate_is_computed_where_less_is_read():
    """At 56x56 with 64 channels from the input, at 7x7 with 512 from the output."""
    chosen = []
    for inputs, outputs, side in ((64, 256, 56), (512, 2048, 7)):
        gate = ab.Recalibrate(outputs, "ab").eval()
        shapes = (16, inputs, side, side), (16, outputs, side, side)
        chosen.append(choose_form(nn.Conv2d(inputs, outputs, 1), gate, *shapes))
    assert chosen == ["input", "output"]


@pytest.mark.parametrize("layer", [nn.Conv2d(64, 256, 3, stride=2), nn.Linear(64, 256)], ids=repr)
def test_layers_without_a_pooled_form_are_read_after_they_ran(layer):
    gate = ab.Recalibrate(256, "ab").eval()
    assert choose_form(layer, gate, (16, 64, 1, 1), (16, 256, 99, 99)) == "output"
