"""`ab.fuse` changes no number: fused networks against the same ones layer by layer, in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.fused_networks import (
    CLOSE,
    MODES,
    ResidualBlock,
    ResidualNet,
    assert_close,
    assert_same_buffers,
    assert_same_pass,
    fused_copy,
    pair,
    run,
)
from support.gated_networks import NETWORKS, images, network
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torchvision.ops import StochasticDepth

import accuracy_booster as ab
from accuracy_booster.fastpath.fused_modules import Fused
from accuracy_booster.ops.batch_norm import BatchNormMode
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS
RECIPES = ["ab", "ab_plus", "ab_g2", "se", "eca", "ge_theta_minus", "design_f", None]
FUSED = ["resnet8", "wrn10_1", "torchvision/resnet18", "timm/resnet26", "timm/regnetx_002"]
LARGE = ["ab", "eca", None]  # recipes for networks of millions of parameters
PAIRS = [
    (n, r) for n in FUSED for r in (LARGE if n.startswith(("torchv", "timm/res")) else RECIPES)
]


@pytest.mark.parametrize(("name", "recipe"), PAIRS)
def test_outputs_gradients_and_buffers_are_the_same(name, recipe):
    unfused, x = network(name, recipe), images(name, 4)
    other = fused_copy(unfused, x)
    sites = 0 if recipe is None and name == "wrn10_1" else NETWORKS[name][1]
    assert ab.fast_path(other).taken == sites
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1", "timm/regnetx_002"])
@MODES
def test_channels_last_is_the_same_and_stays_channels_last(name, training):
    unfused, x = network(name), images(name, 4).contiguous(memory_format=torch.channels_last)
    unfused.to(memory_format=torch.channels_last)
    other = fused_copy(unfused, x)
    assert_same_pass(unfused.train(training), other.train(training), x)
    seen = {}
    for model in (unfused, other):
        block = model.layer2 if hasattr(model, "layer2") else model.s2
        handle = block.register_forward_hook(lambda m, a, y, k=model: seen.update({k: y.stride()}))
        model(x)
        handle.remove()
    assert seen[other] == seen[unfused]


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_training_goes_the_same_way(name, recipe):
    unfused, x = network(name, recipe), images(name, 4)
    other = fused_copy(unfused, x)
    for model in (unfused, other):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn_like(x)), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
    for (key, value), again in zip(
        unfused.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(again, value, rtol=1e-7, atol=1e-8, msg=key)


@pytest.mark.parametrize(("name", "norms"), [("resnet8", nullcontext), ("wrn10_1", BatchNormMode)])
def test_a_compiled_fused_network_is_the_same(name, norms):
    unfused, x = network(name), images(name, 4)
    other = fused_copy(unfused, x)
    compiled = torch.compile(other, backend="aot_eager", dynamic=False)
    for training in (True, False):
        unfused.train(training)
        other.train(training)
        with norms():
            y, grads = run(compiled, x)
        expected, others = run(unfused, x)
        assert_close(y, expected)
        for name, grad in others.items():
            got = grads["input" if name == "input" else f"_orig_mod.{name}"]
            torch.testing.assert_close(got, grad, rtol=1e-8, atol=1e-9, msg=name)
        assert_same_buffers(unfused, other)


def test_a_fused_network_is_one_graph():
    other = fused_copy(network(), images(n=4)).train()
    y = torch.compile(other, backend="aot_eager", fullgraph=True)(images(n=4))
    assert y.isfinite().all()


@pytest.mark.parametrize("fused_first", [False, True])
def test_compiling_plain_boosted_and_fused_ones_keeps_them_apart(fused_first):
    x = images(n=4)
    boosted = network().eval()
    bare = ab.unboost(copy.deepcopy(boosted))
    models = [bare, fused_copy(bare, x), boosted, fused_copy(boosted, x)]
    assert not torch.allclose(bare(x), boosted(x), rtol=1e-2)
    order = models[::-1] if fused_first else models
    with torch.no_grad():
        for _ in range(2):
            for model in order:
                got = torch.compile(model, backend="eager")(x)
                expected = bare(x) if model in models[:2] else boosted(x)
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_export_and_trace(name, recipe):
    unfused, x = network(name, recipe).eval(), images(name, 4)
    other = fused_copy(unfused, x)
    expected = unfused(x).detach()
    program = torch.export.export(other, (x,))
    torch.testing.assert_close(program.module()(x).detach(), expected, **CLOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(other, (x,))
    torch.testing.assert_close(traced(x).detach(), expected, **CLOSE)
    torch.testing.assert_close(traced(x[:2]).detach(), expected[:2], **CLOSE)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_gates_come_off_and_go_on_again(name):
    model, x = network(name).eval(), images(name, 4)
    bare = ab.unboost(copy.deepcopy(model))
    other = fused_copy(model, x)
    with ab.disabled(other):
        torch.testing.assert_close(other(x), bare(x), **CLOSE)
    torch.testing.assert_close(other(x), model(x), **CLOSE)
    ab.unboost(other)
    assert attached(other) == {}
    assert_same_pass(bare.train(), other.train(), x)
    ab.boost(other, "ab", example=x[:1])
    ab.boost(bare, "ab", example=x[:1])
    bare.load_state_dict(other.state_dict())
    assert_same_pass(bare, other, x)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_a_fused_network_can_be_boosted(name):
    bare, x = network(name, None), images(name, 4)
    other = fused_copy(bare, x)
    ab.boost(other, "ab", example=x[:1])
    ab.boost(bare, "ab", example=x[:1])
    bare.load_state_dict(other.state_dict())
    assert_same_pass(bare.train(), other.train(), x)


def test_saved_gates_are_those_of_the_plain_network(tmp_path):
    torch.manual_seed(1)
    base = network(recipe=None)
    x = images(n=4)
    unfused = ab.boost(copy.deepcopy(base), "ab", example=x[:1]).eval()
    other = fused_copy(unfused, x).eval()
    ab.save(other, tmp_path / "fused")
    ab.save(unfused, tmp_path / "plain")
    names = ["booster.json", "booster.safetensors"]
    for name in names:
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    again = ab.load(copy.deepcopy(base), tmp_path / "fused").eval()
    assert torch.equal(again(x), unfused(x))
    onto = ab.load(fused_copy(base, x), tmp_path / "fused").eval()
    torch.testing.assert_close(onto(x), unfused(x), **CLOSE)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_plan_and_complexity_see_the_same(name):
    side = NETWORKS[name][0]
    bare = ab.create_model(name, input_size=(3, side, side)).eval()
    example = torch.zeros(1, 3, side, side)
    other = ab.fuse(copy.deepcopy(bare), example=example)
    assert str(ab.plan(other, example=example)) == str(ab.plan(bare, example=example))
    boosted = ab.boost(copy.deepcopy(bare), "ab", example=example)
    other = ab.fuse(copy.deepcopy(boosted), example=example)
    size = (3, side, side)
    found, expected = (ab.complexity(m, input_size=size) for m in (other, boosted))
    assert found.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (fused_copy, "fused already; ab.unfuse"),
        (lambda m, x: ab.fold(m.eval(), example=x), "folded already"),
        (lambda m, x: torch.compile(m, backend="eager"), "compile.* first"),
        (lambda m, x: nn.DataParallel(m), r"model\.module"),
        (lambda m, x: 3, "expected an nn.Module"),
    ],
)
def test_what_cannot_be_fused_is_refused(wrap, words):
    x = images(n=4)
    with pytest.raises(ValueError, match=words):
        ab.fuse(wrap(network(), x), example=x[:1])


def test_what_is_not_fused_cannot_be_unfused():
    x = images(n=4)
    model = network().eval()
    for other in (model, ab.fold(model, example=x)):
        with pytest.raises(ValueError, match="not fused"):
            ab.unfuse(other)
    with pytest.raises(ValueError, match=r"cannot take an image \[1, 4, 12, 12\]"):
        ab.fuse(model, example=torch.zeros(1, 4, 12, 12))
    assert not any(isinstance(m, Fused) for m in model.modules())


class Deep(ResidualBlock):
    """Stochastic depth: in training mode something stands between the norm and the sum."""

    def __init__(self):
        super().__init__()
        self.drop = StochasticDepth(0.5, "row")

    def branch(self, x):
        return self.drop(super().branch(x))


def seeded(model):
    def forward(x):
        torch.manual_seed(7)
        return model(x)

    forward.named_parameters, forward.zero_grad = model.named_parameters, model.zero_grad
    forward.named_buffers = model.named_buffers
    return forward


def test_stochastic_depth_of_torchvision():
    unfused, other, x = pair(ResidualNet(Deep(), Deep()), n=8)
    assert ab.fast_path(other).taken == 2
    for training in (True, False):
        assert_same_pass(seeded(unfused.train(training)), seeded(other.train(training)), x)


def test_drop_path_of_timm():
    unfused = network("timm/resnet26", drop_path_rate=0.5)
    x = images("timm/resnet26", 8)
    other = fused_copy(unfused, x)
    assert_same_pass(seeded(unfused.train()), seeded(other.train()), x)
