"""Find where gates go, from how data flow in one pass and not from the names of classes.

Which branches count. A residual site is the end of the branch of a sum `shortcut + branch` of two
equally shaped maps that come from one value, where the shortcut is that value itself, something
without weights (pooling, padding, striding), or a projection without a nonlinearity, and the
branch has layers and a nonlinearity. So these are no sites: the parallel branches of RepVGG and
MobileOne (no nonlinearity in a branch), the sums of resolutions in HRNet and feature pyramids
(neither side is a projection), gates and attention inside a branch.

- The maps may have any number of dimensions of space: [N, C], [N, C, L], [N, C, H, W],
  [N, C, D, H, W]. Branches on token maps [N, L, C], and branches that mix positions without any
  convolution, are a transformer's: a gate weighs the channels of a map by their mean over space.
- A branch whose last layer that sees more than one position upsamples is none, whether by
  interpolate, pixel_shuffle, a transposed convolution or by hand: the sum joins two resolutions (a
  long sum of U-Net or Linknet), and a gate would scale the whole decoder below it. Where the
  shortcut is upsampled too, it is a residual block.
- A concatenation of two counts where one is an identity half or a pooled shortcut that the other
  does not read (ShuffleNet). DenseNet's do not: it hands its input on unscaled, the new features
  are read by every later layer, and there is no sum that a gate could keep small; use where="conv"
  there.

Where the gate stands. After the branch's last layer, and before its trailing activations, poolings
and layer scale, whether those are functions or modules. They must keep zero, so that a shut gate
shuts the branch: ReLU, SiLU and tanh do, sigmoid does not. Before them the gate can be computed
with the norm, the sum and the ReLU in one pass (`ab.fuse`), and folded into the convolution
(`ab.fold`). Where the map before the activation is read elsewhere or given by no module, the gate
stands after it.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
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
POOLS |= {f"{what}_pool{d}d" for what in ("avg", "max", "lp", "adaptive_avg") for d in (1, 3)}
UPSAMPLING = {"interpolate", "upsample", "pixel_shuffle", "upsample_nearest", "upsample_bilinear"}
UPSAMPLING |= {"repeat_interleave", "max_unpool1d", "max_unpool2d", "max_unpool3d"}
SHAPES = {"permute", "contiguous", "to", "type_as", "float", "half", "bfloat16", "type", "clone"}
SHAPES |= {"pad", "constant_pad_nd", "__getitem__", "dropout", "feature_dropout", "dropout2d"}
SHAPES |= {"transpose", "view", "reshape", "flatten", "unflatten", "__get__", "chunk", "split"}
SHAPES |= {"div", "__truediv__", "div_", "alias", "as_subclass", "roll", "movedim", "unbind"}
ACTIVATIONS = {"relu", "relu_", "silu", "gelu", "elu", "hardswish", "leaky_relu", "mish", "selu"}
ACTIVATIONS |= {"relu6", "hardtanh", "prelu", "rrelu", "celu", "tanh", "softsign", "hardshrink"}
ACTIVATIONS |= {"softshrink", "tanhshrink"}
ACTIVATIONS |= {f"{name}_" for name in ACTIVATIONS if not name.endswith("_")}
SLICES = {"__getitem__", "chunk", "split", "narrow", "unbind", "tensor_split"}
# where the input is 0 the output is: a gate may as well stand before
KEEPS_ZERO = SHAPES | POOLS | SLICES | ACTIVATIONS | PRODUCTS
RESHAPES = {"view", "reshape", "flatten", "unflatten"}
MAP_RANKS = range(2, 6)  # [N, C], [N, C, L], [N, C, H, W], [N, C, D, H, W]


@dataclass(frozen=True)
class Found:
    """A site, or residual branches that have no place for a gate (then `site` is None)."""

    site: Site | None
    reason: str
    on_tokens: bool = False  # they are no branches of feature maps


def residual_sites(trace: Trace) -> list[Found]:
    """Every residual branch of the pass, in the order of execution."""
    found: list[Found] = []
    taken: set[str] = set()
    tokens: list[str] = []
    for value in trace.values:
        call = value.call
        if call is None or call.outputs[0] is not value:
            continue
        branch = _summed_branch(call, trace) or _concatenated_branch(call, trace)
        if branch is None:
            continue
        end, reason = branch
        name = next(filter(None, reversed(value.modules)), call.module) or "the network"
        if _is_on_tokens(end, call, trace):
            tokens.append(name)
            continue
        place = _place(end, call, trace)
        site = place if isinstance(place, Site) else None
        if site is None:
            reason = f"the branch that {name} sums has no place for a gate: {place}"
        key = site.name if site else reason
        if key not in taken:
            taken.add(key)
            found.append(Found(site, reason))
    if tokens:
        many = f"{len(tokens)} branches are" if len(tokens) > 1 else "a branch is"
        reason = f"{many} made of linear layers or on token maps [N, L, C] (such as {tokens[0]}'s)"
        found.append(Found(None, f"{reason}, which are no feature maps", on_tokens=True))
    return found


def _is_on_tokens(end: Value, call: Call, trace: Trace) -> bool:
    """Whether a branch is a transformer's, and not one of feature maps.

    Its map has one dimension of positions and its channels last, or it has several dimensions of
    positions and no convolution looks at them, or positions were put into the batch.
    """
    if len(end.shape) == 2:
        return end.shape[0] != trace.values[0].shape[0]
    if len(end.shape) == 3 and layout_of(end) == "NHWC":
        return True
    common = -1
    for value in call.inputs:
        common &= value.ancestors
    fork = trace.values[common.bit_length() - 1]
    return not any(c.name in CONVOLUTIONS and c.learned for c in _between(fork, end, trace))


def is_map(value: Value) -> bool:
    return len(value.shape) in MAP_RANKS


def _summed_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a residual sum and why it is one, or None."""
    if call.name not in SUMS or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if a.shape != b.shape or not is_map(a) or a is b:
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
    if not (is_map(a) and is_map(b)) or a.shape[2:] != b.shape[2:] or len(a.shape) < 3:
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
    same_rank = is_map(value) and len(value.shape) == len(before.shape)
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
    """Whether the branch brings a coarser map to the size that the fork has already.

    Then the sum joins two resolutions, by whatever means the map was upsampled and whether or not
    layers that see one position at a time follow. Where the fork is the coarser map, the shortcut
    was upsampled too, and the sum is that of a residual block that upsamples.
    """
    size = _sides(branch)
    if len(fork.shape) == len(branch.shape) and _is_coarser(_sides(fork), size):
        return False
    value = branch
    while value is not fork and (call := value.call) is not None:
        if call.name in UPSAMPLING:
            return True
        before = [i for i in call.inputs if fork.flows_into(i)]
        layer = call.name in LAYERS
        if layer and len(value.shape) == len(branch.shape) and _is_coarser(_sides(value), size):
            return True  # a function that is no layer made it larger, as a shuffle by hand
        transposed = call.name.startswith("conv_transpose")
        if transposed and before and _is_coarser(_sides(before[0]), _sides(value)):
            return True
        if (layer and not _is_pointwise(call)) or len(before) != 1:
            return False
        value = before[0]
    return False


