"""ResNets for CIFAR of depth 6n + 2 (He et al. 2015, section 4.2): ResNet-20 ... ResNet-110.

ResNet-56 is the network of the paper's Tables 5, 6, 10 to 12, 14 and 16.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.errors import shown
from accuracy_booster.models.base import (
    Network,
    ResidualBlock,
    check_size,
    conv,
    initialise_convs,
)


class PadShortcut(nn.Module):
    """The shortcut of option A: every `stride`-th position, with zero channels on both sides.

    It has no parameters.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        before = (outputs - inputs) // 2
        self.pad = (0, 0, 0, 0, before, outputs - inputs - before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.pad)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with batch norms, a shortcut, and a ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = nn.Identity() if same else PadShortcut(inputs, outputs, stride)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(branch + self.downsample(x))


class ResNetCifar(Network):
    """3 stages of n basic blocks, with 16, 32 and 64 channels; depth = 6n + 2."""

    last_layer = "bn2"

    def __init__(self, depth: int, *, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"depth={shown(depth)} must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, ..."
            )
        check_size(f"depth={shown(depth)}", depth, 0)
        self.conv1 = conv(in_chans, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self._head(64, num_classes)
        initialise_convs(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


def from_akamaster(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of akamaster/pytorch_resnet_cifar10, by the names in our ResNets.

    Its keys have the prefix `module.` (of DataParallel), and its head is called `linear` where ours
    is `fc`. All other names agree.

    Args:
        state_dict: the checkpoint's `state_dict` entry.
    """
    renamed = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return {
        (f"fc.{key.removeprefix('linear.')}" if key.startswith("linear.") else key): value
        for key, value in renamed.items()
    }
