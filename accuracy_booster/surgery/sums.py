"""Which sums of a pass are residual, and which of their terms are branches.

A residual sum is `shortcut + branch` of equally shaped maps that come from one value, where the
shortcut is that value itself, something without weights (pooling, padding, striding), or a
projection without a nonlinearity, and the branch has layers and a nonlinearity. In
`x + b(x) + c(x)` each of b and c is a branch.

A sum is `+`, `-`, `lerp`, `addcmul`, or the sum or mean of a `stack`, of maps written in place too.
What joins a shortcut and a branch in another way (`einsum`, `maximum`, ...) is reported.
"""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.placing import ends_in_upsampling, is_map, place
from accuracy_booster.surgery.rules import (
    ACTIVATIONS,
    CONVOLUTIONS,
    GATES,
    JOINS,
    LAYERS,
    NORMS,
    POOLS,
    PRODUCTS,
    RESHAPES,
    SHAPES,
    SLICES,
    SUMS,
    UPSAMPLING,
    WEIGHTED_SUMS,
)
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.trace import Call, Trace, Value


def _summands(call: Call) -> list[Value]:
    """The maps that a call sums, if it is a sum of equal maps: `x + b`, `x - b`, a stack's sum."""
    if call.name in SUMS | WEIGHTED_SUMS and len(call.inputs) == 2:
        terms = call.inputs if _is_sum(call) else []
    elif call.name in ("sum", "mean") and len(call.inputs) == 1:
        stack = call.inputs[0].call
        terms = stack.inputs if stack is not None and stack.name == "stack" else []
    else:
        return []
    shapes = {term.shape for term in (*terms, *call.outputs)}
    ranks = 1 <= len(call.outputs[0].shape) <= 5  # 1: a map that was flattened for the sum
    return terms if len(shapes) == 1 and len(terms) > 1 and ranks else []


def _is_sum(call: Call) -> bool:
    """Whether the two maps of a call are terms: in `addcmul(1, x, b)` they are factors."""
    if call.name.startswith("addcmul"):
        return call.follows[:1] != (False,)
    if call.name.startswith("lerp"):  # a weight that depends on the input is no term
        return call.follows[:2] in ((True, True), (), (True,))
    return True


def is_inner(call: Call, trace: Trace) -> bool:
    """Whether a sum is only a term of the next one, as in `x + b1(x) + b2(x)`."""
    total = call.outputs[0]
    users = [user for user in total.users if trace.is_live(user)]
    if len(users) != 1 or not _summands(call) or trace.is_returned(total):
        return False
    return total.shape in [term.shape for term in _summands(users[0])]


def _terms(call: Call, trace: Trace, whole: set[int]) -> list[tuple[Value, Call]]:
    """The terms of a chain of sums, each with the call that reads it; `whole` ones stay sums."""
    terms: list[tuple[Value, Call]] = []
    for term in _summands(call):
        inner = term.call
        if inner is not None and term.index not in whole and is_inner(inner, trace):
            terms += _terms(inner, trace, whole)
            continue
        terms.append((term, _reader(call, term)))
    return terms


def summed_branches(call: Call, trace: Trace) -> list[tuple[Value, Call, str]]:
    """The branches of a residual sum, each with the call that reads it and why it is one."""
    direct = [(term, _reader(call, term)) for term in _summands(call)]
    if not direct or _weighs_a_map(call.outputs[0], trace):
        return []
    found = _branches(direct, call.outputs[0], trace)
    # RepGhost's branch ends in a sum of its own: one gate scales that, not its terms one by one
    whole = {end.index for end, reader, _ in found if isinstance(place(end, reader, trace), Site)}
    terms = _terms(call, trace, whole)
    return found + (_branches(terms, call.outputs[0], trace) if len(terms) > len(direct) else [])


def _reader(call: Call, term: Value) -> Call:
    """The call that reads a term of a sum: of a stack's sum, the stack."""
    return call if term in call.inputs else call.inputs[0].call or call


def _branches(
    terms: list[tuple[Value, Call]], total: Value, trace: Trace
) -> list[tuple[Value, Call, str]]:
    found = []
    for branch, reader in terms:
        for shortcut, _ in terms:
            if shortcut is branch:
                continue
            kind = _residual(shortcut, branch, total, trace)
            if kind:
                found.append((branch, reader, f"branch of a sum with {kind}"))
                break
    return found