def _sides(value: Value) -> tuple[int, ...]:
    return value.shape[1:-1] if layout_of(value) == "NHWC" else value.shape[2:]


def _is_coarser(sides: tuple[int, ...], than: tuple[int, ...]) -> bool:
    """Whether a map is that much smaller that padding does not explain it."""
    pairs = list(zip(sides, than, strict=True))
    return any(3 * a <= 2 * b for a, b in pairs) and all(a <= b for a, b in pairs)


def _is_pointwise(call: Call) -> bool:
    """Whether a layer sees one position at a time: a linear layer, a convolution of size 1."""
    if call.name not in CONVOLUTIONS:
        return call.name in ("linear", "addmm")
    padding = call.arguments[4:5] or (0,)  # a larger kernel without padding shrinks the map
    return not any(_flat(padding)) and call.inputs[0].shape[2:] == call.outputs[0].shape[2:]


def _place(end: Value, call: Call, trace: Trace) -> Site | str:
    """The module whose output the gate scales, or why there is none.

    It is the branch's last layer. The steps after it are left to act on the gated map: layer scale,
    activations and poolings, whether functions or modules. A gate before them is as good (where
    the map is 0 they give 0) and can be fused and folded. Where no module ends there it is the
    module nearest to the sum.
    """
    value, nearest, why = end, None, "no module gives its end, which a function computes"
    # ReXNet sums some of the channels and puts the others beside them
    reach = [end, *(u.outputs[0] for u in call.outputs[0].users if u.name == "cat")]
    while True:
        made = value.call
        outside = any(
            user is not call
            and trace.is_live(user)
            and not any(user.outputs[0].flows_into(r) for r in reach)
            for user in value.users
        )
        if outside or trace.is_returned(value):
            if value is end:
                why = "its end is read by more than the sum"
            return nearest or why
        scales = made is not None and made.name in PRODUCTS and len(made.inputs) == 1
        if not scales and (name := module_of(value, trace)) and (layout := layout_of(value)):
            site = Site.of(name, value.shape, layout)
            if not _may_follow(made):
                return site
            nearest = nearest or site
        elif value is end and value.modules:
            why = _why_no_module(value, trace)
        if made is None:
            return nearest or why
        sliced = made.name in SLICES and made.inputs[0].shape[2:] == value.shape[2:]
        resized = sliced or made.name in POOLS
        reshaped = made.name in RESHAPES and numel(made.inputs[0]) == numel(value)
        same = [
            i for i in made.inputs if resized or reshaped or sorted(i.shape) == sorted(value.shape)
        ]
        if (
            not same
            or made.name not in KEEPS_ZERO
            or len(made.inputs) > 1 + (made.name in PRODUCTS)
        ):
            return nearest or why  # a gate before it could not shut the branch
        value = same[0]


