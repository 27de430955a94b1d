"""int8 for OpenVINO, with NNCF: the post-training quantisation of OpenVINO's makers."""

# N images, C channels, H W space

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from accuracy_booster.deploy.gate_nodes import Node, Shape, find_gates
from accuracy_booster.exported.sessions import KEY

HEAVY = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
NO_NODES = ("Constant", "Parameter", "Result")


def quantise(file: Path, images: np.ndarray) -> Any:
    """The int8 model of a float32 file.

    NNCF works in a process of its own. What it leaves behind can end the process in which it is
    collected as garbage (a segmentation fault with nncf 3.4 and openvino 2026.4).

    Args:
        images: to calibrate with, float32 [N, C, H, W].

    Raises:
        ValueError: if NNCF cannot quantise the network.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="accuracy-booster-") as folder:
        given, found = Path(folder, "images.npy"), Path(folder, "int8.xml")
        np.save(given, images)
        words = ["-c", f"from {__name__} import write_quantised; write_quantised()"]
        ended = subprocess.run(
            [sys.executable, *words, str(file), str(given), str(found)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            reason = " ".join(ended.stderr.split())[-300:]
            raise ValueError(f"NNCF cannot quantise {file}: {reason}")
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the folder goes
        return core.read_model(found)


def write_quantised() -> None:
    """Quantise, with the arguments of the process: the file, the images, and the file to write."""
    import openvino

    file, images, output = map(Path, sys.argv[1:])
    openvino.save_model(_quantised(file, np.load(images)), output, compress_to_fp16=False)


def _quantised(file: Path, images: np.ndarray) -> Any:
    import openvino

    nncf = _imported()
    with _quiet():
        model = openvino.Core().read_model(file)
        gates = find_gates(nodes_of(model))
        first = model.inputs[0].get_partial_shape()[0]
        size = first.get_length() if first.is_static else 1  # of a batch, as the file takes it
        whole = images[: len(images) // size * size]
        parts = np.split(whole, range(size, len(whole), size))
        # the products too: OpenVINO computes them as a part of the convolution before them
        float_names = sorted(gates.inner | gates.products)
        return nncf.quantize(
            model,
            nncf.Dataset(parts),
            subset_size=len(parts),
            advanced_parameters=_settings(nncf),
            ignored_scope=nncf.IgnoredScope(names=float_names) if float_names else None,
        )


def save(model: Any, output: Path, texts: Mapping[str, str]) -> None:
    """Write a model with what it says of itself."""
    import openvino

    model.set_rt_info(dict(texts), [KEY])
    openvino.save_model(model, output, compress_to_fp16=False)


def nodes_of(model: Any) -> list[Node]:
    """The nodes of an OpenVINO model but its constants, in an order of computing."""
    found = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in NO_NODES:
            continue
        read = [given.get_source_output().get_node() for given in op.inputs()]
        inputs = [r.get_friendly_name() for r in read if r.get_type_name() not in NO_NODES]
        heavy = op.get_type_name() in HEAVY
        found.append(Node(op.get_friendly_name(), heavy, tuple(inputs), _shape_of(op)))
    return found


def _shape_of(op: Any) -> Shape | None:
    if not op.get_output_size():
        return None
    shape = op.get_output_partial_shape(0)
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else None for size in shape)


def _settings(nncf: Any) -> Any:
    """NNCF's settings where they are not its defaults.

    Ranges go from the least to the largest value of all images. The default, the mean of the
    images' ranges, cuts off what is larger: on a ResNet-20 it doubles the error of the outputs. The
    fast correction of biases, too, makes that error larger there, with and without gates.
    """
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        disable_bias_correction=True,
    )


def _imported() -> Any:
    """nncf. Its import replaces the class of all later loggers; that is undone."""
    kind = logging.getLoggerClass()
    import nncf

    logging.setLoggerClass(kind)
    return nncf


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, NNCF prints no notes and no bars, and torch does not tell it that there is no GPU."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stdout(io.StringIO()):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
