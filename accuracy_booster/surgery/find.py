"""Find where gates go, from how data flow in one pass and not from the names of classes.

A residual site is the end of the branch of a sum `shortcut + branch` of two equally shaped maps
that come from one value, where the shortcut is that value itself, something without weights
(pooling, padding, striding), or a projection without a nonlinearity, and the branch has layers and
a nonlinearity. So these are no sites: the parallel branches of RepVGG and MobileOne (no
nonlinearity in a branch), the sums of resolutions in HRNet and feature pyramids (neither side is a
projection, or a side ends in an upsampling), gates and attention inside a branch.

A concatenation of two counts where one is an identity half or a pooled shortcut that the other
does not read (ShuffleNet). DenseNet's do not: it hands its input on unscaled, the new features are
read by every later layer, and there is no sum that a gate could keep small; use where="conv" there.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.trace import Call, Trace, Value

CONVOLUTIONS = {"conv2d", "conv_transpose2d", "conv3d", "conv1d"}
LAYERS = CONVOLUTIONS | {"linear", "addmm", "module"}
NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"}
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}
POOLS = {"avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "lp_pool2d", "_max_pool2d"}
POOLS |= {"boolean_dispatch", "max_pool2d_with_indices", "adaptive_max_pool2d"}
UPSAMPLING = {"interpolate", "upsample", "pixel_shuffle"}
SHAPES = {"permute", "contiguous", "to", "type_as", "float", "half", "bfloat16", "type", "clone"}
SHAPES |= {"pad", "constant_pad_nd", "__getitem__", "dropout", "feature_dropout", "dropout2d"}
SHAPES |= {"transpose", "view", "reshape", "flatten", "unflatten", "__get__", "chunk", "split"}
SHAPES |= {"div", "__truediv__", "div_", "alias", "as_subclass", "roll", "movedim", "unbind"}
ACTIVATIONS = {"relu", "relu_", "silu", "gelu", "elu", "hardswish", "leaky_relu", "mish", "selu"}
ACTIVATIONS |= {"relu6", "hardtanh", "prelu", "rrelu", "celu", "tanh", "softsign"}
SLICES = {"__getitem__", "chunk", "split", "narrow", "unbind", "tensor_split"}
# where the input is 0 the output is: a gate may as well stand before
KEEPS_ZERO = SHAPES | POOLS | SLICES | ACTIVATIONS | PRODUCTS


@dataclass(frozen=True)
class Found:
    """A site, or a residual branch that has no place for a gate (then `site` is None)."""

    site: Site | None
    reason: str


def residual_sites(trace: Trace) -> list[Found]:
    """Every residual branch of the pass, in the order of execution."""
    found: list[Found] = []
    taken: set[str] = set()
    for value in trace.values:
        call = value.call
        if call is None or call.outputs[0] is not value:
            continue
        branch = _summed_branch(call, trace) or _concatenated_branch(call, trace)
        if branch is None:
            continue
        end, reason = branch
        site = _place(end, call, trace)
        if site is None:
            name = next(filter(None, reversed(value.modules)), "the network")
            found.append(Found(None, f"no module gives the branch that {name} sums"))
        elif site.name not in taken:
            taken.add(site.name)
            found.append(Found(site, reason))
    return found


def conv_sites(trace: Trace) -> list[Found]:
    """After each convolution's norm, or the convolution where no norm follows; maps only."""
    found, taken = [], set()
    for value in trace.values:
        call = value.call
        if call is None or call.name not in CONVOLUTIONS or not call.learned:
            continue
        reason, last = "after a convolution", value
        if len(value.users) == 1 and value.users[0].name in NORMS:
            reason, last = "after a convolution's norm", value.users[0].outputs[0]
        name = _module_of(last, trace)
        if name and name not in taken and _is_map(last) and max(last.shape[2:]) > 1:
            taken.add(name)
            found.append(Found(Site.of(name, last.shape), reason))
    return found


def attention_sites(trace: Trace) -> list[Found]:
    """Modules that scale their own input by something computed from it: SE, ECA, CBAM, ..."""
    sites: dict[str, Site] = {}
    for value in trace.values:
        name = _outer_gate(value, trace) if _is_map(value) else None
        if name and trace.calls_of[name] == 1:
            sites[name] = Site.of(name, value.shape)
    outer = [n for n in sites if not any(n.startswith(f"{other}.") for other in sites)]
    return [Found(sites[name], "an attention module") for name in outer]


