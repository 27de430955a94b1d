"""Pre-activation networks for CIFAR: ResNet-164 (He et al. 2016) and wide ResNets (Zagoruyko 2016).

ResNet-164 and WRN-22-10 are networks of the paper's Tables 5 and 6, and ResNet-164 is that of its
Table 15. A residual branch ends in a convolution; the next norm comes after the sum.
"""

# N batch, C channels, H W space

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.errors import shown
from accuracy_booster.models.base import (
    Network,
    ResidualBlock,
    check_size,
    conv,
    initialise_convs,
)


class PreActBlock(ResidualBlock):
    """A branch of (norm, ReLU, convolution), repeated.

    If the shape changes, the shortcut is a 1x1 convolution of the first ReLU's output.

    Args:
        layers: (outputs, kernel, stride, bias) of each convolution.
    """

    def __init__(self, inputs: int, layers: list[tuple[int, int, int, bool]]):
        super().__init__()
        width, stride = inputs, 1
        self.steps: list[tuple[str, str, str]] = []
        for i, (outputs, kernel, step, bias) in enumerate(layers, start=1):
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            self.add_module(f"act{i}", nn.ReLU(inplace=True))
            self.add_module(f"conv{i}", conv(width, outputs, kernel, step, bias))
            self.steps.append((f"bn{i}", f"act{i}", f"conv{i}"))
            width, stride = outputs, stride * step
        projects = stride != 1 or inputs != width
        self.downsample = conv(inputs, width, 1, stride) if projects else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = branch = x
        for i, (norm, act, layer) in enumerate(self.steps):
            branch = getattr(self, act)(getattr(self, norm)(branch))
            if i == 0:
                first = branch
            branch = getattr(self, layer)(branch)
        return branch + (x if self.downsample is None else self.downsample(first))


class PreActNet(Network):
    """A 3x3 convolution, 3 stages of blocks, a norm, a ReLU, and the head."""

    def _build(
        self, blocks: list[list[PreActBlock]], width: int, num_classes: int, in_chans: int
    ) -> None:
        self.conv1 = conv(in_chans, 16, 3)
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*members) for members in blocks)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self._head(width, num_classes)
        initialise_convs(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.act(self.bn(x))


class PreActResNet(PreActNet):
    """A pre-activation ResNet of bottlenecks (1x1, 3x3, 1x1); depth = 9n + 2.

    `variant="standard"` has the stride in the 3x3 convolution, and no biases. `variant="v1"` has
    the stride in the first 1x1 convolution, and biases in the third. Only the latter has the
    parameters and MACs of the paper's Table 15.
    """

    last_layer = "conv3"

    def __init__(
        self, depth: int, *, num_classes: int = 10, in_chans: int = 3, variant: str = "standard"
    ):
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={shown(depth)} must be 9n + 2: 11, 20, ..., 164, ...")
        check_size(f"depth={shown(depth)}", depth, 0)
        if variant not in ("standard", "v1"):
            raise ValueError(f"variant={variant!r} must be 'standard' or 'v1'")
        v1 = variant == "v1"
        inputs, stages = 16, []
        for stage, width in enumerate((16, 32, 64)):
            members = []
            for block in range((depth - 2) // 9):
                stride = 2 if stage and not block else 1
                first, middle = (stride, 1) if v1 else (1, stride)
                layers = [
                    *((width, 1, first, False), (width, 3, middle, False)),
                    (4 * width, 1, 1, v1),
                ]
                members.append(PreActBlock(inputs, layers))
                inputs = 4 * width
            stages.append(members)
        self._build(stages, inputs, num_classes, in_chans)


class WideResNet(PreActNet):
    """A wide ResNet of blocks of two 3x3 convolutions; depth = 6n + 4.

    It has `width` times as many channels as a ResNet.
    """

    last_layer = "conv2"

    def __init__(self, depth: int, width: int, *, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"depth={shown(depth)} of a wide ResNet must be 6n + 4: 10, 16, 22, 28, ..."
            )
        if width < 1:
            raise ValueError(f"width={shown(width)} of a wide ResNet must be >= 1")
        # those of the blocks: two 3x3 convolutions each, of 16, 32 and 64 times the width
        weights = (depth - 4) // 6 * 18 * (16**2 + 32**2 + 64**2) * width**2
        check_size(f"depth={shown(depth)}, width={shown(width)}", depth, weights)
        inputs, stages = 16, []
        for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            members = []
            for block in range((depth - 4) // 6):
                stride = 2 if stage and not block else 1
                members.append(
                    PreActBlock(inputs, [(outputs, 3, stride, False), (outputs, 3, 1, False)])
                )
                inputs = outputs
            stages.append(members)
        self._build(stages, inputs, num_classes, in_chans)
