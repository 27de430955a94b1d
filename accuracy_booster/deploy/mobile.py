"""A network for phones: a file .pte, which ExecuTorch runs, with XNNPACK's kernels."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from accuracy_booster.exported.about import About
from accuracy_booster.exported.sessions import KEY

# A file plans the memory for so many images, if it takes any number up to that. From 16 images on
# torch would choose another convolution while it exports (2.15), and the file would take no fewer.
MOST_IMAGES = 8
mean = torch.ops.aten.mean.dim


def converted(network: nn.Module, example: torch.Tensor, shapes: Any) -> Callable[..., None]:
    """Convert a network, once.

    Args:
        network: images [N, C, H, W] to logits [N, K], in eval mode, float32, on the CPU. Its
            operators become torch's own.
        example: images, float32.
        shapes: None for a file that takes as many images as the example has; else it takes any
            number up to `MOST_IMAGES`.

    Returns:
        What writes the file: `save(path, about)`. It can be called again with other texts.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if shapes is not None:
        shapes = ({0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)},)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    _keep_dimensions(program.graph)

    def save(path: Path, about: About) -> None:
        texts = {KEY: json.dumps(about.to_texts())}  # a method that gives a constant
        edge = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods=texts
        )
        path.write_bytes(edge.to_executorch().buffer)

    return save


def _keep_dimensions(graph: fx.Graph) -> None:
    """Write means over space as XNNPACK computes them: [N, C, 1, 1] first, in the map's type."""
    for node in graph.find_nodes(op="call_function", target=mean):
        x, space, *keeps = node.args
        value = x.meta["val"]
        space = sorted(dim % value.ndim for dim in space)
        if value.ndim != 4 or space != [2, 3] or any(keeps):
            continue
        if node.kwargs.get("dtype", value.dtype) != value.dtype:
            continue
        with graph.inserting_before(node):
            kept = graph.call_function(mean, (x, space, True))
            kept.meta = {**node.meta, "val": value.mean(space, True)}
            flat = graph.call_function(torch.ops.aten.squeeze.dims, (kept, space))
        flat.meta = node.meta
        node.replace_all_uses_with(flat)
        graph.erase_node(node)