def _may_follow(call: Call | None) -> bool:
    """Whether a step comes after the gate: an activation or a pooling that keeps zero."""
    if call is None:
        return False
    if call.name in ACTIVATIONS | POOLS:
        return True
    if call.name not in PRODUCTS or len(call.inputs) != 2:
        return False
    # x * sigmoid(x), written out: an activation, where no layer and no pooling is in between
    for whole, factor in (call.inputs, call.inputs[::-1]):
        while factor is not whole and factor.call is not None and factor.shape == whole.shape:
            step = factor.call
            if step.name in LAYERS | NORMS | POOLS or len(step.inputs) != 1 or step.learned:
                break
            factor = step.inputs[0]
        if factor is whole:
            return True
    return False


def _why_no_module(value: Value, trace: Trace) -> str:
    """Why none of the modules that give a value can have a gate."""
    name = value.modules[0]
    if (times := trace.calls_of[name]) > 1:
        return f"{name!r} gives it and runs {times} times in a pass, for several sums"
    if name not in trace.gives_tensor:
        return f"{name!r} gives it together with other values"
    return f"it is unclear which dimension of the output of {name!r} holds the channels"


def module_of(value: Value, trace: Trace) -> str | None:
    """The innermost module that ran once and gave the value, alone."""
    once = (n for n in value.modules if trace.calls_of[n] == 1 and n in trace.gives_tensor)
    return next(once, None)


def layout_of(value: Value) -> str | None:
    """Where the channels of a map are, from the layer or norm that made it; None if unclear."""
    rank, moves = len(value.shape), []
    if rank == 2:
        return "NCHW"
    while rank in MAP_RANKS and len(value.shape) == rank and value.call is not None:
        call = value.call
        if _is_unbatched(call):
            return None
        if (dim := _channel_dim(call, rank)) is None:
            if call.name in MOVES:
                if (move := _move(call, rank)) is None:
                    return None
                moves.append(move)
            elif call.name in ("movedim", "view", "reshape", "__get__"):
                return None
            bigger = [i for i in call.inputs if sorted(i.shape) == sorted(value.shape)]
            value = (bigger or call.inputs)[0]
            continue
        for move in reversed(moves):
            dim = move.index(dim)
        return {1: "NCHW", rank - 1: "NHWC"}.get(dim)
    return "NCHW" if len(value.shape) == rank in MAP_RANKS else None


def _is_unbatched(call: Call) -> bool:
    """Whether a convolution runs on one map without a batch: its channels come first of all."""
    return call.name in CONVOLUTIONS and len(call.inputs[0].shape) != int(call.name[-2]) + 2


def _channel_dim(call: Call, rank: int) -> int | None:
    """The dimension of the channels in what a layer or norm gives; None for other calls."""
    if call.name in ("layer_norm", "rms_norm"):
        sizes = call.arguments[1:2]
        over = len(sizes[0]) if sizes and isinstance(sizes[0], (list, tuple)) else 1
        return rank - 1 if over == 1 else None
    if call.name == "linear":
        return rank - 1
    if call.name in CONVOLUTIONS | NORMS or (call.name == "cat" and rank > 3):
        return 1
    return None


MOVES = {"permute", "transpose", "swapaxes", "swapdims"}


def _move(call: Call, rank: int) -> list[int] | None:
    """The order in which a call puts the dimensions; None where its arguments do not say it."""
    dims = [a % rank for a in _flat(call.arguments) if isinstance(a, int)]
    if call.name == "permute":
        return dims if len(dims) == rank else None
    if len(dims) != 2:
        return None
    order = list(range(rank))
    order[dims[0]], order[dims[1]] = dims[1], dims[0]
    return order


def numel(value: Value) -> int:
    return math.prod(value.shape)


def _flat(items: Iterable) -> Iterable:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
