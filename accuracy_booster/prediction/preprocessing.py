"""How an image becomes the input of a network: as the run measured its own, or as timm says."""

# C channels, H W space

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from accuracy_booster.data.normalisation import Stats, grey_value
from accuracy_booster.data.transforms import CentreCrop, Transform
from accuracy_booster.models.input_conv import channels_of
from accuracy_booster.models.preprocessing import preprocessing_of
from accuracy_booster.training.network_metadata import is_whole, preprocessing
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import TrainConfig


@dataclass(frozen=True)
class Inputs:
    """The inputs of a network.

    Attributes:
        size: (C, H, W).
        mean, std: per channel, of pixels in [0, 1].
        how: interpolation, crop_pct and crop_mode, as `CentreCrop` takes them.
    """

    size: tuple[int, int, int]
    mean: Stats
    std: Stats
    how: tuple[str, float | None, str]

    @property
    def transform(self) -> Transform:
        """Makes an image of any size one of this size, uint8 [C, *, *] -> [C, H, W]."""
        return CentreCrop(self.size[1:], *self.how, self.mean)


def inputs_of_run(run: Run, config: TrainConfig) -> Inputs:
    """The inputs of a run's network: images are made as the run's own test images."""
    about = preprocessing(config, run.info)
    size, mean, std = about["input_size"], about["mean"], about["std"]
    # as the configuration has it: no crop_pct is not the same as timm's nearest number
    crop_pct = about["crop_pct"] if is_whole(config, run.info) else config.crop_pct
    how = (about["interpolation"], crop_pct, about["crop_mode"])
    return Inputs(size, mean, std, how)


def inputs_of_module(network: nn.Module) -> Inputs:
    """The inputs of a module that says what they are, as timm's networks do.

    Raises:
        ValueError: for a module that does not.
    """
    known = preprocessing_of(network)
    if known is None:
        raise ValueError(
            f"this {type(network).__name__} does not say how its images are made; give a run's "
            "directory, a network of timm, or set network.pretrained_cfg to a dict of input_size, "
            "mean, std, interpolation and crop_pct"
        )
    mean, std = known.mean, known.std
    if (
        channels_of(network) == 1 and len(mean) > 1
    ):  # as where such a network is trained: the mean of the colours
        mean, std = grey_value(mean), grey_value(std)
    how = (known.interpolation, known.crop_pct, known.crop_mode)
    return Inputs((len(mean), *known.image_size), mean, std, how)
