"""What a benchmark ran on: processor, threads, torch and oneDNN."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from accuracy_booster.analysis.measuring import processor
from accuracy_booster.data.cores import usable_cores


@dataclass(frozen=True)
class Machine:
    """Where something was measured.

    Attributes:
        device: the model of the processor or of the GPU.
        cores: the processor's cores that this process may use.
        threads: those that torch uses.
        instructions: the vector instructions that torch's own kernels use, such as "AVX512".
        torch: its version.
        onednn: the version of the library of convolutions in it; "" if it has none.
    """

    device: str
    cores: int
    threads: int
    instructions: str
    torch: str
    onednn: str

    def __str__(self) -> str:
        onednn = f", oneDNN {self.onednn}" if self.onednn else ""
        threads = f"{self.threads} thread{'s'[: self.threads != 1]}"
        cores = f"{self.cores} core{'s'[: self.cores != 1]}"
        return (
            f"{self.device}, {threads} on {cores}, {self.instructions}, torch {self.torch}{onednn}"
        )


def this_machine(device: torch.device) -> Machine:
    """The machine that this process runs on."""
    gpu = device.type == "cuda"
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return Machine(
        device=torch.cuda.get_device_name(device) if gpu else processor(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        onednn=found[1] if found else "",
    )
