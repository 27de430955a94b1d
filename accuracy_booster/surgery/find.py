"""Find where gates go, from how data flow in one pass and not from the names of classes.

A residual site is the end of the branch of a sum `shortcut + branch` of two equally shaped maps
that come from one value, where the shortcut is that value itself, something without weights
(pooling, padding, striding), or a projection without a nonlinearity, and the branch has layers and
a nonlinearity. So these are no sites: the parallel branches of RepVGG and MobileOne (no
nonlinearity in a branch), the sums of resolutions in HRNet and feature pyramids (neither side is a
projection, or a side ends in an upsampling), gates and attention inside a branch.

One rule for modules and functions alike: a branch that ends in an upsampling is none, be it learned
(a transposed convolution) or not, since the sum joins two resolutions; and the gate stands before
a trailing activation, next to the norm, with which it can then be fused. In `x + b(x) + c(x)` each
of b and c is a branch. A map is [N, C] or [N, C, ...] with up to three spatial dimensions; maps of
tokens [N, L, C] are refused. A module that runs several times gets no gate by default, for its
other runs need not end in a residual sum; `where=` gates each of its runs.

A concatenation of two counts where one is an identity half or a pooled shortcut that the other
does not read (ShuffleNet). DenseNet's do not: it hands its input on unscaled, the new features are
read by every later layer, and there is no sum that a gate could keep small; use where="conv" there.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from accuracy_booster.surgery.rules import (
    ACTIVATIONS,
    CONVOLUTIONS,
    GATES,
    JOINS,
    KEEPS_ZERO,
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


@dataclass(frozen=True)
class Found:
    """A site, or a residual branch that has no place for a gate (then `site` is None)."""

    site: Site | None
    reason: str


def residual_sites(trace: Trace) -> list[Found]:
    """Every residual branch of the pass, in the order of execution."""
    found: list[Found] = []
    taken: set[str] = set()
    handled: set[int] = set()  # a branch of `x + b(x) + c(x)` is one of both sums
    for value in trace.values:
        call = value.call
        if call is None or call.outputs[0] is not value:
            continue
        branches = _summed_branches(call, trace)
        if not branches and (one := _concatenated_branch(call, trace)) is not None:
            branches = [(one[0], call, one[1])]
        for end, reader, reason in branches:
            if end.index in handled:
                continue
            site, why_not = _place(end, reader, trace)
            if site is None and end.call is not None and _is_inner(end.call, trace):
                continue  # its terms are looked at one by one
            handled.add(end.index)
            if site is not None and _is_token_map(site):
                shape = list(end.shape)
                site, why_not = None, f"it is a map of tokens [N, L, C], here {shape}"
            if site is None:
                name = next(filter(None, reversed(value.modules)), "the network")
                text = f"no module gives the branch that {name} sums"
                skipped = Found(None, f"{text}: {why_not}" if why_not else text)
                if skipped not in found or not why_not:
                    found.append(skipped)
            elif site.name not in taken:
                taken.add(site.name)
                found.append(Found(site, reason))
        if not branches and (joined := _joined_otherwise(call, trace)):
            found.append(Found(None, joined))
    return found


def _is_token_map(site: Site) -> bool:
    return site.layout == "NHWC" and len(site.spatial_size) == 1


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
        if name and name not in taken and _is_map(last) and max(last.shape[2:], default=1) > 1:
            taken.add(name)
            found.append(Found(Site.of(name, last.shape), reason))
    return found


def attention_sites(trace: Trace) -> list[Found]:
    """Modules that scale their own input by something computed from it: SE, ECA, CBAM, ..."""
    sites: dict[str, Site] = {}
    for value in trace.values:
        name = _outer_gate(value, trace) if len(value.shape) >= 4 else None
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
    """[N, C], or [N, C, ...] with up to three spatial dimensions."""
    return 2 <= len(value.shape) <= 5


def _summands(call: Call) -> list[Value]:
    """The maps that a call sums, if it is a sum of equal maps: `x + b`, `x - b`, a stack's sum."""
    if call.name in SUMS | WEIGHTED_SUMS and len(call.inputs) == 2:
        terms = call.inputs
    elif call.name in ("sum", "mean") and len(call.inputs) == 1:
        stack = call.inputs[0].call
        terms = stack.inputs if stack is not None and stack.name == "stack" else []
    else:
        return []
    shapes = {term.shape for term in (*terms, *call.outputs)}
    ranks = 1 <= len(call.outputs[0].shape) <= 5  # 1: a map that was flattened for the sum
    return terms if len(shapes) == 1 and len(terms) > 1 and ranks else []


