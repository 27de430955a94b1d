"""Run a network on an example without a trace of it, and say what to do where that fails."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accuracy_booster.ops import backend
from accuracy_booster.surgery.inputs import as_inputs, described, moved
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.surgery.trace import Trace

# What a forward raises for an example that it cannot take.
FAILURES = (RuntimeError, ValueError, LookupError, TypeError, AssertionError, AttributeError)


def traced(model: nn.Module, examples: list[Any]) -> Trace:
    """The trace of the first example that the network can take.

    Raises:
        ValueError: that of the last example, if it can take none.
    """
    for last, example in enumerate(examples, start=1 - len(examples)):
        trace = Trace(model)
        try:
            with quiet_pass(model, example) as inputs:
                trace.run(model, inputs)
            return trace
        except ValueError:
            if last == 0:
                raise
    raise AssertionError("no example")


@contextmanager
def quiet_pass(model: nn.Module, example: Any, remedy: str | None = None) -> Iterator[Any]:
    """Within: eval mode, no gradients, nothing fused. Afterwards modes and random states are back.

    Yields the example on the model's device and in its dtype.

    Raises:
        ValueError: for an example that the model cannot take. It ends in a remedy: what the
            forward's signature asks for, else the given `remedy`, else a general one.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    devices = [like.device] if like.device.type == "cuda" else []
    try:
        with (
            in_eval_mode(model),
            torch.no_grad(),
            torch.random.fork_rng(devices),
            backend.using("unfused"),
        ):
            yield moved(example, like)
    except FAILURES as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(
            f"{type(model).__name__} cannot take {_named(example)} {described(example)}: {reason}; "
            f"{_asked_for(model, example) or _remedy(e, example, remedy)}"
        ) from e


def _named(example: Any) -> str:
    image = isinstance(example, torch.Tensor) and example.ndim == 4
    return "an image" if image else "the example"


def _asked_for(model: nn.Module, example: Any) -> str:
    """What to give, if the example does not fit the signature of the model's forward; else ""."""
    args, kwargs = as_inputs(example)
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args, **kwargs)
        return ""
    except TypeError:
        pass
    kinds = inspect.Parameter
    needed = [p for p in signature.parameters.values() if p.default is kinds.empty]
    needed = [p for p in needed if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    names = [p.name for p in needed]
    by_name = "{" + ", ".join(f"{name!r}: ..." for name in names) + "}"
    if any(p.kind is kinds.KEYWORD_ONLY for p in needed):
        return f"its forward takes {', '.join(names)} by name only: give example={by_name}"
    many = f"{len(names)} input{'s' if len(names) != 1 else ''}"
    by_position = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    return (
        f"its forward takes {many}, {', '.join(names)}: give example={by_position} by position or "
        f"example={by_name} by name"
    )


def _remedy(error: Exception, example: Any, remedy: str | None) -> str:
    """What to do if the example fits the signature of the forward, which failed inside."""
    other_type = isinstance(error, (TypeError, AttributeError, LookupError))
    unpacked = isinstance(error, ValueError) and "unpack" in str(error)
    if not (other_type or unpacked) or not isinstance(example, torch.Tensor):
        if remedy is not None:
            return remedy
        if isinstance(example, torch.Tensor) and example.ndim == 4:
            return "give an image, or an image size, that it can take"
        return "give an input that it can take with example="
    return (
        "give an input that it can take: example=TENSOR, example=(a, b) for several inputs, "
        "example={'a': ..., 'b': ...} for named ones, example=(that,) for one dict or one tuple"
    )
