"""Small exported files, with any texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy.writing import converted
from accuracy_booster.exported import About
from accuracy_booster.exported.formats import format_of

NAMES = {"onnx": "model.onnx", "torch": "model.pt2", "openvino": "model.xml"}
ABOUT = About("means", "none", ("a", "b", "c"), (3, 8, 10), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def means() -> nn.Module:
    """A network whose outputs are linear in the mean of each channel, images [N, 3, 8, 10]."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()


@cache
def _saver(name: str, batch: int | None, with_texts: bool) -> Any:
    # without texts it is converted anew: a program keeps the texts that it was saved with
    return converted(means(), format_of(Path(name)), ABOUT.input_size, batch=batch)


def write_means(
    path: Path, texts: Mapping[str, str] | None = None, batch: int | None = None
) -> Path:
    """Write `means()` with texts, by default those of ABOUT; `batch` for a fixed number."""
    texts = replace(ABOUT, batch=batch).to_texts() if texts is None else texts
    said: Any = SimpleNamespace(to_texts=lambda: dict(texts))
    _saver(f"x{path.suffix}", batch, bool(texts))(path, said)
    return path