def _residual(shortcut: Value, branch: Value, total: Value, trace: Trace) -> str | None:
    """What kind of shortcut a term is for another term; None if it is none."""
    fork = _fork(shortcut, branch, trace)
    forks = [] if fork is None else [fork]
    if fork is not None:
        whole = _reads_whole(branch, fork) or _lives_on(total, trace)
        kind = _shortcut_kind(shortcut, fork, slices=whole)
    else:
        kind, forks = _stream(shortcut, branch)
    if kind is None or not _is_branch(branch, shortcut, forks, trace):
        return None
    return None if ends_in_upsampling(branch, forks) else kind


def _lives_on(total: Value, trace: Trace) -> bool:
    """Whether a sum goes on beside the layer that reads it, as the streams of a coupling do.

    In Res2Net the sum of two slices is only the input of the next convolution.
    """
    users = [user for user in total.users if trace.is_live(user)]
    return len(users) > 1 or any(u.name in SUMS or u.name.startswith("cat") for u in users)


def _stream(shortcut: Value, branch: Value) -> tuple[str | None, list[Value]]:
    """The shortcut as a linear function of several values that all flow into the branch.

    An octave network sums a projection of two streams with a branch that reads both.
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
        if call is None or layers > 2 or steps > 50:
            return None, []
        if call.name in LAYERS and call.learned and len(call.inputs) == 1:
            layers += 1
        elif not (_is_plain(call) or call.name in SUMS):
            return None, []
        if call.name in SLICES and _loses_channels(value, call.inputs[0]):
            return None, []
        waiting += [(i, layers) for i in call.inputs]
    if deepest > 2 or not forks:
        return None, []
    return PROJECTION if deepest else WITHOUT_WEIGHTS, list(forks.values())


def _weighs_a_map(total: Value, trace: Trace) -> bool:
    """Whether a sum becomes nothing but the weights of a product: an additive attention gate."""
    waiting, seen, gated = [(total, False)], set(), False
    while waiting:
        value, squashed = waiting.pop()
        if trace.is_returned(value):
            return False
        for user in value.users:
            if id(user) in seen or not trace.is_live(user):
                continue
            seen.add(id(user))
            if squashed and user.name in PRODUCTS and len(user.inputs) == 2:
                gated = True
                continue
            plain = user.name in LAYERS | ACTIVATIONS or _is_plain(user)
            if len(seen) > 30 or not (plain or user.name in GATES) or len(user.inputs) > 1:
                return False
            waiting += [(o, squashed or user.name in GATES) for o in user.outputs]
    return gated


def joined_otherwise(call: Call, trace: Trace) -> str | None:
    """Why a shortcut and a branch that meet in something other than a sum get no gate."""
    name, terms = call.name, [i for i in call.inputs if is_map(i)]
    if name not in JOINS:
        return None
    if name.startswith(("lerp", "addcmul")):  # a factor may be smaller
        terms = [t for t in terms if t.shape == call.outputs[0].shape]
    if not 2 <= len(terms) <= 8 or len({t.shape for t in terms}) > 1:
        return None
    if name == "stack" and all(_summands(u) for u in call.outputs[0].users):
        return None
    if name == "cat" and not _is_summed_later(call):
        return None
    ends = [end for end, _, _ in _branches([(t, call) for t in terms], call.outputs[0], trace)]
    if all(end.call is not None and summed_branches(end.call, trace) for end in ends):
        return None  # nothing joins, or what does is a sum that has its gate: where(m, x + b, x)
    where = f" in {call.module}" if call.module else ""
    return (
        f"torch.{name}{where} joins a shortcut and a branch, and a gate of the branch need not "
        "leave the shortcut alone there"
    )


def _is_summed_later(call: Call) -> bool:
    """Whether a concatenation is viewed and summed to the shape of its parts again."""
    value = call.outputs[0]
    while len(value.users) == 1 and value.users[0].name in RESHAPES:
        value = value.users[0].outputs[0]
    shape = call.inputs[0].shape
    return any(u.name in ("sum", "mean") and u.outputs[0].shape == shape for u in value.users)


def concatenated_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a ShuffleNet-like concatenation over the channels, or None."""
    if call.name not in ("cat", "concat", "concatenate") or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if min(len(a.shape), len(b.shape)) < 3 or a.shape[2:] != b.shape[2:] or not is_map(a):
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
        calls = between([fork], branch, trace)
        if sum(c.name in CONVOLUTIONS and c.learned for c in calls) < 2:
            continue
        if any(summed_branches(c, trace) for c in calls if c.name in SUMS):
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
