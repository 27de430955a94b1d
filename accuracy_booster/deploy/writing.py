"""Converting a network into each format, and writing it with the texts that go with it."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy import ahead_of_time, mobile
from accuracy_booster.errors import reason_of, shown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import Format
from accuracy_booster.exported.sessions import KEY
from accuracy_booster.training.network_outputs import split_outputs

INPUT, OUTPUT = "images", "logits"  # the names of the file's input and output
OLDEST_OPSET = 18  # torch's exporter writes this one or a newer one
Save = Callable[[Path, About], None]


def converted(
    network: nn.Module,
    kind: Format,
    input_size: tuple[int, int, int],
    *,
    batch: int | None = None,
    opset: int | None = None,
) -> Save:
    """Convert a network into a format, once.

    Args:
        network: on the CPU, in eval mode, float32: images [N, C, H, W] to logits [N, K].
        input_size: (C, H, W).
        batch: the number of images, N; None for a file that takes any number.
        opset: of ONNX; None for torch's default.

    Returns:
        What writes the file: `save(path, about)`. It can be called again with other texts. The
        format OpenVINO writes a second file beside the first one, .bin.

    Raises:
        ValueError: if the network cannot be converted.
    """
    network = network.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2 if batch is None else batch, *input_size)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if batch is None else None
    try:
        with _quiet():
            with torch.no_grad():
                alone = isinstance(network(example), torch.Tensor)
            written = network if alone else _Logits(network).eval()
            return _CONVERTERS[kind.name](written, example, shapes, opset)
    except Exception as e:  # each exporter has errors of its own
        raise ValueError(_why(e, network, kind, batch)) from e


def check_opset(opset: int | None, kind: Format) -> None:
    """Raise ValueError for an opset that is not ONNX's, or that torch does not write."""
    if opset is None:
        return
    if kind.name != "onnx":
        raise ValueError(f"opset={opset} is for the format onnx, and the format is {kind.name}")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if type(opset) is not int or not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"opset={shown(opset)} must be a whole number from {OLDEST_OPSET} to {newest}, the "
            "newest of the installed onnx; leave it out for the default"
        )


def _why(error: Exception, network: nn.Module, kind: Format, batch: int | None) -> str:
    """The error of an exporter, as one line with a remedy."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # torch's exporter wraps the error that tells what is wrong
        cause = cause.__cause__
    reason = reason_of(cause)
    remedy = ""
    if batch is None and ("batch" in reason or "specializ" in reason or "dynamic" in reason):
        remedy = (
            "; if it computes with the number of images, give that number (batch=, --batch) for a "
            "file that takes no other"
        )
    return f"this {type(network).__name__} cannot be exported as {kind.name}: {reason}{remedy}"


class _Logits(nn.Module):
    """The logits of a network that gives them in a tuple, a dict or an object."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] to logits [N, K]."""
        return split_outputs(self.network(images))[0]


def _program(network: nn.Module, example: torch.Tensor, shapes: Any) -> Any:
    program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source with paths of this machine
    return program


def _to_torch(network: nn.Module, example: torch.Tensor, shapes: Any, _: Any) -> Save:
    program = _program(network, example, shapes)

    def save(path: Path, about: About) -> None:
        torch.export.save(program, path, extra_files={KEY: json.dumps(about.to_texts())})

    return save


def _to_onnx(network: nn.Module, example: torch.Tensor, shapes: Any, opset: int | None) -> Save:
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        verbose=False,
        dynamic_shapes=shapes,
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=opset,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # as in `_program`

    def save(path: Path, about: About) -> None:
        texts = about.to_texts().items()
        program.model.metadata_props.update({f"{KEY}.{name}": text for name, text in texts})
        program.save(str(path))

    return save


def _to_openvino(network: nn.Module, example: torch.Tensor, shapes: Any, _: Any) -> Save:
    import openvino

    model = openvino.convert_model(_program(network, example, shapes))
    batch = -1 if shapes is not None else len(example)
    model.reshape({0: openvino.PartialShape([batch, *example.shape[1:]])})
    model.inputs[0].tensor.set_names({INPUT})
    model.outputs[0].tensor.set_names({OUTPUT})

    def save(path: Path, about: About) -> None:
        model.set_rt_info(about.to_texts(), [KEY])
        openvino.save_model(model, path, compress_to_fp16=False)

    return save


def _to_aoti(network: nn.Module, example: torch.Tensor, shapes: Any, _: Any) -> Save:
    return ahead_of_time.converted(network, example, shapes)


def _to_executorch(network: nn.Module, example: torch.Tensor, shapes: Any, _: Any) -> Save:
    return mobile.converted(network, example, shapes)


_CONVERTERS: dict[str, Callable[..., Save]] = {
    "onnx": _to_onnx,
    "torch": _to_torch,
    "aoti": _to_aoti,
    "openvino": _to_openvino,
    "executorch": _to_executorch,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it the exporters print nothing of their own work; errors still come."""
    nowhere = _Nowhere()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


class _Nowhere(io.StringIO):
    """Takes the pages that torch prints before an error. Bars of rich go past it, to the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
