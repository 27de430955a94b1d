"""Opens and decodes images, and says in one line why one cannot be read. Nothing here needs torch.

`encoded_images` makes data sets with it, and `exported` reads the images that it predicts.
"""

# C channels, H W space

from __future__ import annotations

import io
import os
import stat

import numpy as np
from PIL import Image, UnidentifiedImageError

from accuracy_booster.data.image_errors import UnreadableImage
from accuracy_booster.data.image_files import NOT_READ
from accuracy_booster.data.pixels import to_pixels
from accuracy_booster.progress import printable

LARGEST = 178_956_970  # pixels of an image: Pillow's own bound, also where a user has lifted that


def open_image(encoded: bytes | str) -> Image.Image:
    """The image of a file, or of a file's bytes. Its pixels are not yet decoded.

    Raises:
        Exception: of any kind, as Pillow's decoders do; `unreadable` makes one of it.
    """
    size, regular = len(encoded), True
    if isinstance(encoded, str):
        found = os.stat(encoded)
        size, regular = found.st_size, stat.S_ISREG(found.st_mode)
    if not regular:  # reading a pipe may never end
        raise ValueError("it is no regular file")
    if not size:
        raise ValueError("it is empty")
    return checked(Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded))


def checked(image: Image.Image) -> Image.Image:
    """The image, unless its decoding would take too much memory or run another program.

    Raises:
        ValueError: if it would.
    """
    pixels = image.width * image.height
    reason = ""
    if image.format in NOT_READ:
        reason = f"it is {image.format}, which needs another program to be read"
    elif pixels > LARGEST:
        reason = f"its {image.height} x {image.width} pixels are {pixels:,}, more than {LARGEST:,}"
    elif not pixels:
        reason = "it has no pixels"
    if reason:
        image.close()
        raise ValueError(reason)
    return image


def decoded(image: Image.Image, chans: int) -> np.ndarray:
    """An opened image as a viewer shows it, uint8 [H, W, C], of 3 channels or 1.

    Raises:
        Exception: as `open_image`.
    """
    pixels = np.array(to_pixels(image, chans))
    return pixels.reshape(*pixels.shape[:2], chans)


def read_image(path: str, chans: int = 3) -> np.ndarray:
    """The image of a file as a viewer shows it, uint8 [H, W, C], of 3 channels or 1.

    Raises:
        UnreadableImage: if it cannot be decoded.
    """
    try:
        with open_image(path) as image:
            return decoded(image, chans)
    except Exception as e:  # Pillow's decoders raise errors of any kind
        raise unreadable(printable(path), e) from e


def unreadable(where: str, error: Exception) -> UnreadableImage:
    """The error for an image that cannot be read.

    Args:
        where: its file, or its number and the data set.
        error: what opening or decoding it raised.
    """
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        reason = "there is not enough memory to decode it"
    elif isinstance(error, (UnidentifiedImageError, ImportError)):
        # ultralytics replaces Image.open by one that then looks for further packages
        reason = "it is no image of a kind that Pillow reads here"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return UnreadableImage(f"cannot read the image {where}: {printable(reason)}")
