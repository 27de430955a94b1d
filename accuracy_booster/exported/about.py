"""What an exported file says of itself: its images, its classes, and where it comes from.

Each format keeps texts by names in a place of its own. They are the same in all formats.
"""

# C channels, H W space, K classes

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from accuracy_booster.data.choices import MOST_CROP_PCT
from accuracy_booster.errors import shown
from accuracy_booster.version import __version__

FORMAT = 1  # of these texts; a new number if an older version of this package would misread them
TUPLES = ("classes", "input_size", "mean", "std")


@dataclass(frozen=True)
class About:
    """What an exported file says of itself.

    The preprocessing has timm's words: an image is resized with `interpolation` and cropped to
    `input_size` by `crop_pct` and `crop_mode`; then each channel is (pixel / 255 - mean) / std.

    Attributes:
        network: the name of the network.
        block: the text of the block; "none" without one.
        classes: the name of each output, in their order, [K].
        input_size: (C, H, W) of the network's input.
        mean, std: one number for each channel, of pixels in [0, 1].
        crop_pct: None for the nearest whole number of pixels to 224 / 256.
        batch: the number of images, N, that the file takes at a time; None for any number.
        threads: for how many threads its weights are laid out, of a file .aoti.pt2 that takes a
            fixed number of images; None for all other files.
        training: the settings of the training; empty for a network that was not trained here.
        metrics: what was measured: the run's test result, the parity of the file, and so on.
        versions: of the packages that made the file, by their names.
    """

    network: str
    block: str
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float | None = None
    crop_mode: str = "center"
    batch: int | None = None
    threads: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_texts(self) -> dict[str, str]:
        """The texts that a file keeps, by name. All but plain texts are JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"format": str(FORMAT)} | {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], file: Any) -> About:
        """What `to_texts` wrote.

        Args:
            file: where the texts are from, for errors.

        Raises:
            ValueError: if the file was not made by this package, or by a newer version that writes
                other texts, or if a text is damaged.
        """
        if "format" not in texts or "input_size" not in texts:
            raise ValueError(
                f"{file} does not say how its images are made: it was not written by "
                "accuracy-booster export; export the run again"
            )
        if not texts["format"].isdecimal() or int(texts["format"]) > FORMAT:
            raise ValueError(
                f"{file} was written by a newer version of accuracy-booster (its texts have the "
                f"format {shown(texts['format'])}, and {__version__} reads up to {FORMAT}); "
                "pip install -U accuracy-booster"
            )
        try:
            values = {f.name: _value(f.name, texts[f.name]) for f in fields(cls) if f.name in texts}
            return _checked(cls(**values))
        except (ValueError, TypeError) as e:
            raise ValueError(f"the texts in {file} are damaged ({e}); export the run again") from e


def _checked(about: About) -> About:
    """The same, if images can be made as it says."""
    size, numbers = about.input_size, (*about.mean, *about.std)
    if len(size) != 3 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError(f"input_size={shown(size)} is not three whole numbers >= 1")
    if not len(about.mean) == len(about.std) == size[0]:
        raise ValueError(f"mean and std do not have {size[0]} values, one per channel")
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise ValueError(f"mean and std are not all numbers: {shown(numbers)}")
    for name in ("batch", "threads"):
        if (value := getattr(about, name)) is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={shown(value)} is not a whole number >= 1")
    share = about.crop_pct
    if share is not None and not (isinstance(share, (int, float)) and 0 < share <= MOST_CROP_PCT):
        raise ValueError(f"crop_pct={shown(share)} is not above 0 and at most {MOST_CROP_PCT:g}")
    if not all(isinstance(name, str) for name in about.classes):
        raise ValueError(f"classes={shown(about.classes)} are not all names")
    return about


def _value(name: str, text: str) -> Any:
    if name in ("network", "block", "interpolation", "crop_mode"):
        return text
    value = json.loads(text)
    return tuple(value) if name in TUPLES else value
