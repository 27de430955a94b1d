"""The gate's batch norm sees N values per channel: what happens at each N, and the remedies."""

# N batch, C channels, H W space

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from support.blocks import (
    BATCH_NORM,
    EVERY,
    block,
)

import accuracy_booster as ab
from accuracy_booster.blocks import GateNorm, gate_norm

pytestmark = pytest.mark.filterwarnings("error")
# a batch norm of one value per channel and sample, whatever H and W
VECTOR_NORM = ["ab", "ab_g2", "ab_g4", "ab_plus", "ge_theta_plus_ab", "design_f", "design_g_bn"]
VECTOR_NORM += ["design_h_bn", "design_n", "design_o", "ge_theta_bn", "ge_theta_plus_bn"]
# a batch norm over space too: (h, w) of what it sees, from (H, W)
MAP_NORM = {
    "cbam": lambda h, w: (h, w),
    "dw3_bn": lambda h, w: (h, w),
    "dw9_bn": lambda h, w: (h, w),
    "gather(4, learned=true) | sigmoid": lambda h, w: (math.ceil(h / 4), math.ceil(w / 4)),
}


def refusal(module, x):
    try:
        module(x)
    except ValueError as e:
        return str(e)
    return None


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("text", EVERY)
def test_a_batch_of_one_in_training(text, size):
    m = block(text, size=size).train()
    seen = MAP_NORM[text](*size) if text in MAP_NORM else (2, 2)
    if text not in VECTOR_NORM and math.prod(seen) > 1:
        assert m(torch.randn(1, 32, *size, dtype=torch.float64)).isfinite().all()
        return
    x = torch.randn(1, 32, *size, dtype=torch.float64)
    refused = []
    while error := refusal(m, x):
        assert "batch of 1" in error
        assert "Expected more than 1 value per channel" not in error
        assert "eval mode" in error
        named = re.search(r"the gate (\S+)", error)[1]
        assert named not in refused
        refused.append(named)
        norm = m.get_submodule(named)
        assert isinstance(norm, BATCH_NORM)
        assert norm.num_batches_tracked == 0
        assert (norm.running_mean == 0).all()
        norm.eval()  # the remedy that it names
    assert refused
    assert m(x).isfinite().all()


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("text", EVERY)
def test_small_batches_train(text, batch):
    x = torch.randn(batch, 32, 1, 1, dtype=torch.float64, requires_grad=True)
    y = block(text, size=(1, 1)).train()(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_init_and_arguments_of_bn():
    ones, zeros = (block(f"gap | bn(init={i}) | sigmoid")[0].bn for i in ("ones", "zeros"))
    assert (ones.weight == 1).all()
    assert (zeros.weight == 0).all()
    for norm in (ones, zeros):
        assert (norm.bias == 0).all()
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()
    d = torch.randn(4, 32, dtype=torch.float64) * 0.1
    norm = block("gap | bn(eps=0.5, momentum=0.3) | sigmoid")[0].bn
    expected = (d - d.mean(0)) / (d.var(0, correction=0) + 0.5).sqrt()
    torch.testing.assert_close(norm(d), expected)
    torch.testing.assert_close(norm.running_mean, 0.3 * d.mean(0))
    torch.testing.assert_close(norm.running_var, 0.7 + 0.3 * d.var(0, correction=1))


@pytest.fixture
def warning_due(monkeypatch):
    monkeypatch.setattr(gate_norm.small_batch_warning, "given", False)
    torch.manual_seed(0)


def warned(model, count):
    """How many warnings of small batches a training pass of `count` images gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train()(torch.randn(count, 3, 16, 16))
    return [str(w.message) for w in caught if "batch norm of the gate" in str(w.message)]


@pytest.mark.parametrize("count", [2, 3, 8, 15])
@pytest.mark.usefixtures("warning_due")
def test_one_warning_below_16(count):
    model = ab.create_model("resnet8", block="ab")
    (message,) = warned(model, count)
    assert f"sees {count} values" in message
    assert "layer1.0.bn2.recalibrate.0.bn" in message
    assert warned(model, count) == []
    norm = model.layer1[0].bn2.recalibrate[0].bn
    assert norm.running_var.isfinite().all()
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("count", [16, 33])
@pytest.mark.usefixtures("warning_due")
def test_no_warning_from_16_on(count):
    assert warned(ab.create_model("resnet8", block="ab"), count) == []


@pytest.mark.usefixtures("warning_due")
def test_a_norm_of_maps_sees_more_values():
    assert warned(ab.create_model("resnet8", block="dw3_bn"), 2) == []


@pytest.mark.usefixtures("warning_due")
def test_one_image_is_an_error_and_frozen_statistics_are_a_remedy():
    model = ab.create_model("resnet8", block="ab")
    with pytest.raises(ValueError, match=r"layer1\.0\.bn2\.recalibrate\.0\.bn"):
        warned(model, 1)
    for norm in model.train().modules():
        if isinstance(norm, GateNorm):
            norm.eval()
    y = model(torch.randn(1, 3, 16, 16))
    y.sum().backward()
    assert y.isfinite().all()


def test_the_gates_norm_is_a_batch_norm_to_converters_and_freezers():
    model = ab.create_model("resnet8", block="ab")
    norms = [n for n, m in model.named_modules() if isinstance(m, GateNorm)]
    assert len(norms) == 3
    for name in norms:
        norm = model.get_submodule(name)
        assert isinstance(norm, torch.nn.modules.batchnorm._BatchNorm)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name in norms:
        assert isinstance(converted.get_submodule(name), torch.nn.SyncBatchNorm)
