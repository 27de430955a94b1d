"""Whether somebody else's hooks read the outputs of modules; the fast path must then give them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from accuracy_booster.surgery.gate_owners import before_pass
from accuracy_booster.surgery.network_gates import before_network


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody else's hook reads what goes into a module or comes out of it."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(hook not in (before_pass, before_network) for hook in hooks) or bool(
        module._backward_hooks or module._backward_pre_hooks
    )


def is_read(*modules: nn.Module) -> bool:
    """Whether somebody else's hook, on one of these modules or on all modules, reads outputs."""
    return _has_any_global_hook() or any(map(is_hooked, modules))
