"""A packed convolution computes what its layer does, wherever it goes."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
import torch.nn.utils.prune
from torch import fx, nn

from accuracy_booster.fastpath.packed_modules import GateWeights, PackedConv2d
from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import BY_POSITIONS

reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")
OPERATOR = "accuracy_booster::packed_conv"


def layers():
    """A layer, the same packed, and a map."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 20, 3, padding=1)
    return conv, PackedConv2d(conv, BY_POSITIONS), torch.randn(2, 6, 5, 7)


def operators(call):
    """The names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    return {event.name for event in seen.events()}


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_it_is_the_layer():
    conv, packed, x = layers()
    assert isinstance(packed, nn.Conv2d)
    assert packed.state_dict().keys() == conv.state_dict().keys()
    assert packed.state_dict()._metadata == conv.state_dict()._metadata
    assert packed.weight is conv.weight
    assert close(packed(x), conv(x))
    assert OPERATOR in operators(lambda: packed(x))
    assert repr(packed) == (
        "PackedConv2d(6, 20, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), packed)"
    )


@pytest.mark.parametrize("how", ["gate", "scale"])
@torch.no_grad()
def test_gate_shortcut_and_relu_in_the_kernel_and_in_steps(how):
    conv, packed, x = layers()
    y = conv(x)
    shortcut, gate = torch.randn(y.shape), torch.randn(3, 20)
    scale = gate[2] * torch.sigmoid(gate[0] * y.mean((2, 3)) + gate[1])
    expected = (y * scale[:, :, None, None] + shortcut).relu()
    means = torch.nn.functional.unfold(x, 3, padding=1).mean(2)  # [N, C * taps]
    means = means.unflatten(1, (6, 9)).transpose(1, 2).flatten(1)
    weights = GateWeights(gate=gate, means=means) if how == "gate" else GateWeights(scale)
    assert close(packed(x, weights, shortcut, 0.0), expected)
    assert close(packed._in_steps(x, weights, shortcut, 0.0, None), expected)
    assert close(packed.onto(shortcut, x, weights, 0.0), expected)
    assert close(shortcut, expected)


CHANGES = {
    "in place": lambda m: m.weight.mul_(2),
    "another parameter": lambda m: setattr(m, "weight", nn.Parameter(m.weight * 2)),
    "other data": lambda m: setattr(m.weight, "data", m.weight * 2),
    "a vector": lambda m: nn.utils.vector_to_parameters(
        2 * nn.utils.parameters_to_vector(m.parameters()), m.parameters()
    ),
    "pruned": lambda m: nn.utils.prune.l1_unstructured(m, "weight", 0.5),
    "parametrized": lambda m: nn.utils.parametrizations.weight_norm(m),
}


@pytest.mark.parametrize("how", CHANGES)
@torch.no_grad()
def test_changed_weights_are_seen(how):
    _, packed, x = layers()
    packed(x)
    plain = nn.Conv2d(6, 20, 3, padding=1)
    plain.load_state_dict(packed.state_dict())
    for module in (packed, plain):
        CHANGES[how](module)
    assert close(packed(x), plain(x))


@torch.no_grad()
def test_weights_of_a_call():
    conv, packed, x = layers()
    given = {name: 2 * value for name, value in packed.state_dict().items()}
    assert close(torch.func.functional_call(packed, given, (x,)), 2 * conv(x))
    assert close(packed(x), conv(x))


@torch.no_grad()
def test_a_compiler_that_does_not_freeze_gets_torchs_convolution():
    conv, packed, x = layers()
    compiled = torch.compile(nn.Sequential(packed), backend="aot_eager", fullgraph=True)
    assert OPERATOR not in operators(lambda: compiled(x))
    conv.weight.mul_(2)
    assert close(compiled(x), conv(x))


def test_forward_mode_gradients():
    conv, packed, x = layers()
    conv.requires_grad_(False)
    _, expected = torch.func.jvp(conv, (x,), (torch.ones_like(x),))
    _, found = torch.func.jvp(packed, (x,), (torch.ones_like(x),))
    assert close(found, expected)


@torch.no_grad()
def test_changed_weights_are_packed_anew():
    _, packed, x = layers()
    other = nn.Conv2d(6, 20, 3, padding=1)
    packed.load_state_dict(other.state_dict())
    assert close(packed(x), other(x))
    assert close(copy.deepcopy(packed)(x), other(x))


@torch.no_grad()
def test_a_file_holds_the_weights_once():
    conv, packed, x = layers()
    file = io.BytesIO()
    torch.save(packed, file)
    plain = io.BytesIO()
    torch.save(conv, plain)
    assert len(file.getvalue()) < len(plain.getvalue()) + 2000
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert close(loaded(x), conv(x))
    assert OPERATOR in operators(lambda: loaded(x))


NEW_PROCESS = """
import sys, torch
network, x, y = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad(), torch.profiler.profile() as seen:
    assert torch.allclose(network(x), y, rtol=1e-5, atol=1e-6)
print(*{event.name for event in seen.events()}, sep="\\n")
"""


@torch.no_grad()
@pytest.mark.parametrize("compiler", ["", "no-such-compiler"])
def test_in_a_new_process(tmp_path, monkeypatch, compiler):
    _, packed, x = layers()
    torch.save((packed, x, packed(x)), tmp_path / "network.pt")
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    command = [sys.executable, "-c", NEW_PROCESS, str(tmp_path / "network.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (OPERATOR in done.stdout) == (not compiler)


def test_with_gradients_and_other_types_torch_computes():
    conv, packed, x = layers()
    y = packed(x)
    y.sum().backward()
    assert conv.weight.grad is not None
    assert OPERATOR not in operators(lambda: packed(x))
    with torch.no_grad():
        assert close(packed.double()(x.double()).float(), y)
        packed.float()
        assert close(packed(x), y)


def test_in_inference_mode():
    with torch.inference_mode():
        conv, packed, x = layers()
        assert close(packed(x), conv(x))
        assert OPERATOR in operators(lambda: packed(x))
    conv, packed, x = layers()
    with torch.inference_mode():
        assert close(packed(x), conv(x))


@torch.no_grad()
def test_exporters_and_tracers_see_a_convolution():
    conv, packed, x = layers()
    exported = torch.export.export(nn.Sequential(packed).eval(), (x,))
    assert "accuracy_booster" not in exported.graph_module.code
    assert close(exported.module()(x), conv(x))
    traced = torch.jit.trace(packed, x)
    assert "packed_conv" not in str(traced.inlined_graph)
    graph = fx.symbolic_trace(nn.Sequential(packed))
    assert close(graph(x), conv(x))
