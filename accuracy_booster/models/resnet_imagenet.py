"""The paper's ImageNet ResNets on timm's `ResNet`, whose parameters have torchvision's names."""

# N batch, C channels, H W space

from __future__ import annotations

from typing import Any

from torch import nn


def wide_resnet18(*, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """WRN-18-2: ResNet-18 with twice the channels in its stages (CBAM, Table 4); the stem keeps 64.

    Its first stage then starts with a projection, 64 -> 128.
    """
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(
        BasicBlock,  # type: ignore[arg-type]
        (2, 2, 2, 2),
        num_classes=num_classes,
        in_chans=in_chans,
        channels=(128, 256, 512, 1024),
        zero_init_last=False,
    )


def stride_in_first_conv(model: Any) -> nn.Module:
    """Move the stride of each bottleneck from its 3x3 convolution to the 1x1 before it, in place.

    So it was in He et al. 2015 (Caffe's ResNets, "v1"); later libraries moved it.
    """
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
    return model
