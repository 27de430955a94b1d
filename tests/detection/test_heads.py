"""The last stage as the box head."""

from __future__ import annotations

import pytest
import torch
from support.detector_models import FEW, QUIET, SMALL, TINY, learn, spread_statistics
from torch import nn

import accuracy_booster as ab
from accuracy_booster.detection import faster_rcnn
from accuracy_booster.detection.stages import find_stages

pytestmark = QUIET


def test_c4_puts_the_last_stage_and_its_gates_into_the_box_head():
    network = spread_statistics(ab.boost(ab.create_model(TINY), "ab")).eval()
    model = faster_rcnn(network, head="c4", **SMALL).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        (found,) = model.backbone(x).values()
        known = network.forward_features(x).mean((2, 3))
        assert torch.equal(model.roi_heads.box_head(found), known)
    assert found.shape == (2, 192, 4, 4)
    assert model.roi_heads.box_roi_pool.output_size == (14, 14)
    names = {"backbone.body." + n for n in network.state_dict() if not n.startswith("layer4.")}
    names |= {"roi_heads.box_head." + n for n in network.state_dict() if n.startswith("layer4.")}
    names = {n for n in names if ".fc." not in n}
    own = {n for n in model.state_dict() if n.startswith("backbone.") or ".box_head." in n}
    assert own == names
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


class Joined(nn.Module):
    """Its last stage joins two paths, one of which goes through a smaller map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.c, self.up = nn.Conv2d(4, 4, 3, 4, 1), nn.Upsample(scale_factor=2)
        self.join, self.fc = nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.join(self.b(x) + self.up(self.c(x))).mean((2, 3)))


class Skipping(Joined):
    """Its last module reads the map before the last stage beside its input."""

    class Join(nn.Conv2d):
        def forward(self, x, skip):
            return super().forward(x) + skip[:, :, ::2, ::2]

    def __init__(self):
        super().__init__()
        self.join = self.Join(4, 4, 3, 1, 1)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.join(self.b(x), x).mean((2, 3)))


def test_c4_is_refused_where_no_module_is_the_last_stage():
    with pytest.raises(ValueError, match="use head='fpn'"):
        faster_rcnn(Skipping(), head="c4", **SMALL)
    assert [stage.name for stage in find_stages(Joined()).stages] == ["a", "join"]
    assert learn(faster_rcnn(Joined(), **FEW))
    with pytest.raises(ValueError, match="use head='fpn'"):
        faster_rcnn(Joined(), head="c4", **SMALL)
