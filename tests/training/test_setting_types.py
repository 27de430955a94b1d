"""Absurd values of settings are refused in a short line."""

from __future__ import annotations

import pytest
from support.hostile import (
    nested,
)

from accuracy_booster.training.train_config import TrainConfig

HUGE = {
    "epochs": [10**400, 10**12, float("inf"), nested(9000)],
    "lr": [10**400, 10**5000, float("nan"), "x" * 10**6],
    "batch_size": [10**12],
    "eval_batch_size": [10**12],
    "workers": [100_000, 257],
    "image_size": [1_000_000, (8, 10**9), (8, 8, 8), 0, "x", 1.5, True],
    "in_chans": [0, 10**9],
    "num_classes": [10**12],
    "seed": [2**32, 10**5000],
    "mean": [(10**400,), (float("inf"),), "x", (True,)],
    "std": [(10**400,), [1, nested(9000)]],
    "milestones": [(float("nan"),), ("x" * 10**6,)],
    "data": ["x" * 10**6],
    "precision": ["x" * 10**4, nested(9000)],
    "x" * 10**6: [1],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HUGE.items() for value in values],
    ids=[f"{name[:20]}{i}" for name, values in HUGE.items() for i in range(len(values))],
)
def test_absurd_options_are_refused_in_short(name, value):
    with pytest.raises(ValueError, match=name[:5]) as caught:
        TrainConfig("resnet8").change({name: value})
    assert len(str(caught.value)) < 700
