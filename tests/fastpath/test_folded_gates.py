"""Gates that read the mean of their module's output: every module, layout, copy and compiler."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from support.folded_networks import (
    IN_FLOAT64,
    MEANS,
    OneBranch,
    boosted,
    copied_and_exported,
    norms_left,
)
from support.gated_networks import difference
from support.mean_sites import SITES, EndsIn, network_at
from support.networks import randomise
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import accuracy_booster as ab
from accuracy_booster.fastpath.folded_gates import HOW, MeanGate
from accuracy_booster.fastpath.folded_modules import FoldedGate
from accuracy_booster.ops import affine_reference
from accuracy_booster.surgery import ATTRIBUTE, attached
from accuracy_booster.surgery.gated import gate_of
from accuracy_booster.surgery.gating import add_gate

pytestmark = WARNINGS_ARE_ERRORS


def mean_gates(model):
    return [module for module in model.modules() if isinstance(module, MeanGate)]


@pytest.fixture
def passes(monkeypatch):
    """Whether each pass over a gated map computed (the sum, the ReLU) too, in order."""
    seen = []
    compute = affine_reference.affine

    def affine(z, mean, scale, shift, residual, relu):
        seen.append((residual is not None, relu))
        return compute(z, mean, scale, shift, residual, relu)

    monkeypatch.setattr(affine_reference, "affine", affine)
    return seen


@pytest.mark.parametrize("name", SITES)
def test_every_module_before_a_gate(name, passes):
    model, x, site = network_at(name)
    before = type(model.get_submodule(site))
    folded = ab.fold(model, example=x[:1], verify=True)
    (place,) = ab.fast_path(folded).places
    assert (place.name, place.fast, place.extra_reduction) == (site, True, True)
    assert place.how.startswith(HOW)
    (gate,) = mean_gates(folded)
    assert gate is gate_of(folded.get_submodule(site))[0]
    if site != "bn2":  # that norm is in the convolution
        assert type(folded.get_submodule(site)) is before
    passes.clear()
    for given in (x, torch.randn(1, 3, 9, 4, dtype=torch.float64)):
        assert difference(model, folded, given) < IN_FLOAT64
    assert passes == [(True, True)] * 2 * SITES[name][2]


@pytest.mark.parametrize("name", ["timm's conv, norm, activation", "channels last"])
@pytest.mark.parametrize("recipe", [*ab.list_recipes(), "ab_g2", "ab_g4"])
def test_every_recipe(name, recipe):
    model, x, _ = network_at(name, recipe)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    (place,) = ab.fast_path(folded).places
    fast = recipe in (*MEANS, "ab_g4")
    assert place.fast == place.extra_reduction == fast == bool(mean_gates(folded))
    assert (HOW if fast else "more than each channel's mean") in place.how
    assert norms_left(folded.end) == [] or not fast


WITH_RELU = [
    "gap | dense | relu | dense | sigmoid",
    "gap | relu | dense(groups=C) | bn | sigmoid",
    "gap | dense(groups=C) | relu | bn | sigmoid",
    "gap | bn | relu | sigmoid",
]


@pytest.mark.parametrize("recipe", WITH_RELU)
@pytest.mark.parametrize("site", ["bn2", "conv1", "end"])
def test_recipes_with_a_relu(recipe, site, form):
    """A ReLU stands between two affine maps, whichever map the mean is taken of."""
    model, x = boosted(EndsIn(nn.SiLU()), recipe, where=[site])
    folded = ab.fold(model, example=x[:1])
    (gate,) = [module for module in folded.modules() if isinstance(module, FoldedGate)]
    assert len(gate.stages) == 2
    assert difference(model, folded, x) < IN_FLOAT64


def test_the_norms_inside_a_container_are_folded():
    model, x, _ = network_at("timm's conv, norm, activation")
    folded = ab.fold(model, example=x[:1])
    assert norms_left(folded) == []
    assert folded.end.bn is not None  # the container's own forward reads it


def test_gates_without_an_example():
    model, x, _ = network_at("activation")
    model.float()
    folded = ab.fold(model, verify=True)
    assert ab.fast_path(folded).extra_reductions == 1
    assert difference(model, folded, x.float()) < 1e-5


def test_the_model_itself_does_not_change():
    model, x, site = network_at("activation")
    gate = model.get_submodule(f"{site}.{ATTRIBUTE}.0")
    state = copy.deepcopy(model.state_dict())
    folded = ab.fold(model, example=x[:1])
    assert model.get_submodule(f"{site}.{ATTRIBUTE}.0") is gate
    assert not mean_gates(model)
    with torch.no_grad():
        for value in folded.parameters():
            value.zero_()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["activation", "channels last"])
def test_copies_compilers_and_exporters(name):
    model, x, _ = network_at(name)
    folded = ab.fold(model, example=x[:1])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = model(x)
        for other in copied_and_exported(folded, x):
            torch.testing.assert_close(other(x), y, rtol=1e-10, atol=1e-11)
        again = ab.fold(randomise(copy.deepcopy(model)), example=x[:1])
        again.load_state_dict(folded.state_dict())
        torch.testing.assert_close(again(x), y, rtol=1e-10, atol=1e-11)


def test_torch_fx_records_the_gate_as_one_step():
    model, x, _ = network_at("timm's conv, norm, activation")
    traced = torch.fx.symbolic_trace(ab.fold(model, example=x[:1]))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert f"end.conv.{ATTRIBUTE}.0" in targets


@pytest.mark.parametrize("module", ["end", f"end.{ATTRIBUTE}", f"end.{ATTRIBUTE}.0"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_see_and_change_maps(module, when, passes):
    """On the module, on its gate, and on the gate's one part."""
    model, x, _ = network_at("activation")

    def register(network):
        network.get_submodule(module).register_forward_hook(lambda m, args, y: 3 * y)

    plain = difference(model, model, x)
    register(model)
    folded = ab.fold(model if when == "before" else network_without(model, module), example=x[:1])
    if when == "after":
        register(folded)
    passes.clear()
    assert difference(model, folded, x) < IN_FLOAT64 > plain
    assert passes == []
    is_inside = when == "before" and module.endswith(".0")
    assert ab.fast_path(folded).taken == (0 if is_inside else 1)
    if is_inside:
        assert "a hook reads a layer of its gate" in str(ab.fast_path(folded))


