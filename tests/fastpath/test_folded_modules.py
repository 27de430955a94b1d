"""Both forms of a folded gate compute the gate, whatever the layer and whoever reads the map."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.folded_networks import (
    IN_FLOAT64,
    OneBranch,
    boosted,
    norms_left,
)
from support.fused_networks import BranchModule, ResidualNet
from support.gated_networks import NETWORKS, difference, images, network
from support.ranks import Block, Last
from support.ranks import boosted as boosted_on_ranks
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.layers import ChannelConv1d, Dense
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.fold_algebra import fold_gate
from accuracy_booster.fastpath.folded_modules import FoldedGate, GatedConv2d, Scale
from accuracy_booster.fastpath.packed_modules import GateWeights, PackedConv2d
from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import Schedule

pytestmark = WARNINGS_ARE_ERRORS
reason = packed_conv.why_not(nn.Conv2d(1, 1, 3))
needs_kernel = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")


@pytest.mark.parametrize("name", ["resnet8", "preact11", "timm/regnetx_002", "shufflenet_g3"])
def test_both_forms_are_the_network(name, form):
    """Grouped and pointwise convolutions too, of other batches and sizes than the example's."""
    model, x = network(name), images(name)
    folded = ab.fold(model, example=x[:1])
    gates = [m for m in folded.modules() if isinstance(m, GatedConv2d)]
    assert len(gates) == NETWORKS[name][1]
    assert all(m.form == form for m in gates)
    side = x.shape[2]
    for n, height, width in ((1, side, side), (5, side, side), (2, side + 9, side + 16)):
        given = torch.randn(n, 3, height, width, dtype=torch.float64)
        assert difference(model, folded, given) < IN_FLOAT64


CONVS = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x3 dilated": {"kernel_size": (5, 3), "padding": (4, 1), "dilation": (2, 1)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8},
    "grouped 1x1": {"kernel_size": 1, "groups": 4},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "same": {"kernel_size": 3, "padding": "same"},
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recipe", ["ab", "ab_g2", "se", "eca"])
@pytest.mark.parametrize("conv", CONVS)
def test_every_kind_of_convolution(conv, recipe, bias, form):
    model, x = boosted(OneBranch(nn.Conv2d(8, 8, bias=bias, **CONVS[conv])), recipe)
    folded = ab.fold(model, example=x[:1])
    assert ab.fast_path(folded).taken == 1
    for given in (x, torch.randn(1, 3, 2, 9, dtype=torch.float64)):
        assert difference(model, folded, given) < IN_FLOAT64
    assert norms_left(folded) == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(layout, form):
    model, x = network("resnet8"), images("resnet8")
    folded = ab.fold(model.to(memory_format=layout), example=x[:1])
    assert difference(model, folded, x.contiguous(memory_format=layout)) < IN_FLOAT64


class Apart(OneBranch):
    """The same as a pair, so that nothing but the caller reads the convolution's output."""

    def forward(self, x):
        x = self.stem(x)
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.head(F.relu(self.bn2(z) + x).mean((2, 3))), z


class Sum(OneBranch):
    """The sum before the ReLU, and the branch, are returned too."""

    def forward(self, x):
        x = self.stem(x)
        y = self.branch(x)
        total = y + x
        return self.head(F.relu(total).mean((2, 3))), total, y


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("build", [Apart, Sum])
def test_maps_that_are_returned_stay_right(build, recipe, form):
    model, x = boosted(build(), recipe)
    folded = ab.fold(model, example=x[:1])
    with torch.no_grad():
        for found, expected in zip(folded(x), model(x), strict=True):
            assert isinstance(found, torch.Tensor)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["branch", "path"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_on_what_hands_the_map_on_see_tensors(name, when, form):
    model, x = boosted(ResidualNet(BranchModule()), where=["blocks.0.branch.4"])
    seen = []

    def register(network):
        network.get_submodule(f"blocks.0.{name}").register_forward_hook(
            lambda m, a, y: seen.append(y)
        )

    if when == "before":
        register(model)
    folded = ab.fold(model, example=x[:1])
    assert ab.fast_path(folded).taken == 1
    if when == "after":
        register(model)
        register(folded)
    seen.clear()
    assert difference(model, folded, x) < IN_FLOAT64
    torch.testing.assert_close(*seen, rtol=1e-10, atol=1e-11)


def test_a_branch_that_is_a_module_copies(form):
    model, x = boosted(ResidualNet(BranchModule()), where=["blocks.0.branch.4"])
    fused = ab.fuse(copy.deepcopy(model), example=x[:1])
    for other in (fused, ab.fold(model, example=x[:1])):
        for again in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
            seen = []
            again.blocks[0].branch.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y))
            assert difference(model, again, x) < IN_FLOAT64
            assert isinstance(seen[0], torch.Tensor)
            assert list(again.state_dict()) == list(other.state_dict())
            assert len(list(again.modules())) == len(list(other.modules()))


