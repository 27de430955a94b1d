"""The stages of networks of all kinds."""

from __future__ import annotations

import pytest
import torch
from support.detector_models import FEW, QUIET, images, learn

from accuracy_booster.detection import faster_rcnn

pytestmark = QUIET
NETWORKS = {
    "resnet20": "layer1:16/1 layer2:32/2 layer3:64/4",
    "shufflenet_g3": "maxpool:24/4 layer1:240/8 layer2:480/16 layer3:960/32",
    "torchvision/shufflenet_v2_x0_5": "maxpool:24/4 stage2:48/8 stage3:96/16 conv5:1024/32",
    "torchvision/mnasnet0_5": "layers.8:16/4 layers.9:24/8 layers.11:48/16 layers:1280/32",
    "timm/test_resnet": "layer1:32/4 layer2:48/8 layer3:192/16 layer4:96/32",
    "timm/mobilenetv3_small_050": "blocks.0:8/4 blocks.1:16/8 blocks.3:24/16 blocks:288/32",
    "timm/convnext_atto": "stages.0:40/4 stages.1:80/8 stages.2:160/16 stages:320/32",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_a_backbone_and_all_of_it_learns(name):
    heads = ("fpn", "c4") if name in list(NETWORKS)[-3:] else ("fpn",)
    for head in heads:
        model = faster_rcnn(name, block="ab", head=head, **FEW)
        found = " ".join(f"{s.name}:{s.channels}/{s.stride}" for s in model.stages.stages)
        assert found == NETWORKS[name]
        assert learn(model) == {n for n, _ in model.named_parameters()}  # no head of classes left
        with torch.no_grad():
            assert len(model.eval()(images())) == 2
        inside = [tensor for part in model.parts for tensor in part.tensors]
        own = {n for n in model.state_dict() if n.startswith("backbone.body.") or ".box_head." in n}
        own = {n for n in own if head == "c4" or n.startswith("backbone.body.")}
        assert len(inside) == len(set(inside))
        assert set(inside) == own
