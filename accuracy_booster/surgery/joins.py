"""Where a shortcut and a branch meet in something other than a sum.

A ShuffleNet-like concatenation has a site; the other joins (`einsum`, `maximum`, ...) are reported.
"""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.layouts import is_map
from accuracy_booster.surgery.shortcuts import FREE, between, fork_of, path_kind
from accuracy_booster.surgery.sums import branches_among, summands, summed_branches
from accuracy_booster.surgery.torch_functions import CONVOLUTIONS, JOINS, RESHAPES, SUMS
from accuracy_booster.surgery.trace import Call, Trace, Value


def concatenated_branch(call: Call, trace: Trace) -> tuple[Value, str] | None:
    """The branch of a ShuffleNet-like concatenation over the channels, and why it is one."""
    if call.name not in ("cat", "concat", "concatenate") or len(call.inputs) != 2:
        return None
    a, b = call.inputs
    if min(len(a.shape), len(b.shape)) < 3 or a.shape[2:] != b.shape[2:] or not is_map(a):
        return None
    for shortcut, branch in ((a, b), (b, a)):
        if shortcut.flows_into(branch) or len(shortcut.users) > 1 or len(branch.users) > 1:
            continue
        fork = fork_of(shortcut, branch, trace)
        if fork is None or path_kind(shortcut, fork, slices=True) not in FREE:
            continue
        halved = 2 * shortcut.shape[2] <= fork.shape[2] + 1
        if shortcut.shape[1] >= fork.shape[1] and not halved:
            continue  # all channels at the fork's resolution: a stem, no unit of ShuffleNet
        calls = between([fork], branch, trace)
        if sum(c.name in CONVOLUTIONS and c.learned for c in calls) < 2:
            continue
        if any(summed_branches(c, trace) for c in calls if c.name in SUMS):
            continue  # a whole stage, as in CSPNet
        return branch, "branch of a concatenation with a shortcut"
    return None


def joined_otherwise(call: Call, trace: Trace) -> str | None:
    """Why a shortcut and a branch that meet in something other than a sum get no gate.

    None where no shortcut and branch meet, or where the branch has its gate already.
    """
    name, terms = call.name, [i for i in call.inputs if is_map(i)]
    if name not in JOINS:
        return None
    if name.startswith(("lerp", "addcmul")):  # a factor may be smaller
        terms = [t for t in terms if t.shape == call.outputs[0].shape]
    if not 2 <= len(terms) <= 8 or len({t.shape for t in terms}) > 1:
        return None
    if name == "stack" and all(summands(u) for u in call.outputs[0].users):
        return None
    if name == "cat" and not _is_summed_later(call):
        return None
    read = [(term, call) for term in terms]
    ends = [end for end, _, _ in branches_among(read, call.outputs[0], trace)]
    if all(end.call is not None and summed_branches(end.call, trace) for end in ends):
        return None  # the branch ends in a sum that has its gate, as in `where(m, x + b, x)`
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
