"""Helpers of the models' tests: networks without memory, random weights, images, counts."""

# N batch, C channels, H W space

from __future__ import annotations

import math
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab


def on_meta(name: str, **options) -> nn.Module:
    """The network without memory or arithmetic: for counting."""
    with torch.device("meta"):
        return ab.create_model(name, **options)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module) -> int:
    """Multiply-adds of the convolutions and the head for one 32x32 image, without biases."""
    model = model.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running moment gets its own value, so that a swap shows."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            fan_in = value[0].numel() if value.ndim > 1 else 1
            scaled = noise / math.sqrt(fan_in) if value.ndim > 1 else 0.3 * noise
            is_scale = value.ndim == 1 and re.search(r"(bn\d?|norm)\.weight|running_var", name)
            value.copy_(scaled.abs() + 0.5 if is_scale else scaled)
    return model


def images(count: int = 2, height: int = 12, width: int = 12, chans: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, chans, height, width, generator=generator, dtype=torch.float64)


def order(model: nn.Module, x: torch.Tensor) -> tuple[list[str], list[str]]:
    """The leaf modules as registered, and as they run."""
    registered = [name for name, module in model.named_modules() if not list(module.children())]
    run: list[str] = []
    for leaf in registered:
        model.get_submodule(leaf).register_forward_hook(lambda *_, leaf=leaf: run.append(leaf))
    model.eval()(x)
    return registered, run


def large_images(count: int = 2, side: int = 64, chans: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, chans, side, side, generator=generator, dtype=torch.float64)


QUICK = ["resnet18", "wrn18_2", "shufflenet_g3"]


def put_in_hub_cache(
    cache: Path, repository: str, state: dict[str, torch.Tensor], form: str = "model.safetensors"
) -> None:
    """Lay weights into a cache of the Hugging Face hub, as if they had been downloaded."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    for name in ("refs", f"snapshots/{commit}"):
        (folder / name).mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    file = folder / "snapshots" / commit / form
    if form.endswith(".safetensors"):
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
