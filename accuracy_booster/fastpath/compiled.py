"""A network compiled for inference with frozen weights, and the check that they are frozen.

Frozen weights are constants in the compiled network, laid out for the processor. On the CPU this
is the fastest form that torch has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accuracy_booster.fastpath.frozen import check, profile
from accuracy_booster.fastpath.opponent import Stock
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.ops import backend


class Compiled(Stock):
    """A compiled network, to be called as the network is; it gives no gradients.

    The first call with another shape of input compiles the network for that shape. With `graphs`,
    as for `compile_for_inference`, each call writes into the output of the one before.

    Attributes:
        network: the network.
        frozen: what the check found; None if there was none, as on a GPU.
    """

    def __init__(self, network: nn.Module, *, graphs: bool = False):
        super().__init__(network, graphs=graphs)
        # The kernel reads maps in this order of memory. The compiler keeps the order that maps have
        # while it follows the network, so it must begin with it.
        self.channels_last = any(isinstance(m, PackedConv2d) for m in network.modules())

    def __call__(self, *inputs: Any) -> Any:
        if self.channels_last:
            inputs = tuple(map(_channels_last, inputs))
        with torch.no_grad(), compiling():
            return self.forward(*inputs)


def compile_for_inference(
    network: nn.Module, *example: torch.Tensor, sums: bool = False, graphs: bool = False
) -> Compiled:
    """Compile a network with frozen weights, and check that they are frozen.

    `torch.compile(network, options={"freezing": True})` does not freeze (torch 2.15): the setting
    must hold while the first call compiles, and gradients must be off. On the CPU one call is
    profiled for the check. Weights that change later have no effect.

    Args:
        network: in eval mode; `ab.fold` it first.
        example: what it is called with.
        sums: whether some convolution must compute a residual sum; if none does, that is an error.
        graphs: on a GPU, record the kernels once and replay them (CUDA graphs). At small batches
            this takes much less time than launching each kernel. Each call then writes into the
            same output: `.clone()` what is to be kept.

    Raises:
        ValueError: for a network that is compiled or in training mode, and for one that this
            machine or this torch does not freeze.
    """
    if isinstance(network, torch._dynamo.OptimizedModule):
        raise ValueError("the network is compiled already; pass the one that it was made from")
    if network.training:
        raise ValueError("the network is in training mode; call network.eval() first")
    if not example:
        raise ValueError("no example; give the batch that the network will be called with")
    compiled = Compiled(network, graphs=graphs)
    compiled(*example)
    if any(x.device.type != "cpu" for x in example):
        return compiled
    found = profile(compiled, *example)
    if found.packed or found.plain or found.ours:
        compiled.frozen = found
        check(found, sums=sums)
    return compiled


def _channels_last(x: Any) -> Any:
    """A batch of images in channels-last memory; anything else as it is."""
    images = isinstance(x, torch.Tensor) and x.ndim == 4
    return x.contiguous(memory_format=torch.channels_last) if images else x


@contextmanager
def compiling() -> Iterator[None]:
    """Within it torch freezes the weights of what it compiles, and may use our kernel."""
    import torch._inductor.config as settings

    # imported here since they import the compiler
    from accuracy_booster.fastpath.joining import JoinEpilogues, OverwriteShortcuts

    passes: dict[str, Any] = {
        "post_grad_custom_pre_pass": JoinEpilogues(),
        "post_grad_custom_post_pass": OverwriteShortcuts(),
    }
    with settings.patch(freezing=True, **passes), backend.joining():
        yield
