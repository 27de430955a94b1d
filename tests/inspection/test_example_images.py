"""Example images on the page."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.inspections import RESNET20, make_inspection

from accuracy_booster.inspection.example_images import thumbnails


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_number_of_channels_and_size(channels):
    for side in (5, 32, 200):
        inspection = make_inspection(RESNET20[:1], images=60, pictures=side)
        generator = torch.Generator().manual_seed(0)
        pictures = {
            i: torch.randint(0, 256, (channels, side, side), generator=generator).byte()
            for i in range(60)
        }
        found, most = thumbnails(replace(inspection, pictures=pictures))
        assert most == 4
        assert 0 < len(found) <= 24
        for picture in found.values():
            assert (picture["width"], picture["height"]) == (min(side, 96),) * 2
            assert picture["data"].startswith(
                f"data:image/{'png' if side < 96 else 'jpeg'};base64,"
            )
