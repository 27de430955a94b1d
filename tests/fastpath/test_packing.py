"""Which convolutions of a folded network run in our kernel, and that they compute the same."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support import gated_networks
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath import packing
from accuracy_booster.fastpath.folded_modules import GatedConv
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.ops import native_code, packed_conv, winograd

reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
needs_kernel = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")


def network(block="ab", name="resnet8"):
    """A network in eval mode whose norms have statistics of their own, and images."""
    torch.manual_seed(0)
    model = ab.create_model(name, block=block, num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval(), torch.randn(2, 3, 16, 16)


def packed(folded):
    return [name for name, m in folded.named_modules() if isinstance(m, PackedConv2d)]


@needs_kernel
@pytest.mark.parametrize("block", [None, "ab", "ab_plus", "se", "eca", "cbam"])
@torch.no_grad()
def test_every_convolution_may_run_in_the_kernel(block):
    model, x = network(block)
    folded = ab.fold(model, example=x, kernel="on", verify=True)
    convs = [m for m in folded.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    blocks = {"cbam": 3}  # its own convolutions over two channels stay
    assert len(packed(folded)) >= len(convs) - blocks.get(block, 0)
    assert torch.allclose(folded(x), model(x), rtol=1e-4, atol=1e-5)
    report = ab.fast_path(folded)
    assert [c.name for c in report.convolutions if c.packed] == packed(folded)


@needs_kernel
@torch.no_grad()
def test_gates_of_single_channels_are_computed_in_the_kernel():
    model, x = network("ab")
    folded = ab.fold(model, example=x, kernel="on")
    gates = [m for m in folded.modules() if isinstance(m, GatedConv)]
    assert {gate.form for gate in gates} == {"kernel"}
    assert all("inside the convolution's kernel" in s.how for s in ab.fast_path(folded).places)


@needs_kernel
@torch.no_grad()
def test_a_gate_stays_right_where_the_kernel_does_not_run(monkeypatch):
    model, x = network("ab")
    monkeypatch.setattr(packing, "_best", lambda *_, **__: packing.TORCH)
    folded = ab.fold(model, example=x, verify=True)
    assert not packed(folded)
    assert {m.form for m in folded.modules() if isinstance(m, GatedConv)} <= {"input", "output"}
    assert not any("kernel" in site.how for site in ab.fast_path(folded).places)


@needs_kernel
@torch.no_grad()
def test_forms_are_timed_and_the_times_kept():
    model, x = network("ab")
    folded = ab.fold(model, example=x)
    report = ab.fast_path(folded)
    assert {len(conv.milliseconds) for conv in report.convolutions} == {5, 11}
    for conv in report.convolutions:
        layer = folded.get_submodule(conv.name)
        winograds = packing.WINOGRAD if winograd.takes(layer) else {}
        ours = {*packing.SCHEDULES, *winograds}
        assert conv.milliseconds.keys() == {"torch", *ours}
        assert all(t > 0 for t in conv.milliseconds.values())
        assert conv.packed == (conv.how in ours)
        assert not conv.packed or layer.schedule == (packing.SCHEDULES | winograds)[conv.how]
    assert report.to_dict()["convolutions"][0]["milliseconds"]


@needs_kernel
def test_timing_draws_no_random_numbers():
    model, x = network("ab")
    before = torch.get_rng_state()
    ab.fold(model, example=x)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_timing_decides():
    ours = dict.fromkeys(packing.SCHEDULES, 1.0)
    assert packing._best({"torch": 1.04, **ours}, gated=False) == "torch"
    assert packing._best({"torch": 1.07, **ours}, gated=False) in ours
    assert packing._best({"torch": 1.01, **ours}, gated=True) in ours
    assert packing._best({"torch": 0.9, **ours}, gated=True) == "torch"
    assert packing._best({**ours, "by panels": 0.5}, gated=False) == "by panels"
    winograds = dict.fromkeys(packing.WINOGRAD, 0.8) | {"Winograd 4x4": 0.7}
    assert packing._best({"torch": 0.9, **ours, **winograds}, gated=False) == "Winograd 4x4"


def test_off_and_other_words():
    model, x = network("ab")
    folded = ab.fold(model, example=x, kernel="off")
    assert not packed(folded)
    assert ab.fast_path(folded).convolutions == []
    with pytest.raises(ValueError, match="unknown kernel 'never'; known: auto, off, on"):
        ab.fold(model, example=x, kernel="never")


@torch.no_grad()
def test_a_machine_without_a_compiler_is_told_and_computes(monkeypatch):
    monkeypatch.setattr(native_code, "load", lambda name: "no C++ compiler was found")
    model, x = network("ab")
    folded = ab.fold(model, example=x, verify=True)
    report = ab.fast_path(folded)
    assert not packed(folded)
    assert {c.how for c in report.convolutions} == {"no C++ compiler was found"}
    assert "no C++ compiler was found" in report.summary()
    with pytest.warns(UserWarning, match="kernel='on', but torch computes every .*no C"):
        ab.fold(model, example=x, kernel="on")


@needs_kernel
@torch.no_grad()
def test_hooks_shared_layers_and_other_types_stay():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.once = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 1)
            self.hooked = nn.Conv2d(8, 8, 1)
            self.deep = nn.Conv2d(8, 8, 3, groups=8)

        def forward(self, x):
            return self.deep(self.hooked(self.once(self.twice(self.twice(x)))))

    model = Twice().eval()
    x = torch.randn(1, 4, 6, 6)
    model.hooked.register_forward_hook(lambda *_: None)
    folded = ab.fold(model, example=x, kernel="on")
    assert packed(folded) == ["once"]
    how = {c.name: c.how for c in ab.fast_path(folded).convolutions}
    assert how["twice"] == "it does not run once on one map"
    assert how["hooked"] == "a hook reads it"
    assert "depthwise" in how["deep"]
    assert torch.allclose(folded(x), model(x), atol=1e-5)
    assert not packed(ab.fold(model.double(), example=x.double()))


class Changed(nn.Module):
    """A residual branch whose last convolution's input may be changed after it ran."""

    def __init__(self, changes):
        super().__init__()
        self.changes = changes
        self.first, self.conv, self.norm = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), bn(16)

    def forward(self, x):
        z = torch.relu(self.first(x))
        y = self.norm(self.conv(z))
        if self.changes:
            z.mul_(2)
        return torch.relu(y + x)


