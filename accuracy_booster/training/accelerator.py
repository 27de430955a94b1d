"""The device and the precision of a training or a measurement, as accelerate's `Accelerator`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from accuracy_booster.ops import bf16_works
from accuracy_booster.training.processes import join_restarted_group
from accuracy_booster.training.run_config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def device_named(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means on this machine.

    Raises:
        ValueError: for another name, or a device that is not here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda', but no CUDA device is available; use device='cpu' or 'auto'"
        )
    return torch.device("cuda" if torch.cuda.is_available() and name != "cpu" else "cpu")


def make_accelerator(config: RunConfig) -> Accelerator:
    """An `Accelerator` with the device and the precision of a configuration.

    Raises:
        ValueError: for a device that is not here, or a precision that the device cannot do.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device_named(config.device)
    join_restarted_group()
    # accelerate keeps its settings in a singleton: without this, those of an earlier run stay
    AcceleratorState._reset_state(reset_partial_state=True)
    # on the CPU, accelerate forms a group of torchrun's processes only where cpu=True
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = config.device == "cpu" or (several and not torch.cuda.is_available())
    precision = "no" if config.precision == "fp32" else config.precision
    # the first one, without mixed precision, tells the device, which decides what is possible
    device = Accelerator(cpu=cpu).device.type
    if precision == "fp16" and device == "cpu":
        raise ValueError("precision='fp16' needs a GPU; on the CPU use fp32 or bf16")
    if precision == "bf16" and not bf16_works(device):
        raise ValueError(
            f"precision='bf16' was tried on this {device} and it failed (a CPU can announce "
            "instructions that it then refuses); use precision='fp32'"
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=precision)
