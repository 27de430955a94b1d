"""Exported files, opened in their own runtimes: onnxruntime, torch or OpenVINO."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from accuracy_booster.errors import shown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import format_of

KEY = "accuracy_booster"  # under which formats with one name space keep our texts


@dataclass(frozen=True)
class Session:
    """An exported file that is ready to run.

    Attributes:
        path: the file.
        about: what it says of itself.
        run: float32 [N, C, H, W], normalised, to the network's outputs, float32 [N, K].
        batch: the number of images, N, that `run` takes; None for any number.
    """

    path: Path
    about: About
    run: Callable[[np.ndarray], np.ndarray]
    batch: int | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The outputs [N, K] for normalised images, float32 [N, C, H, W], of any number.

        A file that takes a fixed number of images is run several times, the last time with black
        images for those that are missing.
        """
        if self.batch is None or len(images) == self.batch:
            return self.run(images)
        missing = -len(images) % self.batch
        filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        parts = range(0, len(filled), self.batch)
        outputs = [self.run(filled[start : start + self.batch]) for start in parts]
        return np.concatenate(outputs)[: len(images)]


def open_file(path: str | Path, *, threads: int | None = None, check: bool = True) -> Session:
    """Open an exported file in its own runtime.

    Args:
        path: a file .onnx, .pt2 or .xml.
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
        run, texts, batch = _OPENERS[kind.name](path, threads)
    except Exception as e:  # each runtime has errors of its own
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"{path} is not a file that {kind.runtime} reads: {reason}") from e
    about = About.from_texts(texts, path) if check or texts else None
    return Session(path, about, run, batch)  # type: ignore[arg-type]


# what runs a file, its texts, and the number of images that it takes (None: any)
Opened = tuple[Callable[[np.ndarray], np.ndarray], dict[str, str], int | None]


def _open_onnx(path: Path, threads: int | None) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    batch = given.shape[0] if given.shape and isinstance(given.shape[0], int) else None
    texts = session.get_modelmeta().custom_metadata_map
    prefix = f"{KEY}."
    ours = {k.removeprefix(prefix): v for k, v in texts.items() if k.startswith(prefix)}
    return (lambda images: session.run(None, {given.name: images})[0]), ours, batch


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
    first = model.inputs[0].get_partial_shape()[0]
    batch = first.get_length() if first.is_static else None
    return (lambda images: request.infer({0: images})[0].copy()), texts, batch


def _open_torch(path: Path, threads: int | None) -> Opened:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    extra = {KEY: ""}
    if not is_zipfile(path):  # torch prints tracebacks of its own
        raise ValueError("it is no zip archive, as a program of torch.export is")
    loaded = torch.export.load(path, extra_files=extra)
    program = loaded.module()
    name = loaded.graph_signature.user_inputs[0]
    (given,) = (node for node in loaded.graph.nodes if node.name == name)
    first = given.meta["val"].shape[0]
    batch = first if isinstance(first, int) else None
    texts = json.loads(extra[KEY]) if extra[KEY] else {}

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(images)).numpy()

    return run, texts, batch


_OPENERS = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}
