"""A gated module: one that applies a gate to its own output.

A module becomes gated when its class is replaced by a subclass, as `torch.nn.utils.parametrize`
does: `BatchNorm2d` becomes `GatedBatchNorm2d`, whose forward is `gate(BatchNorm2d.forward(...))`.
Other tools see the subclass. `torch.compile` guards it, `isinstance` still holds, and a tool that
asks for the exact class leaves the module alone or refuses it; none drops the gate unseen.

The gate is usually the module's child `recalibrate`. A container such as `nn.Sequential` may run
its children itself, so its gate is kept inside one of its layers, which runs no children.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.utils import parametrize

from accuracy_booster.blocks import Recalibrate

ATTRIBUTE = "recalibrate"
PATH = "_gate_path"  # on a gated module: the names that lead from it to its gate
APPLIED = "_gate_applied"  # on one with a forward of its own: whether that ran the class's forward
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_RUN_NO_CHILDREN = (*_NORMS, nn.modules.conv._ConvNd, nn.Linear)


def is_gated(module: nn.Module) -> bool:
    """Whether a module's class applies a gate and the module has one."""
    return getattr(type(module), "_applies_gate", False) and bool(getattr(module, PATH, ()))


def applied_gate(module: nn.Module) -> Recalibrate | None:
    """The gate that a module applies to its output, or None, also if it has been removed."""
    if not is_gated(module):
        return None
    gate: Any = module
    for name in getattr(module, PATH):
        gate = getattr(gate, name, None)
    return gate


def gate_of(module: nn.Module) -> Recalibrate | None:
    """The gate that a module applies to its output, or None if it is not gated.

    Raises:
        RuntimeError: if it has one that has been removed since.
    """
    gate = applied_gate(module)
    if gate is None and is_gated(module):
        raise RuntimeError(
            f"the gate of this {type(module).__name__} was at {'.'.join(getattr(module, PATH))!r} "
            "in it and is gone; boost the network after such changes, not before"
        )
    return gate


def ungated_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module without its gate."""
    return getattr(type(module), "_ungated_class", type(module))


def add_gate(module: nn.Module, gate: Recalibrate) -> None:
    """Make a module apply a gate to its output, in place.

    Raises:
        ValueError: if the module has a gate, or cannot be given one.
    """
    home = home_of(module)
    holder = module.get_submodule(home)
    if getattr(holder, ATTRIBUTE, None) not in (None, gate):
        raise ValueError(f"{type(holder).__name__} already has {ATTRIBUTE!r}; detach it first")
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{type(module).__name__} is scripted; give the Python module instead")
    if ATTRIBUTE not in holder._modules:
        holder.add_module(ATTRIBUTE, gate)
    module.__dict__[PATH] = (*filter(None, home.split(".")), ATTRIBUTE)
    if not getattr(type(module), "_applies_gate", False):
        _change_class(module, gated_class)
    if "forward" in module.__dict__:
        setattr(module, "forward", module.__dict__["forward"])  # noqa: B010 - through the class


def remove_gate(module: nn.Module) -> None:
    """Take a module's gate off, in place."""
    holder: Any = module
    *names, _ = module.__dict__.pop(PATH)
    own = module.__dict__.get("forward")
    if isinstance(own, InstanceForward):
        module.__dict__["forward"] = own.forward
    for name in names:
        holder = getattr(holder, name, None)
    if holder is not None:
        holder._modules.pop(ATTRIBUTE, None)
    if hasattr(type(module), "_ungated_class") or parametrize.is_parametrized(module):
        _change_class(module, lambda cls: cls.__dict__.get("_ungated_class", cls))


def home_of(module: nn.Module) -> str:
    """The name, inside a module, of the layer that holds its gate; "" for the module itself.

    Raises:
        ValueError: for a container with no layer that could.
    """
    if isinstance(module, _RUN_NO_CHILDREN):
        return ""
    inside = [(name, m) for name, m in module.named_modules() if name]
    inside = [(n, m) for n, m in inside if f".{ATTRIBUTE}." not in f".{n}."]
    if not inside and not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return ""
    free = [(n, m) for n, m in inside if not hasattr(m, ATTRIBUTE)]
    layers = [n for n, m in free if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))]
    leaves = [n for n, m in free if not any(True for _ in m.children())]
    leaves = [n for n in leaves if not isinstance(module.get_submodule(n), nn.Sequential)]
    if not layers and not leaves:
        raise ValueError(
            f"a {type(module).__name__} without a layer inside cannot hold a gate; name the module "
            "before or around it, or put an nn.Identity in it"
        )
    return (layers or leaves)[-1]


def _change_class(module: nn.Module, change: Callable[[type], type]) -> None:
    """Change a module's class, or the class under that of `torch.nn.utils.parametrize`."""
    cls: Any = type(module)
    if parametrize.is_parametrized(module):
        (base,) = cls.__bases__
        changed = change(base)
        new = cls if changed is base else type(cls)(cls.__name__, (changed,), dict(cls.__dict__))
    else:
        new = change(cls)
    setattr(module, "__class__", new)  # noqa: B010 - mypy refuses a plain assignment


_made: dict[type, type] = {}  # each class is made once, so that a compiler meets it again


