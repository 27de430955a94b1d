"""Fused layers run in steps, so that they can be counted."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch

import accuracy_booster as ab


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/vit_b_16"])
def test_attention_counts_the_same_whatever_kernel_the_device_takes(name):
    """On the CPU, torch fuses attention in eval mode."""
    costs = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            cost = ab.complexity(ab.create_model(name))
        costs.append((cost.macs, cost.activations, cost.uncounted))
    assert costs[0] == costs[1]
