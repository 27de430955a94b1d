"""The first convolution of a network: the channels of its images, and weights for other channels.

`weights` adapts a file, as timm does, when it is of a network for colour images and the network
takes grey ones, or the other way round.
"""

# O outputs, I inputs, H W kernel

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from accuracy_booster.models.weight_files import Tensors


def channels_of(network: nn.Module) -> int | None:
    """The channels that a network's first convolution takes; None for a network without one."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def adapted_to_images(
    given: Tensors, own: Mapping[str, torch.Tensor]
) -> tuple[Tensors, str | None]:
    """The tensors with the first convolution for the network's channels, and its name or None.

    Weights [O, 3, H, W] become timm's `adapt_input_conv` of them: summed for one channel, so that
    a grey image gives what it gave as a colour image. Weights [O, 1, H, W] are spread over three.

    Args:
        given: tensors of a file, by the network's names.
        own: the network's tensors.
    """
    names = [name for name, tensor in given.items() if name in own and _fits(tensor, own[name])]
    if len(names) != 1:  # one convolution sees the image; several would be of another network
        return given, None
    (name,) = names
    tensor, chans = given[name], own[name].shape[1]
    if tensor.shape[1] == 1:
        adapted = (tensor / chans).repeat(1, chans, 1, 1)
    else:
        from timm.models import adapt_input_conv

        adapted = adapt_input_conv(chans, tensor)
    return {**given, name: adapted}, name


def _fits(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether the weights differ in their input channels alone, and one of the two takes images."""
    if tensor.ndim != 4 or own.ndim != 4 or tensor.shape[1] == own.shape[1]:
        return False
    same = tensor.shape[0] == own.shape[0] and tensor.shape[2:] == own.shape[2:]
    return same and (tensor.shape[1], own.shape[1]) in ((3, 1), (1, 3))
