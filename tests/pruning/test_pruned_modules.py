"""Gates with fewer channels, zeros in place of removed channels, and modes that stay."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.gated_networks import images, network
from support.pruned_networks import (
    check_same,
    readers_of,
    with_inputs_zeroed,
    with_outputs_zeroed,
)
from support.strictness import WARNINGS_ARE_ERRORS

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE
from accuracy_booster.pruning import pruned_channels
from accuracy_booster.pruning.pruned_modules import Expand
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS
MIXING = [
    *("ab_plus", "ab_plus_nobn", "ab_g2", "se", "eca", "cbam", "ge_theta_plus"),
    *("ge_theta_plus_bn", "design_h", "design_h_bn", "design_i", "design_k", "design_o"),
]
OWN = [name for name in TABLE if name not in MIXING]


@pytest.mark.parametrize("recipe", OWN)
def test_gates_that_act_channel_by_channel_are_exact(recipe):
    model, x = network(recipe=recipe), images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))


@pytest.mark.parametrize("recipe", MIXING)
def test_gates_that_mix_channels_are_refused_for_outputs_alone(recipe):
    model, x = network(recipe=recipe), images(n=3)
    with pytest.raises(ValueError, match=r"weighs a channel by others.*of='inner' takes any"):
        ab.prune(model, 0.5, by="magnitude", example=x)
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    readers = readers_of(model)
    check_same(small(x), with_inputs_zeroed(model, pruned_channels(small), readers)(x))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_expand_puts_zeros_where_channels_were(shape):
    kept, x = torch.tensor([0, 3, 4]), torch.randn(shape)
    wanted = x.new_zeros(2, 6, *shape[2:]).index_copy(1, kept, x)
    assert torch.equal(Expand(kept, 6, len(shape) - 2)(x), wanted)
    last = Expand(kept, 6, 0)(x.movedim(1, -1))
    assert torch.equal(last, wanted.movedim(1, -1))


def test_modes_and_what_is_frozen_stay():
    model, x = network().train(), images(n=3)
    gate = attached(model)["layer1.0.bn2"]
    gate.enabled = False
    for parameter in gate.parameters():
        parameter.requires_grad_(False)
    model.layer2[0].bn2.training = False
    model.layer3[0].conv2.weight.requires_grad_(False)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    assert not attached(small)["layer1.0.bn2.layer"].enabled
    assert attached(small)["layer2.0.bn2.layer"].enabled
    frozen = {name for name, p in small.named_parameters() if not p.requires_grad}
    own = {f"layer1.0.bn2.layer.recalibrate.{name}" for name, _ in gate.named_parameters()}
    assert frozen == {"layer3.0.conv2.weight", *own}
    resting = {name for name, m in small.named_modules() if not m.training}
    assert resting == {f"layer2.0.bn2{end}" for end in ("", ".layer", ".expand")}