def bn(channels):
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


@needs_kernel
@pytest.mark.parametrize("changes", [False, True])
@torch.no_grad()
def test_an_input_that_is_changed_before_the_sum(changes):
    torch.manual_seed(0)
    model = ab.boost(Changed(changes).eval(), "ab", example=torch.randn(2, 16, 5, 5))
    x = torch.randn(2, 16, 5, 5)
    folded = ab.fold(model, example=x, kernel="on")
    assert len(packed(folded)) == 2
    assert torch.allclose(folded(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-5)


@needs_kernel
@torch.no_grad()
def test_a_hook_on_the_convolution_of_a_gate_sees_its_own_output():
    model, x = network("ab")
    folded = ab.fold(model, example=x, kernel="on")
    other = ab.fold(model, example=x, kernel="off")
    seen = []
    for network_ in (folded, other):
        gate = next(m for m in network_.modules() if isinstance(m, GatedConv))
        gate.conv.register_forward_hook(lambda m, i, o: seen.append(o))
    assert torch.allclose(folded(x), other(x), rtol=1e-4, atol=1e-5)
    assert torch.allclose(*seen, rtol=1e-4, atol=1e-5)


@pytest.fixture
def forced(monkeypatch):
    """A function that lets every convolution run in one form, where it has that, and all be timed.

    A network is then folded to that form; the times decide nothing.
    """
    monkeypatch.setattr(packing, "SECONDS", 0.0)

    def force(how):
        def best(times, **_):
            return how if how in times else packing.BY_NAME

        monkeypatch.setattr(packing, "_best", best)

    return force


def exact_network(block, seed=0):
    """A network of basic blocks with gates far from the identity, in float64; the same in float32.

    Its gates stand after 3x3 convolutions with stride 1.
    """
    torch.manual_seed(seed)
    model = gated_networks.network("resnet8", block)
    return model, copy.deepcopy(model).float(), gated_networks.images("resnet8", 3)


@torch.no_grad()
def error(found, model, x):
    """The largest difference to a network in float64, of its largest output."""
    truth = model(x)
    return float((found - truth).abs().max() / truth.abs().max())


def forms(folded):
    """The schedules of the 3x3 convolutions with stride 1, of which each must be packed."""
    layers = [m for m in folded.modules() if isinstance(m, nn.Conv2d) and winograd.takes(m)]
    assert len(layers) == 5
    return {m.schedule for m in layers}


@needs_kernel
@pytest.mark.parametrize("block", [None, "ab", "ab_plus", "se", "eca"])
@pytest.mark.parametrize("how", packing.WINOGRAD)
@torch.no_grad()
def test_a_network_in_winograds_form_is_the_network(how, block, forced):
    model, single, x = exact_network(block)
    forced(how)
    folded = ab.fold(single, example=x[:1].float())
    assert forms(folded) == {packing.WINOGRAD[how]}
    assert error(folded(x.float()), model, x) < 1e-5
    gates = [m for m in folded.modules() if isinstance(m, GatedConv)]
    assert len(gates) == (0 if block is None else 3)
    assert "kernel" not in {m.form for m in gates}
    told = {c.how for c in ab.fast_path(folded).convolutions if c.packed}
    assert told == {how, packing.BY_NAME}


@needs_kernel
@torch.no_grad()
def test_gates_before_winograds_form_read_the_input(forced):
    _, single, x = exact_network("ab")
    forced("Winograd 4x4")
    folded = ab.fold(single, example=x[:1].float())
    assert {m.form for m in folded.modules() if isinstance(m, GatedConv)} == {"input"}
    how = {site.how for site in ab.fast_path(folded).places}
    assert how == {"the gate from the mean of the convolution's input"}
    seen = operators(lambda: folded(x.float()))
    assert {"accuracy_booster::gate_of_map", "accuracy_booster::packed_conv"} <= seen


@needs_kernel
@torch.no_grad()
def test_copies_in_winograds_form_and_other_weights(forced):
    model, single, x = exact_network("ab")
    forced("Winograd 4x4, by panels")
    folded = ab.fold(single, example=x[:1].float())
    y = folded(x.float())
    for again in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert forms(again) == forms(folded)
        assert torch.equal(again(x.float()), y)
        other, single, _ = exact_network("ab", seed=1)
        again.load_state_dict(ab.fold(single, example=x[:1].float()).state_dict())
        assert error(again(x.float()), other, x) < 1e-5
        assert error(again(x.float()), model, x) > 1e-2
    assert torch.equal(folded(x.float()), y)


@needs_kernel
@torch.no_grad()
def test_winograds_form_in_a_compiled_network(forced):
    model, single, x = exact_network("ab")
    forced("Winograd 4x4")
    folded = ab.fold(single, example=x.float())
    torch._dynamo.reset()
    run = ab.compile_for_inference(folded, x.float())
    assert error(run(x.float()), model, x) < 1e-5
    seen = operators(lambda: run(x.float()))
    assert {"accuracy_booster::gate_of_map", "accuracy_booster::packed_conv_onto"} <= seen
    assert not {name for name in seen if "convolution" in name}


def operators(call):
    """The names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    return {event.name for event in seen.events()}
