"""Random changes of the training images: crops and mirroring. `loaders` chooses them.

Images that are read from files are changed one at a time (`train_transform`). Images in memory are
changed a batch at a time, on the device (`train_batch_transform`). Both make the same crops, with
the same probabilities. They draw different random numbers, and must go on to do so: a run that is
resumed must see the images that it would have seen.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from accuracy_booster.data.random_streams import LEFT, MIRROR, TOP, integers
from accuracy_booster.data.transforms import Resize, Transform, interpolation_mode, unchanged

BatchTransform = Callable[..., torch.Tensor]  # (images [N, C, H, W], their numbers [N], *keys)


def padding(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of black around an image before a random crop: an eighth of each side.

    For CIFAR's 32 x 32 images that is 4 pixels, as in He et al. 2015.
    """
    return max(1, round(size[0] / 8)), max(1, round(size[1] / 8))


def train_transform(
    augment: str,
    size: tuple[int, int],
    now: tuple[int, int] | None,
    interpolation: str = "bilinear",
) -> Transform:
    """A random transform of one image, uint8 [C, *, *] -> uint8 [C, *size].

    It draws from torch's global generator.

    Args:
        augment: one of `choices.AUGMENTS` but "auto".
        now: [H, W] of the images, if all have one size.
    """
    from torchvision.transforms import v2

    if augment == "resized_crop":
        mode = interpolation_mode(interpolation)
        cropped = v2.RandomResizedCrop(size, interpolation=mode, antialias=True)
        return v2.Compose([cropped, v2.RandomHorizontalFlip()])
    steps: list[Callable[..., torch.Tensor]] = []
    if size != now:
        steps.append(Resize(size, interpolation))
    if augment in ("crop", "crop_flip"):
        rows, columns = padding(size)
        steps.append(v2.RandomCrop(size, padding=[columns, rows]))
    if augment == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else unchanged


def train_batch_transform(augment: str, size: tuple[int, int]) -> BatchTransform | None:
    """What `train_transform` does to images of the right size, for a batch of them.

    None for "resized_crop", which changes images one at a time.
    """
    if augment == "none":
        return unchanged_batch
    if augment in ("crop", "crop_flip"):
        return Crop(padding(size), mirror=augment == "crop_flip")
    return None


@dataclass(frozen=True)
class Crop:
    """Random crops of a batch of images, after `pad` rows and columns of black are put around them.

    Half of the images are mirrored if `mirror` is set.
    """

    pad: tuple[int, int]
    mirror: bool

    def __call__(self, images: torch.Tensor, samples: torch.Tensor, *keys: int) -> torch.Tensor:
        """images[N, C, H, W], their numbers samples[N] -> [N, C, H, W].

        The crop of an image depends on its number and on the keys, and not on its batch.
        """
        (top, left), (height, width) = self.pad, images.shape[2:]
        windows = F.pad(images, (left, left, top, top)).unfold(2, height, 1).unfold(3, width, 1)
        y, x = (integers(2 * p + 1, samples, *keys, k) for p, k in ((top, TOP), (left, LEFT)))
        cropped = windows[torch.arange(len(images), device=images.device), :, y, x]
        if not self.mirror:
            return cropped
        flip = integers(2, samples, *keys, MIRROR).bool()
        return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


def unchanged_batch(images: torch.Tensor, samples: torch.Tensor, *keys: int) -> torch.Tensor:
    """The images as they are."""
    return images
