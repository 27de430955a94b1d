"""What kind of shortcut one term of a sum is for another term.

Two terms have a *fork*: the value that both come from. One term is a shortcut and the other a
branch if little happens between the fork and the shortcut, and layers and a nonlinearity stand
between the fork and the branch.
"""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.resolutions import ends_in_upsampling
from accuracy_booster.surgery.torch_functions import (
    ACTIVATIONS,
    CONVOLUTIONS,
    LAYERS,
    NORMS,
    POOLS,
    PRODUCTS,
    SHAPES,
    SLICES,
    SUMS,
    UPSAMPLING,
    WEIGHTED_SUMS,
)
from accuracy_booster.surgery.trace import Call, Trace, Value

IDENTITY, WITHOUT_WEIGHTS, PROJECTION = "the identity", "a shortcut without weights", "a projection"
FREE = (IDENTITY, WITHOUT_WEIGHTS)  # the kinds without parameters
MOST_LAYERS = 2  # of a projection
MOST_STEPS = 50  # that are followed back through several streams


def shortcut_kind(shortcut: Value, branch: Value, total: Value, trace: Trace) -> str | None:
    """What kind of shortcut a term is for another term of the sum `total`; None if it is none."""
    fork = fork_of(shortcut, branch, trace)
    forks = [] if fork is None else [fork]
    if fork is not None:
        slices = _reads_all_channels(branch, fork) or _is_read_further(total, trace)
        kind = path_kind(shortcut, fork, slices=slices)
    else:
        kind, forks = _kind_from_streams(shortcut, branch)
    if kind is None or not _is_branch(branch, shortcut, forks, trace):
        return None
    return None if ends_in_upsampling(branch, forks) else kind


def fork_of(shortcut: Value, branch: Value, trace: Trace) -> Value | None:
    """The last value that both come from, if everything that both come from goes through it."""
    common = shortcut.ancestors & branch.ancestors
    if not common:
        return None
    fork = trace.values[common.bit_length() - 1]
    if fork is branch or common & ~fork.ancestors:
        return None
    return fork


def path_kind(shortcut: Value, fork: Value, *, slices: bool = False) -> str | None:
    """What leads from the fork to the shortcut, or None where it is more than a projection.

    Args:
        slices: whether a slice of the fork's channels counts as a shortcut.
    """
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
        elif not is_linear_step(call) and not (layers and call.name in ACTIVATIONS):
            return None  # DPN's projection has a norm and an activation of its own before it
        steps += 1
        value = inputs[0]
    if layers:
        return PROJECTION if layers <= MOST_LAYERS else None
    if partial and not slices:
        return None
    return WITHOUT_WEIGHTS if steps else IDENTITY


def _kind_from_streams(shortcut: Value, branch: Value) -> tuple[str | None, list[Value]]:
    """The kind of a shortcut that is a linear function of several values, and those forks.

    Each of the values flows into the branch. An octave network sums a projection of two streams
    with a branch that reads both.
    """
    forks: dict[int, Value] = {}
    deepest = steps = 0
    waiting = [(shortcut, 0)]
    while waiting:
        value, layers = waiting.pop()
        if value.flows_into(branch):
            forks[value.index] = value
            deepest = max(deepest, layers)
            continue
        call = value.call
        steps += 1
        if call is None or layers > MOST_LAYERS or steps > MOST_STEPS:
            return None, []
        if call.name in LAYERS and call.learned and len(call.inputs) == 1:
            layers += 1
        elif not (is_linear_step(call) or call.name in SUMS):
            return None, []
        if call.name in SLICES and _loses_channels(value, call.inputs[0]):
            return None, []
        waiting += [(i, layers) for i in call.inputs]
    if deepest > MOST_LAYERS or not forks:
        return None, []
    return PROJECTION if deepest else WITHOUT_WEIGHTS, list(forks.values())


def _is_read_further(total: Value, trace: Trace) -> bool:
    """Whether something beside one layer reads a sum, as in the streams of a coupling.

    In Res2Net the sum of two slices is only the input of the next convolution.
    """
    users = [user for user in total.users if trace.is_live(user)]
    return len(users) > 1 or any(u.name in SUMS or u.name.startswith("cat") for u in users)


def _reads_all_channels(branch: Value, fork: Value) -> bool:
    """Whether the branch reads all channels of the fork (DPN), not other slices (Res2Net)."""
    into = [u for u in fork.users if any(o.flows_into(branch) for o in u.outputs)]
    return not any(u.name in SLICES and _loses_channels(u.outputs[0], fork) for u in into)


def is_linear_step(call: Call) -> bool:
    """Whether a call is neither a layer nor a nonlinearity: pooling, padding, norms, scales."""
    if call.name in POOLS | SHAPES | UPSAMPLING | NORMS | SLICES:
        return True
    if call.name in PRODUCTS | SUMS | WEIGHTED_SUMS | {"cat"}:
        return len(call.inputs) == 1  # with a constant
    return call.name in CONVOLUTIONS and not call.learned  # a blur


def _loses_channels(value: Value, before: Value) -> bool:
    same_rank = len(value.shape) == len(before.shape)
    return not same_rank or value.shape[1] < before.shape[1]


def between(forks: list[Value], end: Value, trace: Trace) -> list[Call]:
    """The calls on the way from the forks to the end."""
    bits = end.ancestors
    for fork in forks:
        bits &= ~fork.ancestors
    calls: dict[int, Call] = {}
    while bits:
        value = trace.values[bits.bit_length() - 1]
        bits ^= 1 << value.index
        if value.call is not None and any(fork.flows_into(value) for fork in forks):
            calls[id(value.call)] = value.call
    return list(calls.values())


def _is_branch(branch: Value, shortcut: Value, forks: list[Value], trace: Trace) -> bool:
    """Whether a term has a nonlinearity, and more layers than the other term."""
    calls = between(forks, branch, trace)
    layers = sum(c.name in LAYERS and c.learned for c in calls)
    other = sum(c.name in LAYERS and c.learned for c in between(forks, shortcut, trace))
    return layers > other and any(_is_nonlinear(c) for c in calls)


def _is_nonlinear(call: Call) -> bool:
    linear = LAYERS | NORMS | SUMS | SHAPES | POOLS | UPSAMPLING | SLICES | {"cat"}
    linear |= WEIGHTED_SUMS
    if call.name in PRODUCTS:
        return len(call.inputs) > 1
    return call.name not in linear or call.name == "module"  # unseen: it may be anything
