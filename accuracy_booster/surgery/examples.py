"""The input that a network is run on when nobody gives an example."""

# N batch, C channels, D H W or L space

from __future__ import annotations

import torch
from torch import nn

# For networks without a configuration: {the spatial dimensions of the first layer: sizes to try}.
# The larger one is tried where the network shrinks its maps too far for the smaller one.
SIZES: dict[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((1024,), (16384,)),
    2: ((224, 224),),
    3: ((32, 64, 64), (96, 96, 96)),
}


def infer_examples(model: nn.Module) -> list[torch.Tensor]:
    """Zeros [1, C, ...] to try in turn, of the size in the model's configuration.

    Without a configuration the first layer says how many dimensions and channels its input has:
    [1, C, 224, 224] for a Conv2d, [1, C, L] for a Conv1d, [1, C, D, H, W] for a Conv3d, [1, C] for
    a Linear. There is a second example if the first convolution takes another number of channels
    than the configuration says (timm's in_chans=).
    """
    if (size := _configured(model)) is None:
        own = _by_first_layer(model)
        image = torch.zeros(1, 3, 224, 224)  # the layer registered first need not run first
        on_images = not own or own[0].ndim == 4
        return [*own, image] if on_images and not any(e.shape == image.shape for e in own) else own
    channels, height, width = size
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next((m.in_channels for m in convs if m.in_channels), channels)
    return [torch.zeros(1, c, height, width) for c in dict.fromkeys((channels, first))]


def default_size(model: nn.Module) -> tuple[int, ...]:
    """(C, ...) of the input that a network takes when nobody gives an example."""
    first, *others = infer_examples(model)
    if _configured(model) is None:
        return tuple(first.shape[1:])
    # with timm's in_chans= the configuration is wrong and the first convolution right
    same = [example for example in others if example.shape[2:] == first.shape[2:]]
    return tuple([first, *same][-1].shape[1:])


def _configured(model: nn.Module) -> tuple[int, int, int] | None:
    """(C, H, W) in the configuration of timm, Hugging Face or ours; None if there is none."""
    channels, size, known = 3, (224, 224), False
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if config and "input_size" in config:  # timm, and ours
        channels, *size = config["input_size"]
        known = True
    config = getattr(model, "config", None)  # Hugging Face
    known |= getattr(config, "num_channels", None) is not None
    known |= getattr(config, "image_size", None) is not None
    channels = getattr(config, "num_channels", None) or channels
    image_size = getattr(config, "image_size", None) or size
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    return (channels, height, width) if known else None


def _by_first_layer(model: nn.Module) -> list[torch.Tensor]:
    """Examples for the first layer of each kind, in the order in which they were registered."""
    inputs: dict[int, int] = {}  # spatial dimensions: channels, 0 of a lazy layer
    for module in model.modules():
        if isinstance(module, nn.Linear):
            inputs.setdefault(0, module.in_features)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            inputs.setdefault(len(module.kernel_size), module.in_channels)
    ranks = list(inputs)
    if 0 in ranks and ranks[0] != 0:
        ranks.remove(0)  # the head, not the first layer
    return [torch.zeros(1, inputs[dims] or 3, *size) for dims in ranks for size in SIZES[dims]]
