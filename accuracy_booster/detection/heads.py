"""What stands on a backbone's maps: a feature pyramid (FPN), or the last stage itself (C4).

head="fpn": torchvision's `BackboneWithFPN` by its names (`backbone.body`, `backbone.fpn`), and its
two-layer box head.

head="c4": Ren et al.'s Faster R-CNN, Detectron's C4. The region proposals and the boxes' features
are of the map before the last stage. The last stage, with its own gates, is the box head; the mean
over its positions goes into the predictor. The names: `backbone.body.NAME` for all but the last
stage and `roi_heads.box_head.NAME` for the last, where NAME is what a parameter is called in the
classification network (`roi_heads.box_head.layer4.0.conv1.weight`).
"""

# N batch, R regions, C channels, H W space

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from accuracy_booster.detection.feature_maps import FeatureMaps, give_maps, take_away
from accuracy_booster.detection.norms import HoldsNorms
from accuracy_booster.detection.stages import Stage, Stages

WIDTH = 256  # channels of the pyramid, torchvision's


class PyramidBackbone(nn.Module):
    """x[N, 3, H, W] -> {"0": [N, out_channels, h, w], ..., "pool": ...}, the finest first."""

    def __init__(self, body: FeatureMaps, stages: tuple[Stage, ...]):
        super().__init__()
        self.body = body
        # no wider than the last map: the networks for CIFAR have few channels
        self.out_channels = min(WIDTH, max(stages[-1].channels, 64))
        self.fpn = FeaturePyramidNetwork(
            [stage.channels for stage in stages], self.out_channels, LastLevelMaxPool()
        )

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return self.fpn(self.body(x))


class SingleMapBackbone(nn.Module):
    """x[N, 3, H, W] -> {"0": [N, out_channels, H / stride, W / stride]}."""

    def __init__(self, body: FeatureMaps, stage: Stage):
        super().__init__()
        self.body = body
        self.out_channels = stage.channels

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return self.body(x)


class LastStage(HoldsNorms):
    """The last stage as the box head: regions [R, C, 14, 14] -> their features [R, channels]."""

    def __init__(self, modules: dict[str, nn.Module]):
        super().__init__()
        self.steps = tuple(modules)
        for name, module in modules.items():
            around: nn.Module = self
            *parents, child = name.split(".")
            for parent in parents:  # the same names as in the network
                if parent not in around._modules:
                    around.add_module(parent, nn.Module())
                around = around.get_submodule(parent)
            around.add_module(child, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.norms_held():
            for name in self.steps:
                x = self.get_submodule(name)(x)
        return x.mean((2, 3))


class RegionPool(MultiScaleRoIAlign):
    """Cuts regions out of the maps "0", "1", ... of known strides.

    torchvision's tells the strides from the first batch that it sees, by its images' sizes before
    they are padded, and keeps them. For images of fewer than 75 pixels they can be wrong, and then
    a detector depends on what it saw first.
    """

    def __init__(self, strides: Sequence[int], output_size: int):
        names = [str(k) for k in range(len(strides))]
        super().__init__(names, output_size, sampling_ratio=2)
        side = 4 * strides[-1]
        maps = [torch.zeros(1, 1, side // stride, side // stride) for stride in strides]
        # the first batch: a blank image that needs no padding
        self(dict(zip(names, maps, strict=True)), [torch.zeros(1, 4)], [(side, side)])


def pyramid_stages(stages: Stages) -> tuple[Stage, ...]:
    """The stages whose maps the pyramid takes.

    Those of stride 4 and more, or where fewer than two are (networks for CIFAR have strides 1, 2
    and 4), of stride 2 and more: a pyramid on a map as large as the image costs 40 billion
    multiplications for 256 x 256 pixels.
    """
    coarse = tuple(stage for stage in stages.stages if stage.stride >= 4)
    if len(coarse) > 1:
        return coarse
    return tuple(stage for stage in stages.stages if stage.stride >= 2)


def pyramid(network: nn.Module, stages: Stages) -> tuple[PyramidBackbone, RegionPool]:
    """The backbone and what cuts regions out of its maps; the network is changed in place."""
    used = pyramid_stages(stages)
    body = give_maps(network, stages.head, [stage.name for stage in used])
    return PyramidBackbone(body, used), RegionPool([stage.stride for stage in used], 7)


def last_stage_head(
    network: nn.Module, stages: Stages
) -> tuple[SingleMapBackbone, RegionPool, LastStage]:
    """The same for head="c4", and the box head; the network is changed in place.

    Raises:
        ValueError: if the last stage is not made of modules that can be called on the map before.
    """
    before, last = stages.stages[-2:]
    if last.after is None or not last.tensors:
        raise ValueError(
            f"the last stage of this {type(network).__name__} is no module with weights, or row of "
            f"modules, that can be called on the map before it ({before.name!r}), which head='c4' "
            "needs; use head='fpn'"
        )
    modules = {name: take_away(network, name) for name in last.after}
    body = give_maps(network, stages.head, [before.name])
    return SingleMapBackbone(body, before), RegionPool([before.stride], 14), LastStage(modules)
