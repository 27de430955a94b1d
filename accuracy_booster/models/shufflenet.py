"""ShuffleNet v1 (Zhang et al. 2017, Table 1): grouped 1x1 convolutions and shuffled channels.

With 3 groups it is the network of the paper's Table 7.
"""

# N batch, C channels, H W space

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.models.base import Network, ResidualBlock, conv, initialise_convs

WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # groups: channels of the first stage
REPEATS = (4, 8, 4)


class ChannelShuffle(nn.Module):
    """x[N, C, H, W] -> the same channels in another order: one of each group, then the next."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class ShuffleUnit(ResidualBlock):
    """The unit of Figure 2 (b) and (c) of Zhang et al.

    At stride 1 the branch is added to the input. At stride 2 it is concatenated to the pooled
    input.

    Args:
        first_groups: groups of the first 1x1 convolution; 1 if its input has few channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int):
        super().__init__()
        middle, branch = outputs // 4, outputs - (inputs if stride == 2 else 0)
        self.conv1 = conv(inputs, middle, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.act1 = nn.ReLU(inplace=True)
        self.shuffle = ChannelShuffle(groups)
        self.conv2 = conv(middle, middle, 3, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv(middle, branch, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(branch)
        self.downsample = nn.AvgPool2d(3, stride, padding=1) if stride == 2 else None
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.shuffle(self.act1(self.bn1(self.conv1(x))))
        branch = self.bn3(self.conv3(self.bn2(self.conv2(branch))))
        if self.downsample is None:
            return self.act2(x + branch)
        return self.act2(torch.cat((self.downsample(x), branch), 1))


class ShuffleNet(Network):
    """ShuffleNet 1x with `groups` groups. Its sites are before the concatenation or the sum."""

    last_layer = "bn3"

    def __init__(self, groups: int, *, num_classes: int = 1000, in_chans: int = 3):
        super().__init__()
        if groups not in WIDTHS:
            known = ", ".join(map(str, WIDTHS))
            raise ValueError(f"groups={groups} of a ShuffleNet must be one of {known}")
        self.conv1 = conv(in_chans, 24, 3, 2)
        self.bn1 = nn.BatchNorm2d(24)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs, stages = 24, []
        for stage, repeats in enumerate(REPEATS):
            outputs = WIDTHS[groups] << stage
            units = []
            for unit in range(repeats):
                first_groups = groups if stage or unit else 1
                units.append(ShuffleUnit(inputs, outputs, 1 if unit else 2, groups, first_groups))
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3 = stages
        self._head(inputs, num_classes)
        initialise_convs(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))
