"""Trained weights of whole detectors."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from support.detectors import NO_DEAD_NORMS, PYRAMID, make_coco

# N batch, C channels, H W space


pytestmark = NO_DEAD_NORMS


def test_weights_of_torchvision(data, start, tmp_path, capsys):
    """A whole detector of another number of classes: all but the predictor comes."""
    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5
    )
    other = torchvision.models.detection.FasterRCNN(body, num_classes=7)
    torch.save({f"module.{k}": v for k, v in other.state_dict().items()}, tmp_path / "w.pth")
    given = {**PYRAMID, "backbone": "torchvision/resnet18", "weights": str(tmp_path / "w.pth")}
    trainer = start(data, **given)
    own, known = trainer.network.state_dict(), other.state_dict()
    for name, tensor in own.items():
        if "recalibrate" in name or name.endswith("num_batches_tracked"):
            continue
        same = name in known and torch.equal(tensor, known[name])
        assert same != name.startswith("roi_heads.box_predictor"), name
    assert "new head" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="of another detector"):
        start(data, **{**given, "backbone": "torchvision/resnet34"})


def test_weights_of_a_detector_of_other_classes(trained, data, start, tmp_path):
    """The predictor comes for the same classes only; their number alone says nothing."""
    renamed = make_coco(tmp_path / "renamed")
    for file in (renamed / "annotations").iterdir():
        file.write_text(file.read_text().replace('"red"', '"crimson"'))
    weights = load_file(trained.output / "model.safetensors")
    for where, kept in ((data, True), (renamed, False)):
        given = {"weights": str(trained.output), "backbone": None, "block": "ab"}
        own = start(where, **given).network.state_dict()
        same = {name: torch.equal(own[name], weights[name]) for name in own}
        predictor = {n for n in same if n.startswith("roi_heads.box_predictor") and "weight" in n}
        assert {same[name] for name in predictor} == {kept}
        assert all(v for n, v in same.items() if not n.startswith("roi_heads.box_predictor"))
