"""Which nodes of an exported graph are gates. They stay in float when the rest becomes int8.

The rule reads shapes, not names, so that it holds for each form of a gate and in each format: a
gate takes a map to one number for each channel, and multiplies a map by what it makes of these.
"""

# N images, C channels, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int | None, ...]  # None: known when the graph runs


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
        name: in its graph.
        heavy: it is a convolution or a product of matrices.
        inputs: the names of the nodes that it reads; constants and the graph's inputs left out.
        shape: of its output; None if it is not known.
    """

    name: str
    heavy: bool
    inputs: tuple[str, ...]
    shape: Shape | None


@dataclass(frozen=True)
class Gates:
    """The nodes of the gates, by name.

    Attributes:
        inner: from the mean to the factor, [N, C] or [N, C, 1, 1].
        products: they multiply a map, [N, C, H, W], by a factor.
    """

    inner: frozenset[str]
    products: frozenset[str]


def find_gates(nodes: Sequence[Node]) -> Gates:
    """The gates of a graph.

    Args:
        nodes: all of them, each after those that it reads.
    """
    maps = {node.name for node in nodes if _is_map(node.shape)}
    of_maps: set[str] = set()  # computed from a map, and not from constants alone
    for node in nodes:
        if maps.intersection(node.inputs) or of_maps.intersection(node.inputs):
            of_maps.add(node.name)
    small = {
        node.name
        for node in nodes
        if node.shape is not None and _per_channel(node.shape) and node.name in of_maps
    }
    inner: set[str] = set()
    used_by: dict[str, set[str]] = {}
    for node in nodes:
        for read in node.inputs:
            used_by.setdefault(read, set()).add(node.name)
    products = {
        node.name
        for node in nodes
        if node.name in maps and small.intersection(node.inputs) and set(node.inputs) - small
    }
    for node in reversed(nodes):
        users = used_by.get(node.name, set())
        leads_to_factor = node.name in small and users & (inner | products)
        # a sum over a map's edge, say, that nothing but a gate reads
        read_by_gates = users and users <= inner and not node.heavy
        if leads_to_factor or read_by_gates:
            inner.add(node.name)
    return Gates(frozenset(inner), frozenset(products))


def _per_channel(shape: Shape) -> bool:
    """Whether a shape is [N, C] or [N, C, 1, 1]."""
    return len(shape) >= 2 and all(size == 1 for size in shape[2:])


def _is_map(shape: Shape | None) -> bool:
    return shape is not None and len(shape) >= 3 and not _per_channel(shape)
