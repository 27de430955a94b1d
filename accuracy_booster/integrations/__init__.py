"""Boosted networks inside other people's trainers: a file for each package.

None of these packages is imported before one of these functions is called.
"""

from __future__ import annotations

from accuracy_booster import lazy

__all__: list[str] = []

__getattr__, __dir__ = lazy.names(
    __name__,
    {},
    ("huggingface_hub", "mmengine", "timm", "torchvision", "transformers", "ultralytics"),
)
