"""Arguments of parts."""

from __future__ import annotations

import pytest

import accuracy_booster as ab
from accuracy_booster.blocks import RecipeError


@pytest.mark.parametrize(
    "text",
    [
        "conv(99999) | sigmoid",
        "dwconv(257) | sigmoid",
        "gap | conv1d(1000001) | sigmoid",
        "channel_pool | conv2d(999) | sigmoid",
        f"gather({2**200}, learned=true) | sigmoid",
        f"gather({2**13}) | sigmoid",
    ],
)
def test_layers_of_absurd_sizes_are_refused(text):
    with pytest.raises(RecipeError, match=r"up to (255|4096)"):
        ab.recipe(text)
