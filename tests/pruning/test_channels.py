"""`ab.prune`: how many channels stay, what the result can do, and which arguments are wrong."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from support.gated_networks import images, network
from support.pruned_networks import (
    check_same,
    macs,
    parameters,
    readers_of,
    with_inputs_zeroed,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.pruning import pruned_channels, pruning_of
from accuracy_booster.pruning.channels import choose
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


def test_macs_and_parameters_by_hand():
    """ResNet-8 on 12x12: the convolutions before, each with half as many outputs or inputs."""
    model, x = network(), images(n=1)
    small = ab.prune(model, 0.5, of="inner", by="random", example=x)
    sides, widths, inputs = (12, 6, 3), (16, 32, 64), (16, 16, 32)
    gone = params = 0
    for side, width, before in zip(sides, widths, inputs, strict=True):
        half = width // 2
        gone += side**2 * 9 * half * (before + width)
        params += 9 * half * (before + width) + 2 * half  # and the norm's gamma and beta
    assert macs(model, x) - macs(small, x) == gone
    assert parameters(model) - parameters(small) == params
    size = (3, 12, 12)
    before, after = (ab.complexity(m, input_size=size).macs for m in (model, small))
    assert before - after == gone
    outputs = ab.prune(model, 0.5, by="random", example=x)
    less = sum(s**2 * 9 * (w // 2) * w for s, w in zip(sides, widths, strict=True))
    assert macs(model, x) - macs(outputs, x) == less
    # a gate of AB without its bias: a weight, gamma and beta
    assert parameters(model) - parameters(outputs) == sum((9 * w + 5) * w // 2 for w in widths)


def test_choose_keeps_whole_channels_and_as_many_in_each_group():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.7, 0.2, 0.3, 0.3, 0.3])
    assert choose(scores, 0.5).tolist() == [1, 2, 3, 5]
    assert choose(scores, 0.5, groups=2).tolist() == [1, 2, 5, 6]
    assert choose(scores, 0.01).tolist() == [1]
    assert choose(scores, 1).tolist() == [*range(8)]
    assert [len(choose(torch.rand(10), keep)) for keep in (0.24, 0.25, 0.26)] == [2, 3, 3]


def test_the_model_does_not_change():
    model, x = network().train(), images(n=3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    for of in ("outputs", "inner"):
        assert ab.prune(model, 0.5, by="magnitude", of=of, example=x).training
    assert model.training
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_share_of_one_keeps_everything():
    model, x = network(), images(n=3)
    small = ab.prune(model, 1, by="magnitude", example=x)
    assert torch.equal(small(x), model(x))
    assert pruned_channels(small) == {}


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_trains(of):
    model, x = network(), images(n=4)
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x).train()
    before = {name: p.clone() for name, p in small.named_parameters()}
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(x).square().sum().backward()
    for name, p in small.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in small.named_parameters())


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_copies_pickles_and_moves(of):
    model, x = network(), images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(twin(x), small(x))
        assert pruned_channels(twin) == pruned_channels(small)
    assert small.float()(x.float()).dtype == torch.float32
    bare = ab.unboost(copy.deepcopy(small))(x.float())
    assert not torch.equal(small(x.float()), bare)
    with ab.disabled(small):
        assert torch.equal(small(x.float()), bare)


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_folds_and_fuses(of):
    model, x = network(), images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    folded = ab.fold(small, example=x, verify=True)
    assert ab.fast_path(folded).taken == len(attached(model))
    torch.testing.assert_close(folded(x), small(x), rtol=1e-9, atol=1e-9)
    wanted = small(x)
    ab.fuse(small, example=x)
    torch.testing.assert_close(small(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_exports_with_a_dynamic_batch(of):
    model, x = network().float(), images(n=3).float()
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(small, (x,), dynamic_shapes=({0: batch},))
    for count in (1, 5):
        y = images(n=count).float()
        torch.testing.assert_close(program.module()(y), small(y), rtol=1e-5, atol=1e-5)


def test_torch_fx_follows_it():
    small = ab.prune(network(), 0.5, by="magnitude", example=images(n=3))
    x = images(n=3)
    assert torch.equal(torch.fx.symbolic_trace(small)(x), small(x))


def test_it_is_pruned_again():
    model, x = network(), images(n=3)
    once = ab.prune(model, 0.5, by="magnitude", example=x)
    inner = ab.prune(once, 0.5, by="magnitude", of="inner", example=x)
    kept = pruned_channels(inner)
    wanted = with_inputs_zeroed(once, kept, readers_of(once))
    assert len(kept) == 3
    check_same(inner(x), wanted(x))
    twice = ab.prune(once, 0.5, by="random", example=x)
    assert [len(k) for k in pruned_channels(twice).values()] == [4, 8, 16]


WRONG = {
    "needs the mean weights of the gates: gates=ab.gates.model, loader.": {"by": "gates"},
    "unknown criterion 'gate'; nearest: gates": {"by": "gate"},
    "keep=0 must be a share of the channels": {"keep": 0},
    "keep=1.5 must be a share": {"keep": 1.5},
    "keep=nan must be a share": {"keep": math.nan},
    "keep=True must be a share": {"keep": True},
    "of='middle' must be 'outputs' or 'inner'": {"of": "middle"},
    "keep=0.999: layer1.0.bn2 .all are kept at this share": {"keep": 0.999},
    "gates=list must be ab.gates": {"by": "gates", "gates": [1]},
    "no mean weight of the gate at 'layer1.0.bn2'": {"by": "gates", "gates": {}},
    "unknown site of a gate 'layer1.0.bn1'": {
        "by": "gates",
        "gates": {"layer1.0.bn1": torch.ones(16)},
    },
}


@pytest.mark.parametrize("reason", WRONG)
def test_errors(reason):
    with pytest.raises(ValueError, match=reason):
        ab.prune(network(), **{"by": "magnitude", "example": images(n=3), **WRONG[reason]})


def test_fused_folded_and_wrapped_models_are_refused(tmp_path):
    model, x = network(), images(n=3)
    with pytest.raises(ValueError, match="is folded already"):
        ab.prune(ab.fold(model, example=x), by="magnitude")
    with pytest.raises(ValueError, match=r"wrapped in DataParallel"):
        ab.prune(nn.DataParallel(model), by="magnitude")
    with pytest.raises(ValueError, match=r"was not made by ab.prune"):
        pruning_of(model)
    small = ab.prune(model, by="magnitude", example=x)
    with pytest.raises(ValueError, match="is pruned, and no base has its shapes"):
        ab.save(small, tmp_path)
    with pytest.raises(ValueError, match=r"is fused; prune ab.unfuse.model."):
        ab.prune(ab.fuse(model, example=x), by="magnitude")