def network_without(model, module):
    """A copy without the hooks of one module."""
    other = copy.deepcopy(model)
    other.get_submodule(module)._forward_hooks.clear()
    return other


def test_a_parametrised_gate_stays():
    model, x, site = network_at("activation")
    weight_norm(model.get_submodule(f"{site}.{ATTRIBUTE}.0.dense"))
    folded = ab.fold(model, example=x[:1])
    (place,) = ab.fast_path(folded).places
    assert (place.fast, place.how) == (False, "a weight of its gate is parametrised")
    assert difference(model, folded, x) < IN_FLOAT64


class SharedGate(EndsIn):
    """Two modules apply the same gate."""

    def __init__(self):
        super().__init__(nn.SiLU())
        self.other = nn.Tanh()

    def forward(self, x):
        x = self.block(self.stem(x))
        return self.head(torch.relu(self.other(self.conv1(x)) + x).mean((2, 3)))


def test_a_gate_that_two_modules_share(passes):
    model, x = boosted(SharedGate(), where=["end"])
    add_gate(model.other, model.end.recalibrate)
    folded = ab.fold(model, example=x[:1])
    assert len(mean_gates(folded)) == 1
    passes.clear()
    assert difference(model, folded, x) < IN_FLOAT64
    assert passes == []  # one epilogue cannot be that of both


def test_disabled_gates_stay_disabled():
    model, x, _ = network_at("activation")
    folded = ab.fold(model, example=x[:1])
    with ab.disabled(model), ab.disabled(folded):
        bare = model(x)
        assert difference(model, folded, x) < IN_FLOAT64
        off = ab.fold(model, example=x[:1])
    assert not torch.allclose(model(x), bare)
    torch.testing.assert_close(off(x), bare)


def test_a_rebuilt_module_gets_its_folded_gate_back():
    model, x, _ = network_at("activation")
    folded = ab.fold(model, example=x[:1])
    (gate,) = attached(folded).values()
    folded._modules["end"] = nn.SiLU().double()
    ab.repair(folded)
    assert folded.end.recalibrate is gate
    assert difference(model, folded, x) < IN_FLOAT64


@pytest.mark.parametrize("scale", [1, 2])
def test_weights_of_a_gate_with_another_scale_are_refused(scale):
    model, x, _ = network_at("activation")
    other, _, _ = network_at("activation", "gap | dense(groups=C) | bn | sigmoid(scale=2)")
    states = [ab.fold(m, example=x[:1]).state_dict() for m in (model, other)]
    target = ab.fold(other if scale == 1 else model, example=x[:1])
    with pytest.raises(RuntimeError, match=rf"end[s]? in {scale} \* sigmoid"):
        target.load_state_dict(states[scale - 1])


def test_maps_of_another_shape_are_refused():
    folded, x, _ = network_at("activation")
    folded = ab.fold(folded, example=x[:1])
    for shape in ((2, 5, 6), (2, 4, 5, 6)):
        with pytest.raises(ValueError, match=r"a gate for 8 channels takes \[N, 8, H, W\], got"):
            folded.end(torch.zeros(shape, dtype=torch.float64))


def test_16_bit_maps_are_weighed_in_32_bits():
    """The sum over space overflows in float16; the weights are those of float64."""
    block = randomise(ab.Recalibrate(4, "ab_plus")).eval()
    exact = copy.deepcopy(block).double()
    x = 200 * torch.rand(2, 4, 30, 30).half()
    model = nn.Sequential(nn.ReLU())
    ab.boost(model, "ab_plus", example=x.float(), where=["0"])
    model[0].recalibrate.load_state_dict(block.state_dict())
    folded = ab.fold(model.half().eval(), example=x)
    (gate,) = mean_gates(folded)
    assert {p.dtype for p in gate.parameters()} == {torch.float32}
    y = folded(x)
    assert y.dtype == torch.float16
    exact.load_state_dict(model[0].recalibrate.state_dict())
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["activation", "timm's conv, norm, activation"])
def test_gradients_for_saliency_maps(name):
    model, x, _ = network_at(name)
    grads = []
    for other in (model, ab.fold(model, example=x[:1])):
        given = x.clone().requires_grad_()
        other(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)


def test_free_gates_and_others_are_told_apart():
    model, x = boosted(EndsIn(nn.SiLU()), where=["bn1", "end"])
    report = ab.fast_path(ab.fold(model, example=x[:1]))
    assert (report.taken, report.extra_reductions) == (2, 1)
    assert [row[1] for row in report.table()[1]] == ["fast", "fast, one more reduction"]
    assert "2 of 2 places take the fast path, 1 of them with one more reduction" in str(report)


class ReadsAttributes(OneBranch):
    """Its forward reads its convolution's attributes, as transformers' MobileNetV2 does."""

    def branch(self, x):
        assert (self.conv2.stride, self.conv2.out_channels) == ((1, 1), 8)
        return super().branch(x)


def test_a_gated_convolution_has_the_attributes_of_the_convolution(form):
    model, x = boosted(ReadsAttributes())
    assert difference(model, ab.fold(model, example=x[:1]), x) < IN_FLOAT64
