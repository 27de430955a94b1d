"""What one pass does: every call on what depends on the input, and which module gave what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.passes import as_inputs


@dataclass(eq=False)
class Value:
    """A tensor that depends on the input, at one moment: an in-place call makes a new value."""

    index: int  # in order of creation
    shape: tuple[int, ...]
    call: Call | None  # what made it; None for the input
    ancestors: int  # bit i is set if value i flows into this one, and for itself
    modules: list[str] = field(default_factory=list)  # whose output it is, the innermost first
    through: list[str] = field(default_factory=list)  # modules that hand it on, as nn.Identity
    users: list[Call] = field(default_factory=list)

    def flows_into(self, other: Value) -> bool:
        return bool(other.ancestors >> self.index & 1)


@dataclass(eq=False)
class Call:
    """A torch function, or a module inside of which none was seen (name "module")."""

    name: str
    inputs: list[Value]  # the arguments that depend on the input of the network
    learned: bool  # whether another argument is a tensor that is no buffer: a weight
    arguments: tuple[Any, ...]  # the positional ones, tensors as None
    module: str | None = None  # the innermost module that was running
    outputs: list[Value] = field(default_factory=list)


class Trace(TorchFunctionMode):
    """The graph of what runs while it is entered; `values[0]` is the input.

    It follows the identity of tensors through torch's functions and through modules, so Python
    control flow, in-place calls and shared modules are what they are.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.values: list[Value] = []
        self.calls_of: dict[str, int] = {}  # how often a module ran
        self.gives_tensor: set[str] = set()  # modules whose output is one tensor, in no container
        self.input_of: dict[str, Value] = {}  # the first input of a module's last call
        self._known = WeakTensorKeyDictionary()
        self._names = {
            module: name
            for name, module in model.named_modules()
            if f".{ATTRIBUTE}." not in f".{name}."  # gates that are there are no places for gates
        }
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._stack: list[tuple[nn.Module, int, list[Value]]] = []
        self._live = 0  # bit i is set if value i flows into the network's output
        self._returned: set[Value] = set()

    def run(self, model: nn.Module, example: Any) -> Any:
        """One pass of the example, as `passes.as_inputs` takes it; returns the model's output."""
        args, kwargs = as_inputs(example)
        for tensor in tensors_of((args, kwargs)):
            self._bind(tensor, None, [])
        with ExitStack() as stack:
            for register, hook in (
                (module_hooks.register_module_forward_pre_hook, self._enter_module),
                (module_hooks.register_module_forward_hook, self._leave_module),
            ):
                stack.callback(register(hook).remove)
            stack.enter_context(_scripted_calls(self))
            stack.enter_context(self)
            output = model(*args, **kwargs)
        for tensor in tensors_of(output):
            if tensor in self._known:
                self._live |= self._known[tensor].ancestors
                self._returned.add(self._known[tensor])
        return output

    def is_returned(self, value: Value) -> bool:
        """Whether the caller of the network reads a value."""
        return value in self._returned

    def is_live(self, call: Call) -> bool:
        """Whether anything of a call flows into the network's output."""
        return any(self._live >> value.index & 1 for value in call.outputs)

    def _bind(self, tensor: torch.Tensor, call: Call | None, inputs: list[Value]) -> Value:
        index = len(self.values)
        ancestors = 1 << index
        for value in inputs:
            ancestors |= value.ancestors
        value = Value(index, tuple(tensor.shape), call, ancestors)
        self.values.append(value)
        self._known[tensor] = value
        return value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        outputs = list(tensors_of(result))
        if outputs and name not in CREATES and not _by_zero(name, args):
            self._record(name, args, kwargs, outputs)
        return result

    def _record(self, name: str, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
        tensors = list(tensors_of((args, kwargs)))
        inputs = [self._known[t] for t in tensors if t in self._known]
        if not inputs:
            return
        others = [t for t in tensors if t not in self._known and t.numel() > 1]
        learned = any(id(t) not in self._buffers for t in others)
        plain = tuple(None if isinstance(a, torch.Tensor) else a for a in args)
        running = self._names.get(self._stack[-1][0]) if self._stack else None
        call = Call(name, inputs, learned, plain, running)
        in_place = _in_place(name, kwargs)
        for tensor in outputs:
            if tensor in self._known and not in_place:
                continue  # handed through, as dropout in eval mode does
            call.outputs.append(self._bind(tensor, call, inputs))
        if call.outputs:
            for value in inputs:
                value.users.append(call)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        inputs = [self._known[t] for t in tensors_of(args) if t in self._known]
        self._stack.append((module, len(self.values), inputs))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        entered, first, inputs = self._stack.pop()
        assert entered is module
        name = self._names.get(module)
        outputs = list(tensors_of(output))
        unseen = [t for t in outputs if t not in self._known]
        if unseen and inputs:  # a scripted function or an autograd.Function: opaque
            learned = any(True for _ in module.parameters())
            call = Call("module", inputs, learned, ())
            call.outputs = [self._bind(t, call, inputs) for t in unseen]
            for value in inputs:
                value.users.append(call)
        if name is None:
            return
        self.calls_of[name] = self.calls_of.get(name, 0) + 1
        if isinstance(output, torch.Tensor):
            self.gives_tensor.add(name)
        if inputs:
            self.input_of[name] = inputs[0]
        for tensor in outputs:
            value = self._known.get(tensor)
            if value is not None:
                (value.modules if value.index >= first else value.through).append(name)


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors_of(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_of(item)
    elif hasattr(tree, "__dataclass_fields__"):  # a Hugging Face output
        yield from tensors_of(vars(tree))


@contextmanager
def _scripted_calls(trace: Trace) -> Iterator[None]:
    """Have scripted functions recorded too: torch's function mode does not see them."""
    call = torch.jit.ScriptFunction.__call__

    def recorded(self, *args, **kwargs):
        result = call(self, *args, **kwargs)
        trace._record("scripted", args, kwargs, list(tensors_of(result)))
        return result

    torch.jit.ScriptFunction.__call__ = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.jit.ScriptFunction.__call__ = call  # type: ignore[method-assign]


# functions whose result does not depend on the values of their argument
CREATES = {f"{what}_like" for what in ("zeros", "ones", "full", "empty", "rand", "randn")}
CREATES |= {f"new_{what}" for what in ("zeros", "ones", "full", "empty", "tensor")}


def _by_zero(name: str, args: tuple[Any, ...]) -> bool:
    """`x.mul(0)`, which some code writes for zeros."""
    factors = [a for a in args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return name in ("mul", "__mul__", "__rmul__") and factors == [0]


def _in_place(name: str, kwargs: dict[str, Any]) -> bool:
    if name.startswith("__i") and name.endswith("__") and name != "__index__":
        return True
    return (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))
