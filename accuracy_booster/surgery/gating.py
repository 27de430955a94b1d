"""Make a module apply a gate to its own output, by changing its class; the one place that does so.

`BatchNorm2d` becomes `GatedBatchNorm2d`, a subclass whose forward is
`gate(BatchNorm2d.forward(...))`. `torch.nn.utils.parametrize` changes classes in the same way. Only
a change of class keeps the module itself: its identity, which optimizers, hooks and shared modules
rely on, and its name and those of its parameters, which checkpoints rely on. Other tools see the
subclass. `torch.compile` guards it and `isinstance` still holds. A tool that asks for the exact
class leaves the module alone or refuses it; none drops the gate silently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.utils import parametrize

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.gate_holders import holder_of, use_holder_names
from accuracy_booster.surgery.gate_warnings import (
    warn_of_adapter,
    warn_of_bias,
    warn_of_folded_norm,
    warn_of_frozen_gate,
    warn_of_other_layer,
    warn_of_replaced_container,
)
from accuracy_booster.surgery.gated import ATTRIBUTE, PATH, applied_gate, gate_of, is_gated
from accuracy_booster.surgery.kept_gates import OWNERS
from accuracy_booster.surgery.other_packages import register_integrations
from accuracy_booster.surgery.own_forwards import APPLIED, OwnForward, set_forward
from accuracy_booster.surgery.replaced_containers import replacement

Class = TypeVar("Class", bound=type)
Hook = Callable[[nn.Module, str, "nn.Module | None"], None]
# Called whenever gates are made or unpickled: files that follow other packages add to it.
WHEN_GATES_ARE_MADE: list[Callable[[], None]] = []


def add_gate(module: nn.Module, gate: Recalibrate) -> None:
    """Make a module apply a gate to its output, in place.

    Raises:
        ValueError: if the module has a gate, or cannot be given one.
    """
    holder_name = holder_of(module)
    holder = module.get_submodule(holder_name)
    if getattr(holder, ATTRIBUTE, None) not in (None, gate):
        raise ValueError(f"{type(holder).__name__} already has {ATTRIBUTE!r}; detach it first")
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{type(module).__name__} is scripted; give the Python module instead")
    if ATTRIBUTE not in holder._modules:
        holder.add_module(ATTRIBUTE, gate)
    module.__dict__[PATH] = (*filter(None, holder_name.split(".")), ATTRIBUTE)
    if not getattr(type(module), "_applies_gate", False):
        _change_class(module, gated_class)
    if "forward" in module.__dict__:
        setattr(module, "forward", module.__dict__["forward"])  # noqa: B010 - through the class


def fit_gate(gate: Recalibrate, module: nn.Module) -> None:
    """Give a gate the device and the type of the numbers of a module."""
    like = next((t for t in tensors_in(module) if t.is_floating_point()), None)
    if like is not None:
        with torch.inference_mode(False):
            gate.to(device=like.device, dtype=like.dtype)


def tensors_in(module: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters of a module, then its buffers."""
    yield from module.parameters()
    yield from module.buffers()


def remove_gate(module: nn.Module) -> None:
    """Take the gate of a gated module off, in place."""
    holder: Any = module
    *names, _ = module.__dict__.pop(PATH)
    own = module.__dict__.get("forward")
    if isinstance(own, OwnForward):
        module.__dict__["forward"] = own.forward
    for name in names:
        holder = getattr(holder, name, None)
    if holder is not None:
        holder._modules.pop(ATTRIBUTE, None)
    if hasattr(type(module), "_ungated_class") or parametrize.is_parametrized(module):
        _change_class(module, lambda cls: cls.__dict__.get("_ungated_class", cls))


def _once_per_class(make: Callable[[Class], Class]) -> Callable[[Class], Class]:
    """Make each class once, so that `torch.compile` meets the same class again."""
    return cast(Callable[[Class], Class], functools.cache(make))


def _change_class(module: nn.Module, change: Callable[[type], type]) -> None:
    """Change the class of a module, or the class under that of `torch.nn.utils.parametrize`."""
    cls: Any = type(module)
    if parametrize.is_parametrized(module):
        (base,) = cls.__bases__
        changed = change(base)
        new = cls if changed is base else type(cls)(cls.__name__, (changed,), dict(cls.__dict__))
    else:
        new = change(cls)
    setattr(module, "__class__", new)  # noqa: B010 - mypy refuses a plain assignment


