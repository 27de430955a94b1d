"""Exported files, opened in their own runtimes: onnxruntime, torch, OpenVINO or ExecuTorch."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from accuracy_booster.errors import reason_of, shown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import format_of

KEY = "accuracy_booster"  # under which formats with one name space keep our texts
LOUD = ("torch.utils.cpp_extension", "torch._inductor.package.package")  # torch's loggers
KERNEL = "kernel"  # the text that files of the format aoti have if they need our kernel


@dataclass(frozen=True)
class Session:
    """An exported file that is ready to run.

    Attributes:
        path: the file.
        about: what it says of itself.
        run: float32 [N, C, H, W], normalised, to the network's outputs, float32 [N, K].
    """

    path: Path
    about: About
    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The outputs [N, K] for normalised images, float32 [N, C, H, W], of any number.

        A file that takes a fixed number of images is run several times, the last time with black
        images for those that are missing.
        """
        batch = None if self.about is None else self.about.batch
        if batch is None or len(images) == batch:
            return self._run(images)
        missing = -len(images) % batch
        filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        parts = range(0, len(filled), batch)
        outputs = [self._run(filled[start : start + batch]) for start in parts]
        return np.concatenate(outputs)[: len(images)]

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            return self.run(images)
        except Exception as e:  # each runtime has errors of its own
            raise ValueError(
                f"{self.path} cannot take images {[*images.shape]}: {reason_of(e)}; if its texts "
                "say so, they are damaged: export the run again"
            ) from e


def open_file(path: str | Path, *, threads: int | None = None, check: bool = True) -> Session:
    """Open an exported file in its own runtime.

    Args:
        path: a file .onnx, .pt2, .aoti.pt2, .xml or .pte. Opening a file .aoti.pt2 runs machine
            code that is in it.
        threads: how many the runtime computes with; by default it chooses.
        check: refuse a file that `export` did not write. Without it `about` may be empty.

    Raises:
        ValueError: for a file that does not exist, is no such file or is damaged, is of a newer
            version, or whose runtime is not installed.
    """
    path = Path(path).expanduser()
    kind = format_of(path)
    if not path.is_file():
        raise ValueError(f"there is no file {shown(str(path))}; check the path")
    kind.check_runtime()
    try:
        run, texts = _OPENERS[kind.name](path, threads)
    except Exception as e:  # each runtime has errors of its own
        raise ValueError(
            f"{path} is not a file that {kind.runtime} reads: {reason_of(e)}; export the run again"
        ) from e
    about = About.from_texts(texts, path) if check or texts else None
    if about is not None and about.threads is not None:
        _warn_of_other_threads(path, about.threads)
    return Session(path, about, run)  # type: ignore[arg-type]


def _warn_of_other_threads(path: Path, threads: int) -> None:
    """Warn if torch computes with other threads than the weights of a compiled file are for.

    The convolutions of a ResNet-50 then take 2.5 times as long (torch 2.15, oneDNN 3.13).
    """
    import torch

    if (used := torch.get_num_threads()) != threads:
        warnings.warn(
            f"the weights in {path} are laid out for {threads} threads, and torch computes with "
            f"{used}, which can take up to three times as long; set OMP_NUM_THREADS={threads} (in "
            f"Python: torch.set_num_threads({threads})), or export with OMP_NUM_THREADS={used}",
            stacklevel=3,
        )


Opened = tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]  # what runs a file; its texts


def _open_onnx(path: Path, threads: int | None) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    texts = _ours(session.get_modelmeta().custom_metadata_map)
    return (lambda images: session.run(None, {name: images})[0]), texts


def _ours(texts: Mapping[str, str]) -> dict[str, str]:
    """Our texts, by their own names, out of all that a format keeps in one name space."""
    prefix = f"{KEY}."
    return {k.removeprefix(prefix): v for k, v in texts.items() if k.startswith(prefix)}


def _open_openvino(path: Path, threads: int | None) -> Opened:
    import openvino

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ValueError(
            f"{weights.name}, which holds the weights, is not beside it; keep both files together"
        )
    with path.open("rb") as file:
        if b"<net" not in file.read(4096):  # other readers of OpenVINO would try it, and complain
            raise ValueError("it is XML of another kind, or none")
    core = openvino.Core()
    model = core.read_model(path)
    # f32: on some processors the plugin would compute in 16 bits
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    texts: dict[str, str] = {}
    if model.has_rt_info([KEY]):
        texts = {k: v.astype(str) for k, v in model.get_rt_info([KEY]).astype(dict).items()}
    return (lambda images: request.infer({0: images})[0].copy()), texts


def _open_torch(path: Path, threads: int | None) -> Opened:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    extra = {KEY: ""}
    if not is_zipfile(path):  # torch prints tracebacks of its own
        raise ValueError("it is no zip archive, as a program of torch.export is")
    program = torch.export.load(path, extra_files=extra).module()
    texts = json.loads(extra[KEY]) if extra[KEY] else {}

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(images)).numpy()

    return run, texts


def _open_aoti(path: Path, threads: int | None) -> Opened:
    import torch

    for name in LOUD:  # they tell of a GPU that is not there, and call a cut-off file an old one
        logging.getLogger(name).setLevel(logging.ERROR)
    from torch._inductor import aoti_load_package

    # the two define operators that the file may have
    from accuracy_booster.ops import gate_of_map, native_code, packed_conv  # noqa: F401

    if threads is not None:
        torch.set_num_threads(threads)
    package = aoti_load_package(str(path))
    texts = _ours(package.get_metadata())
    if KERNEL in texts:
        native_code.load(packed_conv.SOURCE)  # where it cannot, Python computes them
    size = tuple(json.loads(texts["input_size"])) if "input_size" in texts else None

    def run(images: np.ndarray) -> np.ndarray:
        # compiled code reads memory without looking at the shape, the type or the strides
        if size is not None and images.shape[1:] != size:
            raise ValueError(f"{path} takes images {size}, got {images.shape[1:]}")
        with torch.no_grad():
            return package(torch.from_numpy(np.ascontiguousarray(images, np.float32))).numpy()

    return run, texts


def _open_executorch(path: Path, threads: int | None) -> Opened:
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    if threads is not None:
        _unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    forward = program.load_method("forward")
    most = forward.metadata.input_tensor_meta(0).sizes()[0]
    texts = {}
    if KEY in program.method_names:
        texts = json.loads(program.load_method(KEY).execute([])[0])

    def run(images: np.ndarray) -> np.ndarray:
        outputs = []
        for part in torch.from_numpy(np.ascontiguousarray(images)).split(most):
            (output,) = forward.execute([part])
            outputs.append(output.numpy().copy())  # the next call writes there
        return np.concatenate(outputs)

    return run, texts


_OPENERS = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch": _open_torch,
    "aoti": _open_aoti,
    "executorch": _open_executorch,
}
