"""What each of two processes does with a boosted network in DistributedDataParallel.

Processes that are spawned import it by name, so it cannot be in a file of tests.
"""

from __future__ import annotations

import torch
from torch import nn

import accuracy_booster as ab
from support.boosting import EXAMPLE, images, net
from support.gates import stir


def run_ddp(rank, store, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    try:
        torch.manual_seed(0)
        model = stir(ab.boost(net(), "ab", example=EXAMPLE, init="identity"))
        wrapped = nn.parallel.DistributedDataParallel(model)
        try:
            ab.boost(wrapped, "ab", example=EXAMPLE)
            refused = ""
        except ValueError as e:
            refused = str(e)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        torch.manual_seed(rank)
        for _ in range(2):
            optimizer.zero_grad()
            wrapped(images()).square().sum().backward()
            optimizer.step()
        torch.manual_seed(7)
        state = {"parameters": dict(wrapped.module.named_parameters()), "refused": refused}
        state["output"] = wrapped.module.eval()(images())
        torch.save(state, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
