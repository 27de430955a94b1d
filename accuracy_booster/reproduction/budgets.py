"""How long a training may take: the settings of each budget, by data set.

paper   the standard schedule of the network's family (`training.presets`)
short   the same settings in few epochs, with a learning rate that falls along a cosine
smoke   one epoch on the built-in digits, or of a detector on a few images. It shows that every row
        can be trained; its accuracies mean nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUDGETS = ("paper", "short", "smoke")
SMOKE = {"data": "digits", "epochs": 1}
_CIFAR: dict[str, Mapping[str, Any]] = {
    "paper": {},
    "short": {"epochs": 10, "schedule": "cosine"},
    "smoke": SMOKE,
}
# A step has 16 images, which are computed two at a time to save memory. The norms are frozen, so
# the step is the same as with all 16 at once.
_COCO = {"batch_size": 16, "accumulate": 8, "lr": 0.02, "workers": 4}
STANDARD: dict[str, dict[str, Mapping[str, Any]]] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet": {"paper": {}, "short": {"epochs": 18, "schedule": "cosine"}, "smoke": SMOKE},
    "coco": {
        "paper": {**_COCO, "epochs": 18, "milestones": (2 / 3, 8 / 9)},
        "short": {**_COCO, "epochs": 4, "schedule": "cosine"},
        "smoke": {"data": "coco_tiny", "epochs": 1, "batch_size": 4, "lr": 0.005},
    },
}
# For tables of times: the images of a batch, and how often each network is timed in turn.
TIMES: dict[str, Mapping[str, Any]] = {
    "paper": {"batch_size": 256, "rounds": 10},
    "short": {"batch_size": 16, "rounds": 10},
    "smoke": {"batch_size": 2, "rounds": 3, "input_size": (3, 64, 64)},
}