def gated_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` that applies a gate."""
    if base not in _made:
        _made[base] = _make_class(base)
    return _made[base]


def _make_class(base: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = base.forward(self, *args, **kwargs)
        gate = gate_of(self)
        if APPLIED in self.__dict__:
            self.__dict__[APPLIED] = True
        return output if gate is None else gate(output)

    def __setattr__(self: nn.Module, name: str, value: Any) -> None:
        if name == "forward":
            set_forward(self, value)
        else:
            base.__setattr__(self, name, value)

    def eval(self: nn.Module) -> nn.Module:
        warn_of_frozen_gate(self)
        return base.eval(self)

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        if not requires_grad:
            warn_of_frozen_gate(self)
        return base.requires_grad_(self, requires_grad)

    def _load_from_state_dict(self: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        use_home_names(self, state_dict, prefix)
        base._load_from_state_dict(self, state_dict, prefix, *rest)

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        reduced: Any = base.__reduce_ex__(self, protocol)
        make, args, *rest = reduced
        if type(self) is not cls:  # a class of another tool on top of this one
            return (make, args, *rest)
        return (_rebuild, (make, *(base if a is cls else a for a in args)), *rest)

    metaclass: Any = _metaclass(type(base))
    cls = metaclass(
        f"Gated{base.__name__}",
        (base,),
        {
            # torch.fx takes a module of torch.nn for one step of its graph by this name
            "__module__": base.__module__,
            "__doc__": f"{base.__name__} that applies a gate to its output.",
            "_applies_gate": True,
            "_ungated_class": base,
            PATH: (),
            "forward": forward,
            "__setattr__": __setattr__,
            "eval": eval,
            "requires_grad_": requires_grad_,
            "_load_from_state_dict": _load_from_state_dict,
            "__reduce_ex__": __reduce_ex__,
        },
    )
    return cls


def _metaclass(base: type) -> type:
    """A metaclass whose classes say in other tools' errors what to do."""
    if base in _made:
        return _made[base]

    def __repr__(cls: type) -> str:
        if "_ungated_class" not in cls.__dict__:
            return type.__repr__(cls)
        return (
            f"<{cls.__name__}: {cls._ungated_class.__name__} with a gate of accuracy_booster; "  # type: ignore[attr-defined]
            "ab.materialize(model) makes gates ordinary modules>"
        )

    _made[base] = type("GatedType", (base,), {"__repr__": __repr__})
    return _made[base]


def _rebuild(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    """What a pickle calls: an object of the module's own class, made gated."""
    follow_rebuilt_modules()
    module = make(*args)
    setattr(module, "__class__", gated_class(type(module)))  # noqa: B010 - for mypy
    return module


def follow_rebuilt_modules() -> None:
    """Have torch call `_rebuilt` whenever a module is registered. It is asked once in a process."""
    if _rebuilt not in module_hooks._global_module_registration_hooks.values():
        module_hooks.register_module_module_registration_hook(_rebuilt)


def _rebuilt(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Hand the gate of the module that stood at `name` on to the one that takes its place."""
    old = parent._modules.get(name)
    if old is None or new is None or old is new or is_gated(new):
        return
    if (gate := applied_gate(old)) is None:
        return
    moved = any(module is new for module in parent._modules.values())
    wrapped = any(module is old for module in new.modules())
    if wrapped:
        _warn_of_adapter(name, old, new)
    elif not moved:
        add_gate(new, gate)


def _warn_of_adapter(name: str, old: nn.Module, new: nn.Module) -> None:
    """Warn where a wrapper adds weights of its own (LoRA) beside a gated module."""
    own = {id(p) for p in old.parameters()}
    copies = sum(is_gated(module) for module in new.modules()) > 1
    if not copies and any(id(p) not in own for p in new.parameters()):
        warnings.warn(
            f"{type(new).__name__} wraps {name!r}, whose gate now acts inside it and not on what "
            "the wrapper adds; merging the wrapper later changes the output. Wrap first and boost "
            "afterwards",
            stacklevel=3,
        )


class InstanceForward:
    """A forward that a tool put on one gated module, past its class, and the gate after it.

    ultralytics' `fuse` puts one there that leaves the norm out; accelerate's hooks put one there
    that calls the class's forward, which applies the gate. So the gate is applied here only if the
    class's forward has not run.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]):
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = self.module.__dict__
        state[APPLIED] = False
        try:
            output = self.forward(*args, **kwargs)
            done = state[APPLIED]
        finally:
            state.pop(APPLIED, None)
        gate = None if done else gate_of(self.module)
        return output if gate is None else gate(output)


def set_forward(module: nn.Module, forward: Any) -> None:
    """`module.forward = forward` for a module that applies a gate."""
    if is_gated(module) and not isinstance(forward, InstanceForward):
        forward = functools.update_wrapper(InstanceForward(module, forward), forward)
    module.__dict__["forward"] = forward


def warn_of_frozen_gate(module: nn.Module) -> None:
    """Warn where a loop over the norms of a network freezes gates, which are children of norms."""
    gate = gate_of(module)
    if gate is None or not isinstance(module, _NORMS):
        return
    if gate.training or any(p.requires_grad for p in gate.parameters()):
        warnings.warn(
            "a norm that holds a gate was frozen, and the gate with it: its statistics or "
            "parameters stay as they are; ab.freeze_norms(model) freezes the network's norms and "
            "lets the gates learn",
            stacklevel=3,
        )


def use_home_names(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the gate's keys of a state dict that was made when containers held their gates."""
    path = getattr(module, PATH)
    if len(path) < 2:
        return
    before, after = f"{prefix}{ATTRIBUTE}.", f"{prefix}{'.'.join(path)}."
    for key in [key for key in state_dict if key.startswith(before)]:
        state_dict[after + key.removeprefix(before)] = state_dict.pop(key)
