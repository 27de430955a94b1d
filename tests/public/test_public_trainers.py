"""Every place in trainers' packages that replaces, fuses, copies or rebuilds modules of a CNN.

The tables are in `support/*_places.py`. Each gate is forced to p = 0.5. The right value is what the
same tool makes of the base network, with the branches halved.
"""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from support.composer_places import COMPOSER
from support.halved_networks import CHANNELS, HALF, boosted, halved, image, network, same
from support.loop_places import LOOPS
from support.places import SITES, Place
from support.quantization_places import QUANTIZATION
from support.segmentation_places import EFFICIENT, SEGMENTATION
from support.torch_places import TORCH
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_conv_bn_weights

import accuracy_booster as ab

PLACES = [*TORCH, *QUANTIZATION, *LOOPS, *COMPOSER, *SEGMENTATION, EFFICIENT]
STAND_INS = {place.package for place in COMPOSER}  # not installed beside the others
CASES = [pytest.param(p, s, id=f"{p.package}: {p.function}, {s}") for p in PLACES for s in p.sites]


def run(place: Place, model: nn.Module):
    made = place.tool(model)
    made = model if made is None else made
    with torch.no_grad():
        return made, made(image())


def expected(place: Place, sites: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the tool makes of the base network, and that with its branches halved."""
    made, base = run(place, network())
    with torch.no_grad():
        if torch.allclose(base, network()(image()), rtol=1e-4, atol=1e-4):
            return base, halved(SITES[sites])
        for name in SITES[sites]:
            made.get_submodule(name).register_forward_hook(lambda m, args, y: y / 2)
        return base, made(image())


def difference(y: torch.Tensor, other: torch.Tensor) -> float:
    return float((y - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(("place", "sites"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_gate_acts_once_after(place, sites, monkeypatch):
    if place.package not in STAND_INS:
        pytest.importorskip(place.package, exc_type=ImportError)
    model = boosted(where=SITES[sites])
    if place.raises:
        with pytest.raises(Exception, match=place.raises):
            run(place, model)
        return
    base, right = expected(place, sites)
    assert difference(base, right) > 100 * place.close
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made, y = run(place, model)
    if place.happens.startswith("lost"):
        assert difference(y, base) <= place.close
        return
    assert difference(y, right) <= place.close
    if isinstance(made, nn.Module) and not isinstance(made, torch.jit.ScriptModule):
        assert len(ab.surgery.attached(made)) >= len(SITES[sites])
    told = [str(warning.message) for warning in caught]
    assert not place.warns or any(re.search(place.warns, text) for text in told), told


def test_the_page_has_a_row_for_each_place():
    page = (Path(__file__).parents[2] / "docs" / "trainers" / "places.md").read_text()
    for place in PLACES:
        assert f"\n{place.line()}\n" in page, place.line()
        assert f"\n## {place.package} " in page


def folded_anew(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """As timm and ultralytics: a convolution of the plain class."""
    new = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    new.weight, new.bias = folded(conv, norm)
    return new


def folded_in_place(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    conv.weight, conv.bias = folded(conv, norm)
    return conv


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    return fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)


FOLDS = [
    (fuse_conv_bn_eval, False),
    (fuse_conv_bn_eval, True),
    (folded_anew, False),
    (folded_anew, True),
    (folded_in_place, False),
]


@pytest.mark.parametrize(("fold", "bias"), FOLDS)
def test_a_norm_folded_into_a_gated_convolution(fold, bias, recwarn):
    """The gate acts before the norm, and cannot in the folded layer: there is one warning."""
    block = network()[1]
    if bias:
        block.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    ab.boost(block.eval(), HALF, example=torch.randn(1, CHANNELS, 4, 4), where=["conv2"])
    recwarn.clear()
    block.conv2 = fold(block.conv2, block.bn2)
    block.bn2 = nn.Identity()
    assert ["gate now acts after that norm" in str(w.message) for w in recwarn] == [True]


def test_a_copy_of_a_module_whose_forward_is_a_closure():
    """monai's `Range` and mmengine's `wrap_forward` set a closure over the module's own forward."""
    model = boosted()
    for block in (model[1], model[2]):
        forward = block.bn2.forward
        block.bn2.forward = lambda x, forward=forward: forward(x)
    same(model(image()), halved())
    same(copy.deepcopy(model)(image()), halved())