@_once_per_class
def gated_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` that applies a gate."""

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
            if name == "bias":
                warn_of_bias(self, value)
            base.__setattr__(self, name, value)

    def eval(self: nn.Module) -> nn.Module:
        warn_of_frozen_gate(self)
        return base.eval(self)

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        if not requires_grad:
            warn_of_frozen_gate(self)
        return base.requires_grad_(self, requires_grad)

    def _load_from_state_dict(self: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        use_holder_names(self, state_dict, prefix)
        base._load_from_state_dict(self, state_dict, prefix, *rest)

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        reduced: Any = base.__reduce_ex__(self, protocol)
        make, args, *rest = reduced
        if type(self) is not cls:  # another tool has made a subclass of this one
            return (make, args, *rest)
        return (_rebuild, (make, *(base if a is cls else a for a in args)), *rest)

    metaclass: Any = _metaclass(type(base))
    cls = metaclass(
        f"Gated{base.__name__}",
        (base,),
        {
            # torch.fx treats a module as one step of its graph if this name is that of torch.nn
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


@_once_per_class
def _metaclass(base: type) -> type:
    """A metaclass whose classes say what to do where another tool's error prints them."""

    def __repr__(cls: type) -> str:
        if "_ungated_class" not in cls.__dict__:
            return type.__repr__(cls)
        return (
            f"<{cls.__name__}: {cls._ungated_class.__name__} with a gate of accuracy_booster; "  # type: ignore[attr-defined]
            "ab.materialize(model) makes gates ordinary modules>"
        )

    return type("GatedType", (base,), {"__repr__": __repr__})


def _rebuild(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    """What `pickle` and `copy.deepcopy` call: make an object of the base class, then gate it."""
    follow_rebuilt_modules()
    module = make(*args)
    setattr(module, "__class__", gated_class(type(module)))  # noqa: B010 - for mypy
    return module


# --- modules that other tools rebuild


def follow_rebuilt_modules() -> None:
    """Have gates follow modules that other tools rebuild or build, from now on in this process.

    torch then calls `_hand_gate_on`, and what was added to it, at each registration of a module.
    They do nothing but where a gated module is replaced, or a network is built from a configuration
    that carries the record of its gates. The first gate that is made or unpickled in a process
    calls this. Importing the package does not.
    """
    register_integrations()
    present = module_hooks._global_module_registration_hooks.values()
    for hook in [hook for hook in _hooks if hook not in present]:
        module_hooks.register_module_module_registration_hook(hook)
    for follow in WHEN_GATES_ARE_MADE:
        follow()


def follow_rebuilt_modules_with(hook: Hook) -> None:
    """Add a hook to those that `follow_rebuilt_modules` registers."""
    _hooks.append(hook)


def _hand_gate_on(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Give the gate of the module that stands at `name` to the one that replaces it.

    If that is a container with gates inside, the new module may get one of them, and a warning
    names those that go away with the old one.
    """
    modules = parent._modules  # of a scripted module it is no dict, and has no `get`
    old = modules[name] if name in modules else None  # noqa: SIM401
    if old is None or old is new:
        return
    gate = applied_gate(old)
    if gate is None:
        _hand_on_from_inside(parent, name, old, new)
        return
    if new is None:
        return
    warn_of_folded_norm(name, old, parent, new)
    if is_gated(new):
        return
    moved = any(module is new for module in parent._modules.values())
    wrapped = any(module is old for module in new.modules())
    if wrapped:
        warn_of_adapter(name, old, new)
    elif not moved:
        add_gate(new, gate)


def _hand_on_from_inside(
    parent: nn.Module, name: str, old: nn.Module, new: nn.Module | None
) -> None:
    """Give a gate inside a container to the module that replaces it; warn of those that are lost.

    A network that is let go (`trainer.model = None`) is not lost.
    """
    if new is None and any(OWNERS in module.__dict__ for module in old.modules()):
        return
    others = [m for n, m in parent._modules.items() if m is not None and n != name]
    change = replacement(old, new, others)
    if change.gate is not None and new is not None:
        fit_gate(change.gate, new)
        add_gate(new, change.gate)
        if change.differs:
            warn_of_other_layer(name, parent, new)
    for kept in change.told:
        kept.told = True
    if change.lost:
        warn_of_replaced_container(name, change.lost, parent, new)


_hooks: list[Hook] = [_hand_gate_on]