def _outer_gate(value: Value, trace: Trace) -> str | None:
    """The outermost of the modules that give the value and only gate their input."""
    gates = [
        name
        for name in value.modules
        if (source := trace.input_of.get(name)) is not None and _gates(value, source)
    ]
    return gates[-1] if gates else None


def _gates(value: Value, source: Value) -> bool:
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
        if small.shape == value.shape and not _broadcast(small, source):
            return False
        value, seen_product = big, True
    return seen_product


def _broadcast(value: Value, source: Value) -> bool:
    """Whether a full-sized weight was spread from fewer values (expand_as, interpolate)."""
    while value is not source and value.call is not None:
        if any(_numel(i) < _numel(value) for i in value.call.inputs):
            return True
        if len(value.call.inputs) != 1 or value.call.name in LAYERS:
            return False
        value = value.call.inputs[0]
    return False


def _numel(value: Value) -> int:
    count = 1
    for side in value.shape:
        count *= side
    return count


def _is_map(value: Value) -> bool:
    return len(value.shape) == 4


def _summed_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a residual sum and why it is one, or None."""
    if call.name not in SUMS or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if a.shape != b.shape or not _is_map(a) or a is b:
        return None
    for shortcut, branch in ((a, b), (b, a)):
        fork = _fork(shortcut, branch, trace)
        if fork is None:
            continue
        kind = _shortcut_kind(shortcut, fork, slices=_reads_whole(branch, fork))
        if kind is None or not _is_branch(branch, shortcut, fork, trace):
            continue
        if _ends_in_upsampling(branch, fork):
            continue
        return branch, f"branch of a sum with {kind}"
    return None


def _concatenated_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a ShuffleNet-like concatenation over the channels, or None."""
    if call.name not in ("cat", "concat", "concatenate") or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if not (_is_map(a) and _is_map(b)) or a.shape[2:] != b.shape[2:]:
        return None
    for shortcut, branch in ((a, b), (b, a)):
        if shortcut.flows_into(branch) or len(shortcut.users) > 1 or len(branch.users) > 1:
            continue
        fork = _fork(shortcut, branch, trace)
        if fork is None or _shortcut_kind(shortcut, fork, slices=True) not in FREE:
            continue
        halved = 2 * shortcut.shape[2] <= fork.shape[2] + 1
        if shortcut.shape[1] >= fork.shape[1] and not halved:
            continue  # neither a part of the channels nor a coarser map: a stem
        between = _between(fork, branch, trace)
        if sum(c.name in CONVOLUTIONS and c.learned for c in between) < 2:
            continue
        if any(_summed_branch(c, trace) for c in between if c.name in SUMS):
            continue  # a whole stage, as in CSPNet
        return branch, "branch of a concatenation with a shortcut"
    return None


def _fork(shortcut: Value, branch: Value, trace: Trace) -> Value | None:
    """The last value that both come from, if everything that both come from goes through it."""
    common = shortcut.ancestors & branch.ancestors
    if not common:
        return None
    fork = trace.values[common.bit_length() - 1]
    if fork is branch or common & ~fork.ancestors:
        return None
    return fork


IDENTITY, WITHOUT_WEIGHTS, PROJECTION = "the identity", "a shortcut without weights", "a projection"
FREE = (IDENTITY, WITHOUT_WEIGHTS)


def _shortcut_kind(shortcut: Value, fork: Value, *, slices: bool = False) -> str | None:
    """What leads from the fork to the shortcut, or None where it is more than a projection."""
    value, layers, steps, partial = shortcut, 0, 0, False
    while value is not fork:
        call = value.call
        assert call is not None
        inputs = [i for i in call.inputs if fork.flows_into(i)]
        if len(inputs) != 1:
            return None
        if call.name in LAYERS and call.learned:
            layers += 1
        elif call.name in SLICES and _loses_channels(value, inputs[0]):
            partial = True
        elif not _is_plain(call) and not (layers and call.name in ACTIVATIONS):
            return None  # DPN's projection has a norm and an activation of its own before it
        steps += 1
        value = inputs[0]
    if layers:
        return PROJECTION if layers <= 2 else None
    if partial and not slices:
        return None
    return WITHOUT_WEIGHTS if steps else IDENTITY


def _reads_whole(branch: Value, fork: Value) -> bool:
    """Whether the branch reads all channels of the fork (DPN), not other slices (Res2Net)."""
    into = [u for u in fork.users if any(o.flows_into(branch) for o in u.outputs)]
    return not any(u.name in SLICES and _loses_channels(u.outputs[0], fork) for u in into)


