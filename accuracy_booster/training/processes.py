"""What the processes of one training share: torchrun's group, settings and data, and statistics.

A training of several processes is started by torchrun, which sets the environment variables that
are read here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from accuracy_booster.ops.batch_norm import BatchNormMode
from accuracy_booster.ops.synchronising import moments_of_all_processes
from accuracy_booster.training.identity import differences
from accuracy_booster.training.run_config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from accuracy_booster.training.task import TrainingData


def restart_count() -> int:
    """How often torchrun has started this command again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join_restarted_group() -> None:
    """After a restart by torchrun, form the process group at addresses of this attempt.

    All attempts share torchrun's store. A process can still find there the address of a process
    that died in the attempt before, and would wait for it. So each attempt has a prefix.
    """
    from torch import distributed

    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not restart_count() or not shared or distributed.is_initialized():
        return
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    if world < 2:
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(host, port, world, is_master=False)
    own = distributed.PrefixStore(f"accuracy-booster/attempt{restart_count()}", store)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world)


def check_processes_agree(accelerator: Accelerator, config: RunConfig, data: TrainingData) -> None:
    """Check that all processes read the same data with the same settings.

    Processes with other data take other numbers of steps, and then wait for each other for ever.

    Raises:
        ValueError: in all processes, if one of them differs from the first one.
    """
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import broadcast_object_list, gather_object

    first: list[Any] = [config.to_yaml(), data.marks]
    broadcast_object_list(first)
    text, marks = first
    told = [
        f"its {split} split of {data.name} has {changed}"
        for split in data.marks
        if (changed := data.difference(split, marks.get(split, {})))
    ]
    # mean and std are computed from the data: where these differ, they need not be told too
    computed = ("mean", "std") if told else ()
    first_config = type(config).from_yaml(text)
    if other := differences(config, first_config, "output", "workers", *computed):
        told.append(f"it has {other}")
    wrong = [
        f"process {rank} differs from process 0: {', '.join(found)}"
        for rank, found in enumerate(gather_object([told]))
        if found
    ]
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}; give all processes the same data and the same settings"
        )


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, since its network is the one that is saved.

    Without synchronised batch norms each process has running statistics of its own images.
    """
    from torch import distributed

    for buffer in model.buffers():
        distributed.broadcast(buffer, src=0)


def synchronised() -> BatchNormMode:
    """`with synchronised():` batch norms in training mode normalise over all processes' images.

    torch's SyncBatchNorm refuses tensors on the CPU. Here the processes merge their moments,
    weighted by how many values each has, on any device.
    """
    return BatchNormMode(moments_of_all_processes)
