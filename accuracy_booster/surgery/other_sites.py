"""Sites that are not ends of residual branches: after convolutions, and in place of attention."""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.finding import Found
from accuracy_booster.surgery.layouts import is_map, layout_of, module_of, numel
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.torch_functions import CONVOLUTIONS, LAYERS, NORMS, PRODUCTS
from accuracy_booster.surgery.trace import Trace, Value


def conv_sites(trace: Trace) -> list[Found]:
    """After each convolution's norm, or after the convolution if no norm follows.

    Only maps with more than one position count.
    """
    found, taken = [], set()
    for value in trace.values:
        call = value.call
        if call is None or call.name not in CONVOLUTIONS or not call.learned:
            continue
        reason, last = "after a convolution", value
        if len(value.users) == 1 and value.users[0].name in NORMS:
            reason, last = "after a convolution's norm", value.users[0].outputs[0]
        name = module_of(last, trace)
        if (
            name
            and name not in taken
            and layout_of(last) == "NCHW"
            and max(last.shape[2:], default=1) > 1
        ):
            taken.add(name)
            found.append(Found(Site.of(name, last.shape), reason))
    return found


def attention_sites(trace: Trace) -> list[Found]:
    """Modules that scale their own input by something computed from it: SE, ECA, CBAM, ..."""
    sites: dict[str, Site] = {}
    for value in trace.values:
        name = _outer_attention(value, trace) if is_map(value) else None
        if name and trace.calls_of[name] == 1 and name in trace.gives_tensor:
            layout = "NCHW" if len(value.shape) == 4 else layout_of(value)
            if layout == "NCHW":
                sites[name] = Site.of(name, value.shape)
    outer = [n for n in sites if not any(n.startswith(f"{other}.") for other in sites)]
    return [Found(sites[name], "an attention module") for name in outer]


def _outer_attention(value: Value, trace: Trace) -> str | None:
    """The outermost of the modules that give the value and only scale their input."""
    scaling = [
        name
        for name in value.modules
        if (source := trace.input_of.get(name)) is not None and _is_scaled(value, source)
    ]
    return scaling[-1] if scaling else None


def _is_scaled(value: Value, source: Value) -> bool:
    """Whether the value is `source` times one or more smaller values computed from it."""
    seen_product = False
    while value is not source:
        call = value.call
        if call is None or call.name not in PRODUCTS or len(call.inputs) != 2:
            return False
        a, b = call.inputs
        big, small = (a, b) if a.shape == value.shape else (b, a)
        if big.shape != source.shape or not source.flows_into(small):
            return False
        if small.shape == value.shape and not _was_broadcast(small, source):
            return False
        value, seen_product = big, True
    return seen_product


def _was_broadcast(value: Value, source: Value) -> bool:
    """Whether a full-sized weight was broadcast from fewer values (expand_as, interpolate)."""
    while value is not source and value.call is not None:
        if any(numel(i) < numel(value) for i in value.call.inputs):
            return True
        if len(value.call.inputs) != 1 or value.call.name in LAYERS:
            return False
        value = value.call.inputs[0]
    return False