@pytest.mark.parametrize("recipe", ["ab", "se", "eca", "ab_g2"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [0, 1, 3])
def test_folded_networks_compute_the_same(dims, kind, kernel, recipe):
    net, x = boosted_on_ranks(dims, kernel, recipe, kind, bias=True)
    net.eval()
    folded = ab.fold(net, example=x, verify=True)
    assert ab.fast_path(folded).taken == 2, str(ab.fast_path(folded))
    assert not [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    grads = []
    for model in (net, folded):  # of the input, for saliency maps
        given = x.clone().requires_grad_()
        model(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dims", [1, 3])
def test_both_forms_of_a_folded_gate(dims, form):
    net, x = boosted_on_ranks(dims, 3, "ab_plus", bias=True)
    folded = ab.fold(net.eval(), example=x)
    assert f"form={form}" in str(folded)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)


STAGES = {  # of 8 channels, after a 3x3 convolution of 6; those that have a form in the operator
    "a row": lambda: [Scale(torch.randn(54), torch.randn(54))],
    "a matrix": lambda: [nn.Linear(54, 8)],
    "a matrix without a bias": lambda: [nn.Linear(54, 8, bias=False)],
    "two": lambda: [nn.Linear(54, 3), nn.Linear(3, 8)],
    "three": lambda: [nn.Linear(54, 5), dense(5, 5, 5), dense(5, 8, 1)],
}
WITHOUT_FORM = {
    "grouped": lambda: [nn.Linear(54, 8), dense(8, 8, 2)],
    "eca": lambda: [ChannelConv1d(3, bias=False, init="default")],
    "eca after a matrix": lambda: [nn.Linear(54, 8), ChannelConv1d(3, bias=True, init="default")],
    "float64": lambda: [nn.Linear(54, 8).double()],
}


def dense(c, k, groups):
    return Dense(c, k, groups=groups, bias=True, init="default")


def packed_3x3(outputs=4, **options):
    conv = nn.Conv2d(6, 8, 3, **{"padding": 1, **options})
    return PackedConv2d(conv, Schedule(28, 1, outputs))


@needs_kernel
@pytest.mark.parametrize("outputs", [0, 2, 4])
@pytest.mark.parametrize("what", STAGES)
def test_a_gate_from_the_map_is_the_gate(what, outputs):
    gate, h = FoldedGate(STAGES[what](), 2.0), torch.randn(3, 6, 5, 7)
    conv = packed_3x3(outputs)
    means = F.unfold(h, 3, padding=1).mean(2)
    with torch.no_grad():
        torch.testing.assert_close(gate.of_map(h, conv), gate(means), rtol=1e-5, atol=1e-6)
    assert gate.of_map(h, conv) is None, "somebody wants gradients"
    gate.requires_grad_(False)
    torch.testing.assert_close(gate.of_map(h, conv), gate(means), rtol=1e-5, atol=1e-6)


@needs_kernel
@torch.no_grad()
def test_gates_without_a_form_in_the_operator():
    h = torch.randn(3, 6, 5, 7)
    for what, build in WITHOUT_FORM.items():
        assert FoldedGate(build(), 1.0).of_map(h, packed_3x3()) is None, what
    strided = packed_3x3(0, stride=2)
    assert FoldedGate([nn.Linear(54, 8)], 1.0).of_map(h, strided) is None


@needs_kernel
@pytest.mark.parametrize("stages", [STAGES["two"], WITHOUT_FORM["grouped"]])
def test_a_gated_convolution_in_winograds_form(stages):
    gate, h = FoldedGate(stages(), 1.0), torch.randn(3, 6, 5, 7)
    conv = packed_3x3().requires_grad_(False)
    gated = GatedConv2d(conv, gate, "input", Epilogue())
    means = F.unfold(h, 3, padding=1).mean(2)
    expected = conv._in_steps(h, GateWeights(gate(means)), None, None, None)
    with torch.no_grad():
        torch.testing.assert_close(gated(h), expected, rtol=1e-5, atol=1e-5)
    # gradients of the gate alone, whose convolution is frozen
    found = torch.autograd.grad(gated(h).square().sum(), list(gate.parameters()))
    truth = torch.autograd.grad(expected.square().sum(), list(gate.parameters()))
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


@needs_kernel
@torch.no_grad()
@pytest.mark.parametrize("form", ["input", "kernel"])
def test_hooks_on_a_gate_see_its_weights(form):
    conv = nn.Conv2d(6, 8, 1)
    stage = nn.Linear(6, 8) if form == "input" else Scale(torch.ones(8), torch.zeros(8))
    gate, h = FoldedGate([stage], 1.0), torch.randn(3, 6, 5, 7)
    gated = GatedConv2d(PackedConv2d(conv, Schedule(14)), gate, form, Epilogue())
    expected, seen = gated(h), []
    gate.register_forward_hook(lambda _gate, _means, p: seen.append(p))
    torch.testing.assert_close(gated(h), expected, rtol=1e-5, atol=1e-6)
    assert [p.shape for p in seen] == [(3, 8)]


def test_rows_are_those_of_a_gate_of_single_channels():
    row = Scale(torch.randn(8), torch.randn(8))
    assert torch.equal(
        FoldedGate([row], 2.0).rows(), torch.stack([row.weight, row.bias, torch.full((8,), 2.0)])
    )
    assert FoldedGate([nn.Linear(8, 8)], 1.0).rows() is None
    assert FoldedGate([row, row], 1.0).rows() is None
    conv, gate = nn.Conv2d(6, 8, 3), ab.Recalibrate(8, "ab").eval()
    assert fold_gate(conv, gate, "output").rows().shape == (3, 8)
    assert fold_gate(conv, gate, "input").rows() is None


@pytest.mark.parametrize("block", ["ab", "se"])
def test_a_folded_network_in_half_precision(block):
    x = torch.randn(2, 3, 16, 16)
    model = ab.create_model("resnet8", block=block).eval()
    folded = ab.fold(model, example=x)
    with torch.no_grad():
        truth = folded(x)
        found = folded.half()(x.half())
    assert found.dtype == torch.float16
    assert (found - truth).abs().max() < 0.02 * truth.abs().max()
