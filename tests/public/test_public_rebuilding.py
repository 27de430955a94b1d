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