def _is_inner(call: Call, trace: Trace) -> bool:
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
        if inner is not None and term.index not in whole and _is_inner(inner, trace):
            terms += _terms(inner, trace, whole)
            continue
        terms.append((term, _reader(call, term)))
    return terms


def _summed_branches(call: Call, trace: Trace) -> list[tuple[Value, Call, str]]:
    """The branches of a residual sum, each with the call that reads it and why it is one."""
    direct = [(term, _reader(call, term)) for term in _summands(call)]
    if not direct or _weighs_a_map(call.outputs[0], trace):
        return []
    found = _branches(direct, call.outputs[0], trace)
    # RepGhost's branch ends in a sum of its own: one gate scales that, not its terms one by one
    whole = {end.index for end, reader, _ in found if _place(end, reader, trace)[0] is not None}
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
    return None if _ends_in_upsampling(branch, forks) else kind


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


def _joined_otherwise(call: Call, trace: Trace) -> str | None:
    """Why a shortcut and a branch that meet in something other than a sum get no gate."""
    name, terms = call.name, [i for i in call.inputs if _is_map(i)]
    if name not in JOINS or not 2 <= len(terms) <= 8 or len({t.shape for t in terms}) > 1:
        return None
    if name == "stack" and all(_summands(u) for u in call.outputs[0].users):
        return None
    if not _branches([(t, call) for t in terms], call.outputs[0], trace):
        return None
    where = f" in {call.module}" if call.module else ""
    return (
        f"torch.{name}{where} joins a shortcut and a branch, and a gate of the branch need not "
        "leave the shortcut alone there"
    )


