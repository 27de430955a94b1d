"""The two heads of a detector: a feature pyramid (FPN), or the network's last stage (C4).

head="fpn"  A feature pyramid on the maps of several stages, with a box head of two layers. Modules
            have the names of torchvision's `BackboneWithFPN` (`backbone.body`, `backbone.fpn`).
head="c4"   The Faster R-CNN of Ren et al., Detectron's C4. Regions are proposed on the map before
            the last stage, and cut out of that map. The last stage, with its gates, is the box
            head. The mean over its output's positions goes into the predictor. A parameter that is
            called NAME in the classification network is called `roi_heads.box_head.NAME` if it is
            in the last stage, and else `backbone.body.NAME`.
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
        # no more channels than the last map has, since networks for CIFAR have few
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
    """The last stage as the box head: regions [R, C, 14, 14] -> features [R, out_channels].

    Args:
        modules: the modules of the stage by their names in the network, in the order of calls.
    """

    def __init__(self, modules: dict[str, nn.Module]):
        super().__init__()
        self.steps = tuple(modules)
        for name, module in modules.items():
            owner: nn.Module = self
            *parents, child = name.split(".")
            for parent in parents:  # so that the module keeps its name
                if parent not in owner._modules:
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.add_module(child, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.norms_held():
            for name in self.steps:
                x = self.get_submodule(name)(x)
        return x.mean((2, 3))


class RegionPool(MultiScaleRoIAlign):
    """Cuts regions out of the maps "0", "1", ..., whose strides are given.

    torchvision's class derives the strides from the first batch, by the sizes of its images before
    padding, and keeps them. For images of fewer than 75 pixels they can be wrong, so that a
    detector depends on its first batch.
    """

    def __init__(self, strides: Sequence[int], output_size: int):
        names = [str(k) for k in range(len(strides))]
        super().__init__(names, output_size, sampling_ratio=2)
        side = 4 * strides[-1]
        maps = [torch.zeros(1, 1, side // stride, side // stride) for stride in strides]
        # a blank image that needs no padding serves as the first batch
        self(dict(zip(names, maps, strict=True)), [torch.zeros(1, 4)], [(side, side)])


def pyramid_stages(stages: Stages) -> tuple[Stage, ...]:
    """The stages whose maps the pyramid takes: those of stride 4 and more.

    If there are fewer than two, those of stride 2 and more; networks for CIFAR have the strides 1,
    2 and 4. A map as large as the image is never taken: a pyramid on it costs 40 billion
    multiplications for 256 x 256 pixels.
    """
    coarse = tuple(stage for stage in stages.stages if stage.stride >= 4)
    if len(coarse) > 1:
        return coarse
    return tuple(stage for stage in stages.stages if stage.stride >= 2)


def pyramid(network: nn.Module, stages: Stages) -> tuple[PyramidBackbone, RegionPool]:
    """The backbone of head="fpn", and what cuts regions out of its maps.

    The network becomes part of the backbone and is changed.
    """
    used = pyramid_stages(stages)
    body = give_maps(network, stages.head, [stage.name for stage in used])
    return PyramidBackbone(body, used), RegionPool([stage.stride for stage in used], 7)


def last_stage_head(
    network: nn.Module, stages: Stages
) -> tuple[SingleMapBackbone, RegionPool, LastStage]:
    """The backbone of head="c4", what cuts regions out of its map, and the box head.

    The network becomes part of both and is changed.

    Raises:
        ValueError: if the last stage is not a chain of modules that can be called on the map before
            it.
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
