"""The gate's batch norm sees N values per channel: what happens at each N, and the remedies."""

import warnings

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.blocks import GateNorm, layers


@pytest.fixture(autouse=True)
def _forget_the_warning(monkeypatch):
    monkeypatch.setattr(layers, "_warned", False)
    torch.manual_seed(0)


def warned(model, count):
    """How many warnings of small batches a training pass of `count` images gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train()(torch.randn(count, 3, 16, 16))
    return [str(w.message) for w in caught if "batch norm of the gate" in str(w.message)]


@pytest.mark.parametrize("count", [2, 3, 8, 15])
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
def test_no_warning_from_16_on(count):
    assert warned(ab.create_model("resnet8", block="ab"), count) == []


def test_a_norm_of_maps_sees_more_values():
    assert warned(ab.create_model("resnet8", block="dw3_bn"), 2) == []


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
