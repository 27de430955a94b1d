"""What a network is run on when nobody says, the pass itself, and what to do where it fails."""

# N batch, C channels, D H W or L space

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accuracy_booster.ops import backend
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.surgery.passes import as_inputs, described, moved
from accuracy_booster.surgery.trace import Trace

# of a network without a configuration, by the spatial dimensions of its first layer; the larger
# one is tried where the network shrinks its maps too far for the smaller one
SIZES: dict[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((1024,), (16384,)),
    2: ((224, 224),),
    3: ((32, 64, 64), (96, 96, 96)),
}
FAILURES = (RuntimeError, ValueError, LookupError, TypeError, AssertionError, AttributeError)


def traced(model: nn.Module, examples: list[Any]) -> Trace:
    """The trace of the first example that the network can take."""
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
    """Eval mode without gradients, layer by layer; flags and random states are put back.

    Yields the example on the model's device and in its dtype. An example that the model cannot take
    is a ValueError that ends in a remedy: what the forward's signature asks for, else the given
    one, else a general one.
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
    """What to give, where the example does not fit the signature of the model's forward."""
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
    """What to do where the forward was called rightly and failed inside."""
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


def infer_examples(model: nn.Module) -> list[torch.Tensor]:
    """Zeros [1, C, ...] to try in turn, of the size in the model's configuration.

    Without one the first layer says how many dimensions and channels its input has: [1, C, 224,
    224] for a Conv2d, [1, C, L] for a Conv1d, [1, C, D, H, W] for a Conv3d, [1, C] for a Linear.
    There is a second one where the first convolution takes another number of channels than the
    configuration says (timm's in_chans=).
    """
    if (size := _configured(model)) is None:
        own = _by_first_layer(model)
        image = torch.zeros(1, 3, 224, 224)  # the layer registered first need not run first
        on_images = not own or own[0].ndim == 4
        return [*own, image] if on_images and not any(e.shape == image.shape for e in own) else own
    channels, height, width = size
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next((m.in_channels for m in convs if m.in_channels), channels)
    return [torch.zeros(1, c, height, width) for c in dict.fromkeys((channels, first))]


def default_size(model: nn.Module) -> tuple[int, ...]:
    """(C, ...) of the input that a network takes when nobody says."""
    first, *others = infer_examples(model)
    if _configured(model) is None:
        return tuple(first.shape[1:])
    # timm's in_chans=: the first convolution knows better than the configuration
    same = [example for example in others if example.shape[2:] == first.shape[2:]]
    return tuple([first, *same][-1].shape[1:])


def _configured(model: nn.Module) -> tuple[int, int, int] | None:
    """(C, H, W) in the model's configuration; None if it has none."""
    channels, size, known = 3, (224, 224), False
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if config and "input_size" in config:  # timm, and ours
        channels, *size = config["input_size"]
        known = True
    config = getattr(model, "config", None)  # Hugging Face
    known |= getattr(config, "num_channels", None) is not None
    known |= getattr(config, "image_size", None) is not None
    channels = getattr(config, "num_channels", None) or channels
    image_size = getattr(config, "image_size", None) or size
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    return (channels, height, width) if known else None


def _by_first_layer(model: nn.Module) -> list[torch.Tensor]:
    """Examples for the first layer of each kind, in the order in which they were registered."""
    inputs: dict[int, int] = {}  # spatial dimensions: channels, 0 of a lazy layer
    for module in model.modules():
        if isinstance(module, nn.Linear):
            inputs.setdefault(0, module.in_features)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            inputs.setdefault(len(module.kernel_size), module.in_channels)
    ranks = list(inputs)
    if 0 in ranks and ranks[0] != 0:
        ranks.remove(0)  # the head, not the first layer
    return [torch.zeros(1, inputs[dims] or 3, *size) for dims in ranks for size in SIZES[dims]]
