"""The paper's ResNets for ImageNet: timm's `ResNet`, whose parameters have torchvision's names.

Those with the stride in the first convolution are in the paper's Tables 2, 3, 9 and 13, and
WRN-18-2 is in Table 4. (The ResNeXt-101 of Table 8 is timm's as it is.)
"""

# N batch, C channels, H W space

from __future__ import annotations

from typing import Any

from torch import nn


def wide_resnet18(*, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """WRN-18-2: ResNet-18 with twice as many channels in its stages (CBAM, Table 4).

    The stem keeps its 64 channels, so the first stage starts with a projection, 64 -> 128.
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

    He et al. 2015 had it there (Caffe's ResNets, "v1"); later libraries moved it to the 3x3.
    """
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
    return model
