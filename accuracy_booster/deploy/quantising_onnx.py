"""int8 for onnxruntime: nodes that quantise and dequantise, which the runtime fuses (QDQ)."""

# N images, C channels, H W space

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from accuracy_booster.deploy.gate_nodes import Node, find_gates
from accuracy_booster.exported.sessions import KEY

BATCH = 32  # images that are calibrated with at once
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantise(file: Path, images: np.ndarray) -> Any:
    """The int8 model of a float32 file.

    As onnxruntime recommends for processors with VNNI: unsigned maps, signed weights, and one
    scale for each output channel.

    Args:
        images: to calibrate with, float32 [N, C, H, W].
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """The images, batch by batch."""

        def __init__(self, given: Any):
            first = given.type.tensor_type.shape.dim[0]
            size = first.dim_value or BATCH  # the file's own number of images, or any
            kept = images[: len(images) // size * size] if first.dim_value else images
            self.name = given.name
            self.batches = iter(np.split(kept, range(size, len(kept), size)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {self.name: batch}

    with tempfile.TemporaryDirectory(prefix="accuracy-booster-") as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"  # with shapes
        # the exporter has written the shapes already; the symbolic tool stops at some operators
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        gates = find_gates(nodes_of(model))
        quantised = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            str(prepared),
            str(quantised),
            Reader(model.graph.input[0]),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # the products are 8 bits: in float they are slower, and no more accurate
            nodes_to_exclude=sorted(gates.inner),
        )
        return onnx.load(quantised)


def save(model: Any, output: Path, texts: Mapping[str, str]) -> None:
    """Write a model with what it says of itself."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {f"{KEY}.{name}": text for name, text in texts.items()})
    onnx.save(model, output)


def nodes_of(model: Any) -> list[Node]:
    """The nodes of an ONNX model with known shapes, in its order, which is that of computing."""
    shapes = {}
    for value in (*model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            sizes = kind.shape.dim
            shapes[value.name] = tuple(
                size.dim_value if size.HasField("dim_value") else None for size in sizes
            )
    maker = {output: node.name for node in model.graph.node for output in node.output}
    return [
        Node(
            node.name,
            node.op_type in HEAVY,
            tuple(maker[name] for name in node.input if name in maker),
            shapes.get(node.output[0]),
        )
        for node in model.graph.node
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, onnxruntime's tools do not write what they do to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
