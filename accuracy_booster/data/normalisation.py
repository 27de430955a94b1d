"""Mean and standard deviation of the pixels, and the normalised input that a network gets."""

# N batch, C channels, H W space

from __future__ import annotations

import torch

from accuracy_booster.data.images import Images, Subset, TensorImages

Stats = tuple[float, ...]  # one value per channel, of pixels in [0, 1]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: torch.Tensor, mean: Stats, std: Stats) -> torch.Tensor:
    """uint8 [N, C, H, W] -> float32, (x / 255 - mean) / std per channel."""
    from torchvision.transforms.v2 import functional as F

    return F.normalize(F.to_dtype(images, torch.float32, scale=True), list(mean), list(std))


def grey_value(values: Stats) -> Stats:
    """What stands for red, green and blue in a grey image: their mean."""
    return (sum(values) / len(values),)


def for_channels(values: Stats, chans: int) -> Stats:
    """Statistics of one network's images for images of `chans` channels, grey or colour."""
    if chans == 1:
        return grey_value(values)
    return values * chans if len(values) == 1 else values


def statistics_of(
    train: Images | None, chans: int, mean: Stats | None, std: Stats | None
) -> tuple[Stats, Stats]:
    """Mean and standard deviation for images of `chans` channels; those that are given are kept.

    They are the training images' own if these are in memory, and otherwise ImageNet's.

    Raises:
        ValueError: if they do not have one value per channel.
    """
    known = train.images if isinstance(train, Subset) else train
    if (mean is None or std is None) and isinstance(known, TensorImages):
        rows = known.images[train.indices] if isinstance(train, Subset) else known.images
        moments = [torch.std_mean(rows[:, c].float() / 255, correction=0) for c in range(chans)]
        mean = mean or tuple(round(m.item(), 4) for _, m in moments)
        std = std or tuple(round(max(s.item(), 1e-4), 4) for s, _ in moments)
    if mean is None or std is None:
        grey = chans == 1
        mean = mean or (grey_value(IMAGENET_MEAN) if grey else IMAGENET_MEAN)
        std = std or (grey_value(IMAGENET_STD) if grey else IMAGENET_STD)
    for option, value in (("mean", mean), ("std", std)):
        if len(value) != chans:
            raise ValueError(f"{option}={list(value)} must have {chans} values, one per channel")
    return tuple(mean), tuple(std)
