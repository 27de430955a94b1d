"""Which sums of a pass are residual, and which of their terms are branches.

A residual sum is `shortcut + branch` of equally shaped maps; what a shortcut is says `shortcuts`.
In `x + b(x) + c(x)` each of b and c is a branch. A sum is `+`, `-`, `lerp`, `addcmul`, or the sum
or mean of a `stack`, also of maps that were written in place.
"""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.placing import place
from accuracy_booster.surgery.shortcuts import is_linear_step, shortcut_kind
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.torch_functions import (
    ACTIVATIONS,
    GATES,
    LAYERS,
    PRODUCTS,
    SUMS,
    WEIGHTED_SUMS,
)
from accuracy_booster.surgery.trace import Call, Trace, Value

MOST_USERS = 30  # of a sum that are followed to see whether it only weighs another map


def summed_branches(call: Call, trace: Trace) -> list[tuple[Value, Call, str]]:
    """The branches of a residual sum, each with the call that reads it and why it is one."""
    direct = [(term, _reader(call, term)) for term in summands(call)]
    if not direct or _weighs_a_map(call.outputs[0], trace):
        return []
    found = branches_among(direct, call.outputs[0], trace)
    # RepGhost's branch ends in a sum of its own: one gate scales that, not its terms one by one
    whole = {end.index for end, reader, _ in found if isinstance(place(end, reader, trace), Site)}
    terms = _terms(call, trace, whole)
    if len(terms) > len(direct):
        found += branches_among(terms, call.outputs[0], trace)
    return found


def summands(call: Call) -> list[Value]:
    """The maps of equal shape that a call sums; none if it is no such sum."""
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
    if len(users) != 1 or not summands(call) or trace.is_returned(total):
        return False
    return total.shape in [term.shape for term in summands(users[0])]


def _terms(call: Call, trace: Trace, whole: set[int]) -> list[tuple[Value, Call]]:
    """The terms of a chain of sums, each with the call that reads it; `whole` ones stay sums."""
    terms: list[tuple[Value, Call]] = []
    for term in summands(call):
        inner = term.call
        if inner is not None and term.index not in whole and is_inner(inner, trace):
            terms += _terms(inner, trace, whole)
            continue
        terms.append((term, _reader(call, term)))
    return terms


def _reader(call: Call, term: Value) -> Call:
    """The call that reads a term of a sum. For the sum of a stack it is the stack."""
    return call if term in call.inputs else call.inputs[0].call or call


def branches_among(
    terms: list[tuple[Value, Call]], total: Value, trace: Trace
) -> list[tuple[Value, Call, str]]:
    """The terms for which another term is a shortcut, each with its reader and why."""
    found = []
    for branch, reader in terms:
        for shortcut, _ in terms:
            if shortcut is branch:
                continue
            kind = shortcut_kind(shortcut, branch, total, trace)
            if kind:
                found.append((branch, reader, f"branch of a sum with {kind}"))
                break
    return found


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
            simple = user.name in LAYERS | ACTIVATIONS | GATES or is_linear_step(user)
            if len(seen) > MOST_USERS or not simple or len(user.inputs) > 1:
                return False
            waiting += [(o, squashed or user.name in GATES) for o in user.outputs]
    return gated
