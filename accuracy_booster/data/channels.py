"""Grey images as colour images and colour as grey: the channels that a network takes.

`loaders` converts what a source gives. Images that are read later are then read as that.
"""

# N images, C channels, H W space

from __future__ import annotations

from accuracy_booster.data.images import Images, TensorImages
from accuracy_booster.data.pixel_tensors import recoloured


def convert(images: Images, chans: int, name: str) -> None:
    """Give images another number of channels, in place.

    Args:
        name: of the data set, for messages.

    Raises:
        ValueError: unless it is grey (1 channel) that becomes colour (3), or colour grey.
    """
    now = images.channels
    if chans == now:
        return
    if {chans, now} == {1, 3} and isinstance(images, TensorImages):
        images.images, images.channels = recoloured(images.images, chans), chans
    elif {chans, now} == {1, 3} and images.converts:
        images.channels = chans
    else:
        have = f"{now} channel{'s'[: now != 1]}"
        raise ValueError(
            f"in_chans={chans}, but {name} has images of {have}: only grey images (1) are made "
            "colour (3), and colour images grey"
        )