def _is_plain(call: Call) -> bool:
    """Whether a call is neither a layer nor a nonlinearity: pooling, padding, norms, scales."""
    if call.name in POOLS | SHAPES | UPSAMPLING | NORMS | SLICES:
        return True
    if call.name in PRODUCTS | SUMS | {"cat"}:
        return len(call.inputs) == 1  # with a constant
    return call.name in CONVOLUTIONS and not call.learned  # a blur


def _loses_channels(value: Value, before: Value) -> bool:
    same_rank = len(value.shape) == len(before.shape) == 4
    return not same_rank or value.shape[1] < before.shape[1]


def _between(fork: Value, end: Value, trace: Trace) -> list[Call]:
    """The calls on the way from the fork to the end."""
    bits = end.ancestors & ~fork.ancestors
    calls: dict[int, Call] = {}
    while bits:
        value = trace.values[bits.bit_length() - 1]
        bits ^= 1 << value.index
        if value.call is not None and fork.flows_into(value):
            calls[id(value.call)] = value.call
    return list(calls.values())


def _is_branch(branch: Value, shortcut: Value, fork: Value, trace: Trace) -> bool:
    calls = _between(fork, branch, trace)
    if not any(c.name in CONVOLUTIONS and c.learned for c in calls):
        return False
    layers = sum(c.name in LAYERS and c.learned for c in calls)
    other = sum(c.name in LAYERS and c.learned for c in _between(fork, shortcut, trace))
    return layers > other and any(_is_nonlinear(c) for c in calls)


def _is_nonlinear(call: Call) -> bool:
    linear = (
        LAYERS | NORMS | SUMS | SHAPES | POOLS | UPSAMPLING | SLICES | {"cat", "sub", "__sub__"}
    )
    if call.name in PRODUCTS:
        return len(call.inputs) > 1
    return call.name not in linear or call.name == "module"  # unseen: it may be anything


def _ends_in_upsampling(branch: Value, fork: Value) -> bool:
    """Whether the branch comes from a coarser map with nothing but norms and such in between."""
    value = branch
    while value is not fork and value.call is not None and len(value.call.inputs) == 1:
        if value.call.name in UPSAMPLING:
            return True
        if value.call.name in LAYERS:
            return False
        value = value.call.inputs[0]
    return False


def _place(end: Value, call: Call, trace: Trace) -> Site | None:
    """The module whose output the gate scales: the last before layer scale and functions."""
    value = end
    # ReXNet sums some of the channels and puts the others beside them
    reach = [end, *(u.outputs[0] for u in call.outputs[0].users if u.name == "cat")]
    while True:
        made = value.call
        scales = made is not None and made.name in PRODUCTS and len(made.inputs) == 1
        for user in value.users:
            stays = any(user.outputs[0].flows_into(r) for r in reach)
            if not (user is call or stays or not trace.is_live(user)):
                return None
        if not scales and (name := _module_of(value, trace)):
            layout = layout_of(value)
            if layout:
                return Site.of(name, value.shape, layout)
        if made is None:
            return None
        sliced = made.name in SLICES and made.inputs[0].shape[2:] == value.shape[2:]
        resized = sliced or made.name in POOLS
        same = [i for i in made.inputs if resized or sorted(i.shape) == sorted(value.shape)]
        if (
            not same
            or made.name not in KEEPS_ZERO
            or len(made.inputs) > 1 + (made.name in PRODUCTS)
        ):
            return None  # a gate before it could not shut the branch
        value = same[0]


def _module_of(value: Value, trace: Trace) -> str | None:
    """The innermost module that ran once and gave the value."""
    return next((name for name in value.modules if trace.calls_of[name] == 1), None)


def layout_of(value: Value) -> str | None:
    """Where the channels of a map are, from the layer or norm that made it; None if unclear."""
    moves: list[tuple[int, ...]] = []
    while _is_map(value) and value.call is not None:
        call = value.call
        if call.name in ("linear", "layer_norm", "rms_norm"):
            dim = 3
        elif call.name in CONVOLUTIONS | NORMS | {"cat"}:
            dim = 1
        else:
            if call.name == "permute":
                moves.append(tuple(a % 4 for a in _flat(call.arguments) if isinstance(a, int)))
            elif call.name in ("transpose", "movedim", "view", "reshape", "__get__"):
                return None
            bigger = [i for i in call.inputs if sorted(i.shape) == sorted(value.shape)]
            value = (bigger or call.inputs)[0]
            continue
        for move in reversed(moves):
            dim = move.index(dim)
        return {1: "NCHW", 3: "NHWC"}.get(dim)
    return "NCHW" if _is_map(value) else None


def _flat(items: Iterable) -> Iterable:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