def _concatenated_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a ShuffleNet-like concatenation over the channels, or None."""
    if call.name not in ("cat", "concat", "concatenate") or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if min(len(a.shape), len(b.shape)) < 3 or a.shape[2:] != b.shape[2:] or not _is_map(a):
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
        between = _between([fork], branch, trace)
        if sum(c.name in CONVOLUTIONS and c.learned for c in between) < 2:
            continue
        if any(_summed_branches(c, trace) for c in between if c.name in SUMS):
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
    same_rank = len(value.shape) == len(before.shape)
    return not same_rank or value.shape[1] < before.shape[1]


def _between(forks: list[Value], end: Value, trace: Trace) -> list[Call]:
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
    calls = _between(forks, branch, trace)
    # a residual MLP has linear layers; of larger maps those are the MLPs of transformers
    layer_names = CONVOLUTIONS if len(branch.shape) > 2 else CONVOLUTIONS | {"linear", "addmm"}
    if not any(c.name in layer_names and c.learned for c in calls):
        return False
    layers = sum(c.name in LAYERS and c.learned for c in calls)
    other = sum(c.name in LAYERS and c.learned for c in _between(forks, shortcut, trace))
    return layers > other and any(_is_nonlinear(c) for c in calls)


def _is_nonlinear(call: Call) -> bool:
    linear = LAYERS | NORMS | SUMS | SHAPES | POOLS | UPSAMPLING | SLICES | {"cat"}
    linear |= WEIGHTED_SUMS
    if call.name in PRODUCTS:
        return len(call.inputs) > 1
    return call.name not in linear or call.name == "module"  # unseen: it may be anything


def _ends_in_upsampling(branch: Value, forks: list[Value]) -> bool:
    """Whether the branch comes from a coarser map with nothing but norms and such in between.

    A transposed convolution that makes the map larger is an upsampling like any other.
    """
    value = branch
    while value not in forks and value.call is not None and len(value.call.inputs) == 1:
        before = value.call.inputs[0]
        if value.call.name in UPSAMPLING or (
            value.call.name.startswith("conv_transpose") and before.shape[2:] != value.shape[2:]
        ):
            return True
        if value.call.name in LAYERS:
            return False
        value = before
    return False


def _place(end: Value, call: Call, trace: Trace) -> tuple[Site | None, str]:
    """The module whose output the gate scales, or None and why.

    It is the last before layer scale, activations and functions: a gate stands before a trailing
    activation whether that is a function or a module. `late` is the activation's module, for a
    branch in which nothing before it is a module of its own.
    """
    value, late, why_not = end, None, ""
    # ReXNet sums some of the channels and puts the others beside them, or sums in place
    beside = ("cat", "written", "__setitem__")
    reach = [end, *(u.outputs[0] for u in call.outputs[0].users if u.name in beside)]
    while True:
        made = value.call
        scales = made is not None and made.name in PRODUCTS and len(made.inputs) == 1
        for user in value.users:
            stays = any(user.outputs[0].flows_into(r) for r in reach)
            if not (user is call or stays or not trace.is_live(user)):
                return late, why_not or "something else reads it too"
        if value is not end and trace.is_returned(value):
            return late, why_not or "the network returns it too"
        if not scales and (name := _module_of(value, trace)):
            layout = layout_of(value)
            if layout:
                site = Site.of(name, value.shape, layout)
                if made is None or made.name not in ACTIVATIONS:
                    return site, ""
                late = late or site
            else:
                why_not = f"it is unclear which dimension of {name} holds its channels"
        elif value.modules and not scales and trace.calls_of[value.modules[0]] > 1:
            name = value.modules[0]
            why_not = (
                f"module {name!r} gives it and runs {trace.calls_of[name]} times in a pass; "
                f"where=[{name!r}] gates each of its runs"
            )
        elif value.parts_of:
            why_not = f"module {value.parts_of[0]!r} returns it beside other things"
        if made is None:
            return late, why_not
        sliced = made.name in SLICES and made.inputs[0].shape[2:] == value.shape[2:]
        reshaped = made.name in RESHAPES and _numel(made.inputs[0]) == _numel(value)
        resized = sliced or reshaped or made.name in POOLS
        same = [i for i in made.inputs if resized or sorted(i.shape) == sorted(value.shape)]
        if not same or not _keeps_zero(made) or len(made.inputs) > 1 + (made.name in PRODUCTS):
            why_not = why_not or (
                f"it ends in torch.{made.name}, and a gate before that could not shut it"
            )
            return late, why_not
        value = same[0]


def _keeps_zero(call: Call) -> bool:
    """Whether a call gives 0 where its input is 0."""
    if call.name not in ("clamp", "clamp_", "clip", "clip_"):
        return call.name in KEEPS_ZERO
    limits = [*call.arguments[1:], None, None]
    low = call.keywords.get("min", limits[0])
    high = call.keywords.get("max", limits[1])
    return (low is None or low <= 0) and (high is None or high >= 0)


def _module_of(value: Value, trace: Trace) -> str | None:
    """The innermost module that ran once and gave the value."""
    return next((name for name in value.modules if trace.calls_of[name] == 1), None)


def layout_of(value: Value) -> str | None:
    """Where the channels of a map are, from the layer or norm that made it; None if unclear."""
    moves: list[tuple[int, ...]] = []
    while _is_map(value) and value.call is not None:
        call, rank = value.call, len(value.shape)
        if call.name in ("linear", "layer_norm", "rms_norm"):
            dim = len(value.shape) - 1
        elif call.name in CONVOLUTIONS | NORMS | {"cat"}:
            dim = 1
        else:
            if call.name == "permute":
                moves.append(tuple(a % rank for a in _flat(call.arguments) if isinstance(a, int)))
            elif call.name in ("transpose", "movedim", "view", "reshape", "__get__"):
                return None
            bigger = [i for i in call.inputs if sorted(i.shape) == sorted(value.shape)]
            value = (bigger or call.inputs)[0]
            continue
        for move in reversed(moves):
            dim = move.index(dim)
        return "NCHW" if dim == 1 else "NHWC" if dim == len(value.shape) - 1 else None
    return "NCHW" if _is_map(value) else None


def _flat(items: Iterable) -> Iterable:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
