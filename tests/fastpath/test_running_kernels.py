"""Reports say which kernels run now, whatever a folded network went through since."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import accuracy_booster as ab
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.ops import backend, packed_conv

reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")
INSIDE, OUTSIDE = "the gate inside the convolution's kernel", "the gate from the mean of its output"


@pytest.fixture
def folded():
    torch.manual_seed(0)
    model = ab.create_model("resnet8", block="ab", num_classes=3).eval()
    return ab.fold(model, example=torch.randn(2, 3, 8, 8), kernel="on")


def packed(folded):
    return sum(conv.packed for conv in ab.fast_path(folded).convolutions)


def hows(folded):
    report = ab.fast_path(folded)
    return {place.how for place in report.places}, {c.how for c in report.convolutions}


def runs_in_ours(folded, x):
    """How many convolutions take our kernel in a pass without gradients."""
    with torch.no_grad(), torch.profiler.profile() as seen:
        folded(x)
    return sum(e.name == "accuracy_booster::packed_conv" for e in seen.events())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_converted_network_runs_in_torchs_kernel(folded, dtype):
    assert packed(folded) == 7
    folded.to(dtype)
    name = str(dtype).removeprefix("torch.")
    why = f"its weights are {name}, and our kernel takes float32"
    assert hows(folded) == ({OUTSIDE}, {why})
    report = ab.fast_path(folded)
    assert report.summary().endswith(f"; 0 of 7 convolutions run in our kernel: {why}")
    assert str(report).count(OUTSIDE) == 3
    folded.float()
    assert packed(folded) == 7
    assert hows(folded)[0] == {INSIDE}


def test_the_report_is_what_the_profile_shows(folded):
    x = torch.randn(2, 3, 8, 8)
    assert runs_in_ours(folded, x) == packed(folded) == 7
    folded.double()
    assert runs_in_ours(folded, x.double()) == packed(folded) == 0


def test_other_causes(folded):
    gated = folded.layer1[0].conv2
    gated.conv.double()
    mixed = f"{INSIDE}, or from the mean of its output where torch's kernel runs"
    assert hows(folded)[0] == {mixed}
    gated.conv.float()
    with backend.using("unfused"):
        assert packed(folded) == 0
    with torch.autocast("cpu"):
        assert "autocast" in ab.fast_path(folded).summary()
    parametrize.register_parametrization(folded.layer1[0].conv1, "weight", nn.Identity())
    folded.layer2[0].conv1 = nn.Conv2d(16, 32, 3)
    del folded.layer3
    folded.conv1.to("meta")
    gated.conv.available = False  # as in a process without a compiler
    how = {c.name: c.how for c in ab.fast_path(folded).convolutions if not c.packed}
    assert how == {
        "conv1": "its weights are on meta, and our kernel runs on the CPU",
        "layer1.0.conv1": "its weight is parametrised",
        "layer1.0.conv2.conv": "it was loaded where our kernel cannot be compiled",
        "layer2.0.conv1": "a Conv2d took its place",
        "layer3.0.conv1": "it is no longer in the network",
        "layer3.0.conv2.conv": "it is no longer in the network",
    }


def test_a_gate_whose_convolution_is_read_leaves_the_kernel(folded):
    for module in folded.modules():
        if isinstance(module, PackedConv2d):
            module.register_forward_hook(lambda *_: None)
    assert packed(folded) == 7
    assert hows(folded)[0] == {OUTSIDE}
