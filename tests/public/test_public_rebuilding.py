"""A gate stays, and acts once, when tools fold norms or replace whole blocks of their networks.

The networks and the tools are those of the installed packages. Gates and norms have values far from
the identity, so a lost gate, or one that acts twice, changes the output.
"""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached

SIZE = (1, 3, 64, 64)
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def tensors(output) -> list[torch.Tensor]:
    """The tensors in what a detector gives, without those of a branch that fusing removes."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = [value for key, value in output.items() if key not in ("one2many", "feats")]
    return (
        [t for value in output for t in tensors(value)] if isinstance(output, (list, tuple)) else []
    )


def assert_same(network, x, expected):
    with torch.no_grad():
        given = tensors(network(x))
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def boosted(network: nn.Module, x: torch.Tensor, **options) -> nn.Module:
    return randomise(ab.boost(network, "ab", example=x[:1], **options), seed=1).eval()


# --- ultralytics


@pytest.fixture
def yolo(monkeypatch, tmp_path):
    """`yolo(name)`: a network of ultralytics from the name of its configuration."""
    for name, value in {"OFFLINE": "true", "AUTOINSTALL": "false"}.items():
        monkeypatch.setenv(f"YOLO_{name}", value)
    if "YOLO_CONFIG_DIR" not in os.environ:
        monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    ultralytics = pytest.importorskip("ultralytics", exc_type=ImportError)
    torch.manual_seed(0)
    return lambda name: ultralytics.YOLO(name, verbose=False).model.eval()


@pytest.mark.parametrize(
    ("name", "gates"),
    [("yolov8n.yaml", 6), ("yolo11n.yaml", 13), ("yolov8n-cls.yaml", 6), ("yolov8n-seg.yaml", 6)],
)
def test_fuse_of_ultralytics(yolo, name, gates):
    x = torch.rand(SIZE)
    model = boosted(yolo(name), x)
    expected = tensors(model(x))
    assert len(attached(model)) == gates
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert all(name.endswith(".conv") for name in attached(fused))
    unpickled = pickle.loads(pickle.dumps(fused))
    for network in (fused, unpickled):
        assert_same(network, x, expected)
        assert len(attached(network)) == gates


# --- timm


@pytest.mark.parametrize(
    ("name", "gates"),
    [
        ("levit_conv_128s", 20),  # `fuse` gives a convolution for the convolution and its norm
        ("repvit_m0_9", 26),
        ("repghostnet_050", 16),  # branches of one layer are merged
        ("efficientvim_m1", 6),  # the norm is folded and becomes an Identity
    ],
)
@pytest.mark.filterwarnings("ignore:a tool rebuilt")
def test_reparameterize_model_of_timm(name, gates):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    side = 224 if name.startswith("levit") else 64
    x = torch.randn(1, 3, side, side)
    model = boosted(randomise(timm.create_model(name, num_classes=5)).eval(), x)
    assert len(attached(model)) == gates
    with torch.no_grad():
        expected = tensors(model(x))
    fused = timm.utils.reparameterize_model(model)
    assert len(attached(fused)) == gates
    assert_same(fused, x, expected)
    assert_same(pickle.loads(pickle.dumps(fused)), x, expected)


def test_merged_branches_of_timm_are_told():
    timm = pytest.importorskip("timm", exc_type=ImportError)
    x = torch.randn(1, 3, 64, 64)
    model = boosted(timm.create_model("repvgg_a0", num_classes=5).eval(), x, where="conv")
    fused = timm.utils.reparameterize_model(model)
    with pytest.warns(UserWarning, match=r"has lost the gate at .* and \d+ more"):
        fused(x)


# --- mmengine, torch


def with_norms_of_mmengine(model):
    utils = pytest.importorskip("mmengine.model.utils", exc_type=ImportError)
    return utils.revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model)).eval()


def given_another_class(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return model


def built_from_its_dict(model):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "GatedBatchNorm2d":
                new = nn.BatchNorm2d(child.num_features)
                new.__dict__.update(child.__dict__)
                setattr(parent, name, new)
    return model


def copied_flat(model):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, copy.copy(child))
    return copy.copy(model)


def loaded_by_assignment(model):
    model.load_state_dict(model.state_dict(), assign=True)
    return model


def folded_by_torch(model):
    """With torch's own function, and an Identity in place of the norm, as mmengine does."""
    for block in model.modules():
        if type(block).__name__ == "BasicBlock":
            norms = ab.unboost(copy.deepcopy(block)) if attached(block) else block
            block.conv2 = nn.utils.fuse_conv_bn_eval(block.conv2, norms.bn2)
            block.bn2 = nn.Identity()
    return model


def prepared_for_quantisation(model):
    ao = torch.ao.quantization
    model.qconfig = ao.QConfig(ao.NoopObserver, ao.NoopObserver)
    return ao.prepare(model)


REBUILDERS = [
    with_norms_of_mmengine,
    given_another_class,
    built_from_its_dict,
    copied_flat,
    loaded_by_assignment,
    folded_by_torch,
    prepared_for_quantisation,
]


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("rebuild", REBUILDERS, ids=lambda f: f.__name__)
def test_other_ways_to_rebuild(rebuild):
    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    model = boosted(torchvision.models.resnet18(num_classes=5).eval(), x)
    expected = tensors(model(x))
    rebuilt = rebuild(model)
    assert len(attached(rebuilt)) == 8
    assert_same(rebuilt, x, expected)
    assert len(attached(rebuilt)) == 8


def test_a_block_built_anew_by_its_class_is_told():
    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    x = torch.randn(1, 3, 32, 32)
    model = boosted(torchvision.models.resnet18(num_classes=5).eval(), x)
    with pytest.warns(UserWarning, match=r"'0' in Sequential.*'bn2'.*by BasicBlock"):
        model.layer1[0] = type(model.layer1[0])(64, 64)


def test_a_gated_class_made_anew_is_the_plain_class():
    x = torch.randn(2, 4, 3, 3)
    model = ab.boost(
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), "ab", example=x, where="1"
    )
    torch.testing.assert_close(type(model[1])(4)(x), nn.BatchNorm2d(4)(x), rtol=0, atol=0)
