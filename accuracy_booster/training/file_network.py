"""An exported file as a module, so that it is measured as any other network is."""

# N images, C channels, H W space, K outputs

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from accuracy_booster.data.cropping import default_crop_pct
from accuracy_booster.exported.sessions import Session, open_file


class FileNetwork(nn.Module):
    """A module that computes with an exported file, in the file's own runtime, on the CPU.

    Attributes:
        session: the opened file.
        channels: of its images, C.
        classes: the names of the outputs, [K].
        pretrained_cfg: how its images are made, in timm's words.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session = session
        about = session.about
        self.channels = about.input_size[0]
        self.classes = tuple(about.classes)
        crop_pct = about.crop_pct or default_crop_pct(about.input_size[1:])
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": about.input_size,
            "mean": about.mean,
            "std": about.std,
            "interpolation": about.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": about.crop_mode,
        }

    @classmethod
    def open(cls, path: str | Path) -> FileNetwork:
        """The network of a file; the errors are those of `open_file`."""
        return cls(open_file(path))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, C, H, W] to logits [N, K]."""
        given = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)
        return torch.from_numpy(self.session(given)).to(images.device)
