"""Small pictures for pages, as data: addresses."""

# C channels, H W space

from __future__ import annotations

from typing import Any

from accuracy_booster.report.figures import data_uri

SMALL = 64  # pixels: images up to this size are kept as they are


def thumbnail(pixels: Any, side: int) -> dict[str, Any]:
    """A tensor uint8 [C, H, W] as a PNG, or as a smaller JPEG where it is large.

    Args:
        side: pixels that the longer edge of the picture has at most.

    Returns:
        {"width", "height", "pixelated": whether it is shown larger than it is, "data"}.
    """
    from PIL import Image

    pixels = pixels.cpu()
    if len(pixels) not in (1, 3):  # neither grey nor colours: show the mean in grey
        pixels = pixels.float().mean(0, keepdim=True).round().byte()
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    small = max(picture.size) <= min(SMALL, side)
    if not small:
        picture.thumbnail((side, side))
    return {
        "width": picture.width,
        "height": picture.height,
        "pixelated": small,
        "data": data_uri(picture, "PNG" if small else "JPEG"),
    }
