"""Passes of the compiler: the residual sum and the ReLU after a packed convolution join it.

A compiled graph has one node for a packed convolution, one for the sum and one for the ReLU. The
convolution's kernel can finish its tiles with both, so one node takes the place of the three.
"""

# N batch, K channels, P Q space

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

from accuracy_booster.ops import packed_conv  # noqa: F401  # it defines the operator

PACKED, SHORTCUT, LOW, HIGH = 1, 12, 13, 14  # places of the operator's arguments
aten = torch.ops.aten


class JoinEpilogues(CustomGraphPass):
    """The first pass, as `torch._inductor.config.post_grad_custom_pre_pass` takes it."""

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        op = torch.ops.accuracy_booster.packed_conv.default
        for conv in graph.find_nodes(op="call_function", target=op):
            joined = _with_sum(graph, conv)
            _with_clamp(graph, joined)
        graph.eliminate_dead_code()

    def uuid(self) -> Any:
        """What tells compiled graphs of this version from those of others."""
        return get_hash_for_files((__file__,))


class OverwriteShortcuts(CustomGraphPass):
    """The last pass, as `torch._inductor.config.post_grad_custom_post_pass` takes it.

    A sum is written where its shortcut was, if nothing reads the shortcut afterwards.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        op = torch.ops.accuracy_booster.packed_conv.default
        places = {node: place for place, node in enumerate(graph.nodes)}
        for conv in graph.find_nodes(op="call_function", target=op):
            if _may_overwrite(conv, places):
                _write_onto_shortcut(graph, conv, places)

    def uuid(self) -> Any:
        """What tells compiled graphs of this version from those of others."""
        return get_hash_for_files((__file__,))


def _may_overwrite(conv: fx.Node, places: dict[fx.Node, int]) -> bool:
    """Whether a convolution's shortcut is a map of its own that nothing reads afterwards."""
    shortcut = conv.args[SHORTCUT]
    if not isinstance(shortcut, fx.Node) or shortcut.target not in _makes_own_map():
        return False
    if conv.all_input_nodes.count(shortcut) != 1 or shortcut in (conv.args[0], conv.args[PACKED]):
        return False
    others = [user for user in shortcut.users if user is not conv]
    return all(places[user] < places[conv] and not _gives_view(user) for user in others)


def _gives_view(node: fx.Node) -> bool:
    """Whether a node's output may share memory with what it reads, as a view or a part of it."""
    if isinstance(node.target, functools.partial):  # a convolution that inductor joins with a ReLU
        return node.target.func.__module__ != "torch._inductor.fx_passes.mkldnn_fusion"
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return any(value.alias_info is not None for value in node.target._schema.returns)


def _makes_own_map() -> tuple[Any, ...]:
    mkldnn = torch.ops.mkldnn
    own = torch.ops.accuracy_booster.packed_conv.default
    return own, mkldnn._convolution_pointwise.default, mkldnn._convolution_pointwise.binary


def _write_onto_shortcut(graph: fx.Graph, conv: fx.Node, places: dict[fx.Node, int]) -> None:
    args = list(conv.args)
    shortcut = args.pop(SHORTCUT)
    assert isinstance(shortcut, fx.Node)
    with graph.inserting_before(conv):
        onto = torch.ops.accuracy_booster.packed_conv_onto.default
        new = graph.call_function(onto, (shortcut, *args), conv.kwargs)
    new.meta = {k: v for k, v in conv.meta.items() if k != "val"} | {"val": None}
    places[new] = places[conv]
    conv.replace_all_uses_with(shortcut)
    graph.erase_node(conv)


def _with_sum(graph: fx.Graph, conv: fx.Node) -> fx.Node:
    """The node that also adds the shortcut, if a sum alone reads the convolution; else `conv`."""
    clamped = conv.args[LOW] is not None or conv.args[HIGH] is not None
    total = _only_user(conv)
    if (
        clamped
        or conv.args[SHORTCUT] is not None
        or total is None
        or total.target is not aten.add.Tensor
        or total.kwargs
    ):
        return conv
    first, second = total.args
    other = second if first is conv else first
    if not isinstance(other, fx.Node) or other is conv or not _same_kind(other, conv):
        return conv
    args = list(conv.args)
    args[SHORTCUT] = other
    return _replace(graph, total, conv, args)


def _with_clamp(graph: fx.Graph, conv: fx.Node) -> None:
    """Let the node also compute the activation, if one that clamps alone reads it.

    A ReLU6 may be two nodes, one for each limit.
    """
    while (user := _only_user(conv)) is not None and (limits := _limits(user)) is not None:
        args = list(conv.args)
        for place, limit in zip((LOW, HIGH), limits, strict=True):
            if limit is not None and args[place] is not None:
                return
            args[place] = args[place] if limit is None else limit
        low, high = args[LOW], args[HIGH]
        if low is not None and high is not None and low > high:  # type: ignore[operator]
            return
        conv = _replace(graph, user, conv, args)


def _limits(node: fx.Node) -> tuple[float | None, float | None] | None:
    """The least and the largest output of an activation that clamps; None for other nodes."""
    given = [*node.args[1:], None, None]
    low: Any = given[0]
    high: Any = given[1]
    if node.target is aten.relu.default:
        low, high = 0.0, None
    elif node.target is aten.hardtanh.default:
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    elif node.target is aten.clamp_max.default:
        low, high = None, low
    elif node.target is aten.clamp_min.default:
        high = None
    elif node.target is not aten.clamp.default:
        return None
    if any(not isinstance(limit, int | float | None) for limit in (low, high)):
        return None
    return None if low is None else float(low), None if high is None else float(high)


def _only_user(node: fx.Node) -> fx.Node | None:
    """The node's user, if there is one and it reads the node once."""
    (user, *more) = [*node.users, None]
    if user is None or len(more) > 1 or user.all_input_nodes.count(node) != 1:
        return None
    return user if user.op == "call_function" and _same_kind(user, node) else None


def _same_kind(a: fx.Node, b: fx.Node) -> bool:
    """Whether two maps have the same shape, type, device and order in memory."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return False
    same = x.shape == y.shape and x.dtype == y.dtype and x.device == y.device
    return same and x.stride() == y.stride()


def _replace(graph: fx.Graph, node: fx.Node, conv: fx.Node, args: list[Any]) -> fx.Node:
    """A convolution with `args` in place of `node`, which read `conv`."""
    with graph.inserting_before(node):
        new = graph.call_function(conv.target, tuple(args), conv.kwargs)  # type: ignore[arg-type]
    new.meta = {**node.meta}
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    graph.erase_node(conv)
    return new
