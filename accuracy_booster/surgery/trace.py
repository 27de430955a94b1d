"""What one pass does: every call on what depends on the input, and which module gave what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
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
    parts_of: list[str] = field(default_factory=list)  # modules that give it beside other things
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
    keywords: dict[str, Any] = field(default_factory=dict)  # numbers and such, no tensors
    follows: tuple[bool, ...] = ()  # which positional arguments depend on the input
    fills: bool = False  # whether it puts constants other than 0 where a map was


@dataclass(eq=False)
class Written:
    """The last write into a storage: what was written, and which elements at most."""

    storage: StorageWeakRef  # while it is held, no other storage has the same key
    value: Value
    span: tuple[int, int]


class Trace(TorchFunctionMode):
    """The graph of what runs while it is entered; `values[0]` is the input.

    It follows the identity of tensors through torch's functions and through modules, so Python
    control flow, in-place calls and shared modules are what they are. What is written through one
    view of a storage is seen by every other tensor that overlaps it, whatever made the views.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.values: list[Value] = []
        self.calls_of: dict[str, int] = {}  # how often a module ran
        self.gives_tensor: set[str] = set()  # modules whose output is one tensor, in no container
        self.input_of: dict[str, Value] = {}  # the first input of a module's last call
        self._known = WeakTensorKeyDictionary()
        self._written: dict[int, Written] = {}
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
            value = self._look_up(tensor)
            if value is not None:
                self._live |= value.ancestors
                self._returned.add(value)
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

    def _look_up(self, tensor: torch.Tensor) -> Value | None:
        """What a tensor holds now: another tensor of its storage may have been written since."""
        value = self._known.get(tensor)
        storage = _storage(tensor)
        last = self._written.get(storage._cdata) if storage is not None else None
        if last is None or (value is not None and value.index >= last.value.index):
            return value
        span = _span(tensor)
        if span[0] > last.span[1] or last.span[0] > span[1]:
            return value  # another part of the storage
        whole = value is None or _size(last.value.shape) >= tensor.numel()
        inputs = [last.value] if whole else [value, last.value]
        call = Call("alias", inputs, False, ()) if whole else Call("written", inputs, False, ())
        call.outputs.append(self._bind(tensor, call, inputs))
        for item in inputs:
            item.users.append(call)
        return call.outputs[0]

    def _write(self, tensor: torch.Tensor, value: Value) -> None:
        storage = _storage(tensor)
        if storage is not None:
            self._written[storage._cdata] = Written(StorageWeakRef(storage), value, _span(tensor))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        before = [(t, self._look_up(t)) for t in tensors_of((args, kwargs))]
        result = func(*args, **kwargs)
        if name in CREATES or _by_zero(name, args):
            return result
        known = {id(t): value for t, value in before if value is not None}
        if name.startswith("_foreach_") and args and isinstance(args[0], (list, tuple)):
            self._record_each(name.removeprefix("_foreach_"), args, kwargs, result, known)
            return result
        outputs = [args[0]] if name == "__setitem__" else list(tensors_of(result))
        if outputs:
            self._record(name, args, kwargs, outputs, known)
        return result

    def _record_each(self, name: str, args: Any, kwargs: Any, result: Any, known: Any) -> None:
        """`torch._foreach_add(xs, ys)` and such: one call for each element."""
        outputs = args[0] if result is None else result
        for index, output in enumerate(outputs):
            own = [a[index] if isinstance(a, (list, tuple)) else a for a in args]
            self._record(name, own, kwargs, [output], known)

    def _record(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        outputs: list[torch.Tensor],
        known: dict[int, Value] | None = None,
    ) -> None:
        tensors = list(tensors_of((args, {k: v for k, v in kwargs.items() if k != "out"})))
        if known is None:
            values = [(t, self._look_up(t)) for t in tensors]
            known = {id(t): value for t, value in values if value is not None}
        if name == "copy_" or (name == "__setitem__" and _fills(args)):
            tensors = tensors[1:] if name == "copy_" else tensors[-1:]  # nothing old is left
        elif name == "where" and any(id(t) in known for t in tensors if t.dtype != torch.bool):
            # the condition chooses and gives no values; it is the second of `x.where(m, y)`
            tensors = [t for t in tensors if t.dtype != torch.bool]
        inputs = [known[id(t)] for t in tensors if id(t) in known]
        in_place = _in_place(name, kwargs)
        if not inputs:
            if in_place:  # zeros, say, over what was there
                for tensor in outputs:
                    self._known.pop(tensor, None)
            return
        others = [t for t in tensors if id(t) not in known and t.numel() > 1]
        learned = any(id(t) not in self._buffers for t in others)
        plain = tuple(None if isinstance(a, torch.Tensor) else a for a in args)
        keywords = {k: v for k, v in kwargs.items() if not isinstance(v, torch.Tensor)}
        running = self._names.get(self._stack[-1][0]) if self._stack else None
        follows = tuple(isinstance(a, torch.Tensor) and id(a) in known for a in args)
        fills = _puts_constants(name, args, kwargs, follows)
        call = Call(name, inputs, learned, plain, running, [], keywords, follows, fills)
        for tensor in outputs:
            if id(tensor) in known and not in_place:
                continue  # handed through, as dropout in eval mode does
            call.outputs.append(self._bind(tensor, call, inputs))
            if in_place:
                self._write(tensor, call.outputs[-1])
        if call.outputs:
            for value in inputs:
                value.users.append(call)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        values = [self._look_up(t) for t in tensors_of(args)]
        inputs = [value for value in values if value is not None]
        self._stack.append((module, len(self.values), inputs))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        entered, first, inputs = self._stack.pop()
        assert entered is module
        name = self._names.get(module)
        outputs = list(tensors_of(output))
        values = [self._look_up(t) for t in outputs]
        unseen = [t for t, value in zip(outputs, values, strict=True) if value is None]
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
            if value is None:
                continue
            if not isinstance(output, torch.Tensor):
                value.parts_of.append(name)  # a gate scales an output that is one tensor
            else:
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
    if name == "__setitem__" or kwargs.get("out") is not None:
        return True
    return (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))


def _fills(args: Any) -> bool:
    """Whether `x[...] = y` leaves nothing of x: a tensor y as large as x."""
    value = args[2]
    return isinstance(value, torch.Tensor) and value.numel() == args[0].numel()


def _puts_constants(name: str, args: Any, kwargs: Any, follows: tuple[bool, ...]) -> bool:
    """Whether a call puts constants other than 0 into a map: then it is not 0 where the map is."""
    if name == "where":
        places: range = range(len(args))
    elif name == "__setitem__" or name.startswith("masked_fill"):
        places = range(2, len(args))
    else:
        return False
    constants = [args[i] for i in places if not follows[i]]
    constants += [kwargs[key] for key in ("value", "other", "input") if key in kwargs]
    return any(_is_nonzero(constant) for constant in constants)


def _is_nonzero(constant: Any) -> bool:
    """Whether a constant has values other than 0; a condition has no values."""
    if not isinstance(constant, torch.Tensor):
        return constant != 0
    if constant.dtype == torch.bool:
        return False
    return constant.is_meta or bool(constant.any())


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError, ValueError):  # sparse or lazy tensors have none
        return None


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first and the last element of its storage that a tensor may read."""
    first = int(tensor.storage_offset())
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return first, first + int(sum((size - 1) * step for size, step in sides))


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
