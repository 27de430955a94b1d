"""The graph of one pass: each call on what depends on the input, and which module gave what."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.inputs import as_inputs, tensors_of
from accuracy_booster.surgery.scripted_calls import heard_by
from accuracy_booster.surgery.storages import Writes, overlaps
from accuracy_booster.surgery.torch_calls import (
    is_in_place,
    is_independent,
    puts_constants,
    sources,
)


@dataclass(eq=False)
class Value:
    """A tensor that depends on the input, at one moment: an in-place call makes a new value."""

    index: int  # in order of creation
    shape: tuple[int, ...]
    call: Call | None  # what made it; None for the input
    ancestors: int  # bit i is set if value i flows into this one, and for itself
    modules: list[str] = field(default_factory=list)  # whose output it is, the innermost first
    through: list[str] = field(default_factory=list)  # modules that hand it on, as nn.Identity
    parts_of: list[str] = field(default_factory=list)  # modules that give it beside other things
    users: list[Call] = field(default_factory=list)

    def flows_into(self, other: Value) -> bool:
        """Whether the other value depends on this one, or is this one."""
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
    keywords: dict[str, Any] = field(default_factory=dict)  # numbers and such, no tensors
    follows: tuple[bool, ...] = ()  # which positional arguments depend on the input
    fills: bool = False  # whether it puts constants other than 0 where a map was


class Trace(TorchFunctionMode):
    """The graph of what runs while it is entered; `values[0]` is the input.

    It follows the identity of tensors through torch's functions and through modules. So it sees
    Python control flow, in-place calls and shared modules as they ran. What is written through one
    view of a storage is seen by every other tensor that overlaps it, whatever made the views.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.values: list[Value] = []
        self.calls_of: dict[str, int] = {}  # how often a module ran
        self.gives_tensor: set[str] = set()  # modules whose output is one tensor, in no container
        self.input_of: dict[str, Value] = {}  # the first input of a module's last call
        self._known = WeakTensorKeyDictionary()
        self._writes = Writes[Value]()
        self._names = {
            module: name
            for name, module in model.named_modules()
            if f".{ATTRIBUTE}." not in f".{name}."  # no gate is placed inside a gate
        }
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._stack: list[tuple[nn.Module, int, list[Value]]] = []
        self._live = 0  # bit i is set if value i flows into the network's output
        self._returned: set[Value] = set()
        self._thread = threading.get_ident()  # of the pass; module hooks run in all threads

    def run(self, model: nn.Module, example: Any) -> Any:
        """One pass of the example, as `as_inputs` takes it; returns the model's output."""
        args, kwargs = as_inputs(example)
        for tensor in tensors_of((args, kwargs)):
            self._bind(tensor, None, [])
        with ExitStack() as stack:
            for register, hook in (
                (module_hooks.register_module_forward_pre_hook, self._enter_module),
                (module_hooks.register_module_forward_hook, self._leave_module),
            ):
                stack.callback(register(hook).remove)
            stack.enter_context(heard_by(self._record_scripted))
            stack.enter_context(self)
            output = model(*args, **kwargs)
        for tensor in tensors_of(output):
            value = self._look_up(tensor)
            if value is not None:
                self._live |= value.ancestors
                self._returned.add(value)
        return output

    def is_returned(self, value: Value) -> bool:
        """Whether a value is in the network's output."""
        return value in self._returned

    def is_read_once(self, value: Value) -> bool:
        """Whether one call alone reads a value, and the network does not return it."""
        return len(value.users) == 1 and not self.is_returned(value)

    def is_live(self, call: Call) -> bool:
        """Whether anything of a call flows into the network's output."""
        return any(self._live >> value.index & 1 for value in call.outputs)

    def _bind(self, tensor: torch.Tensor, call: Call | None, inputs: list[Value]) -> Value:
        """Make a new value, which the tensor holds from now on."""
        index = len(self.values)
        ancestors = 1 << index
        for value in inputs:
            ancestors |= value.ancestors
        value = Value(index, tuple(tensor.shape), call, ancestors)
        self.values.append(value)
        self._known[tensor] = value
        return value

    def _look_up(self, tensor: torch.Tensor) -> Value | None:
        """What a tensor holds now: another tensor of its storage may have been written since."""
        value = self._known.get(tensor)
        last = self._writes.last(tensor)
        if last is None or (value is not None and value.index >= last.value.index):
            return value
        if not overlaps(tensor, last):
            return value
        whole = value is None or math.prod(last.value.shape) >= tensor.numel()
        inputs = [last.value] if whole else [value, last.value]
        call = Call("alias" if whole else "written", inputs, False, ())
        call.outputs.append(self._bind(tensor, call, inputs))
        for item in inputs:
            item.users.append(call)
        return call.outputs[0]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        before = [(t, self._look_up(t)) for t in tensors_of((args, kwargs))]
        result = func(*args, **kwargs)
        if is_independent(name, args):
            return result
        known = {id(t): value for t, value in before if value is not None}
        if name.startswith("_foreach_") and args and isinstance(args[0], (list, tuple)):
            self._record_each(name.removeprefix("_foreach_"), args, kwargs, result, known)
            return result
        outputs = [args[0]] if name == "__setitem__" else list(tensors_of(result))
        if outputs:
            self._record(name, args, kwargs, outputs, known)
        return result

    def _record_each(
        self, name: str, args: Any, kwargs: dict[str, Any], result: Any, known: dict[int, Value]
    ) -> None:
        """Record `torch._foreach_add(xs, ys)` and such as one call for each element."""
        outputs = args[0] if result is None else result
        for index, output in enumerate(outputs):
            own = [a[index] if isinstance(a, (list, tuple)) else a for a in args]
            self._record(name, own, kwargs, [output], known)

    def _record_scripted(self, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Record a call of a scripted function, whatever it computes, as one call."""
        values = [(t, self._look_up(t)) for t in tensors_of((args, kwargs))]
        known = {id(t): value for t, value in values if value is not None}
        self._record("scripted", args, kwargs, list(tensors_of(result)), known)

    def _record(
        self,
        name: str,
        args: Any,
        kwargs: dict[str, Any],
        outputs: list[torch.Tensor],
        known: dict[int, Value],
    ) -> None:
        """Record one call, if its result depends on the input.

        Args:
            known: by `id`, what the arguments held before the call.
        """
        tensors = list(tensors_of((args, {k: v for k, v in kwargs.items() if k != "out"})))
        tensors = sources(name, args, tensors, known)
        inputs = [known[id(t)] for t in tensors if id(t) in known]
        in_place = is_in_place(name, kwargs)
        if not inputs:
            if in_place:  # zeros, say, over what was there
                for tensor in outputs:
                    self._known.pop(tensor, None)
            return
        others = [t for t in tensors if id(t) not in known and t.numel() > 1]
        follows = tuple(isinstance(a, torch.Tensor) and id(a) in known for a in args)
        call = Call(
            name,
            inputs,
            learned=any(id(t) not in self._buffers for t in others),
            arguments=tuple(None if isinstance(a, torch.Tensor) else a for a in args),
            module=self._names.get(self._stack[-1][0]) if self._stack else None,
            keywords={k: v for k, v in kwargs.items() if not isinstance(v, torch.Tensor)},
            follows=follows,
            fills=puts_constants(name, args, kwargs, follows),
        )
        for tensor in outputs:
            if id(tensor) in known and not in_place:
                continue  # the call returns its argument, as dropout in eval mode does
            call.outputs.append(self._bind(tensor, call, inputs))
            if in_place:
                self._writes.note(tensor, call.outputs[-1])
        if call.outputs:
            for value in inputs:
                value.users.append(call)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        values = [self._look_up(t) for t in tensors_of(args)]
        inputs = [value for value in values if value is not None]
        self._stack.append((module, len(self.values), inputs))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        entered, first, inputs = self._stack.pop()
        assert entered is module
        name = self._names.get(module)
        outputs = list(tensors_of(output))
        values = [self._look_up(t) for t in outputs]
        unseen = [t for t, value in zip(outputs, values, strict=True) if value is None]
        if unseen and inputs:  # no function of torch was seen: an autograd.Function, say
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
            if value is None:
                continue
            if not isinstance(output, torch.Tensor):
                value.parts_of.append(name)  # a gate scales an output that is one tensor
            else:
                (value.modules if value.index >= first else value.through).append(name)
