"""Writes small networks as exported files, with the texts that `export` gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import nn

from accuracy_booster.exported import About
from accuracy_booster.exported.sessions import KEY
from accuracy_booster.training import load_run
from accuracy_booster.training.network_metadata import is_whole, preprocessing
from accuracy_booster.training.run_directory import Run

NAMES = {"onnx": "model.onnx", "torch": "model.pt2", "openvino": "model.xml"}
ABOUT = About("means", "none", ("a", "b", "c"), (3, 8, 10), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def means() -> nn.Module:
    """A network whose outputs are linear in the mean of each channel."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()


Save = Callable[[Path, Mapping[str, str]], None]


def converted(
    network: nn.Module, suffix: str, size: tuple[int, ...], batch: int | None = None
) -> Save:
    """Convert a network once, and give what writes it with some texts.

    Args:
        suffix: of the files, which says their format.
        batch: for files that take this number of images alone.
    """
    example = torch.zeros(2 if batch is None else batch, *size)
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    if suffix == ".onnx":
        program = torch.onnx.export(
            network, (example,), dynamo=True, verbose=False, dynamic_shapes=shapes
        )

        def save_onnx(path: Path, texts: Mapping[str, str]) -> None:
            program.model.metadata_props.clear()
            program.model.metadata_props.update({f"{KEY}.{k}": text for k, text in texts.items()})
            program.save(str(path))

        return save_onnx
    exported = torch.export.export(network, (example,), dynamic_shapes=shapes)
    if suffix == ".pt2":
        return lambda path, texts: torch.export.save(
            exported, path, extra_files={KEY: json.dumps(dict(texts))}
        )
    import openvino

    model = openvino.convert_model(exported)
    model.reshape({0: openvino.PartialShape([-1 if batch is None else batch, *size])})

    def save_openvino(path: Path, texts: Mapping[str, str]) -> None:
        copy = model.clone()
        if texts:
            copy.set_rt_info(dict(texts), [KEY])
        openvino.save_model(copy, path, compress_to_fp16=False)

    return save_openvino


@cache
def _means(suffix: str, batch: int | None) -> Save:
    return converted(means(), suffix, ABOUT.input_size, batch)


def write_means(
    path: Path, texts: Mapping[str, str] | None = None, batch: int | None = None
) -> Path:
    """Write `means()` with texts, by default those of ABOUT."""
    _means(path.suffix, batch)(path, ABOUT.to_texts() if texts is None else texts)
    return path


def write_run(run_path: Path, path: Path, batch: int | None = None) -> Path:
    """Write the network of a finished run, with how its images are made."""
    run, config = Run.open(run_path)
    known = preprocessing(config, run.info)
    known["crop_pct"] = known["crop_pct"] if is_whole(config, run.info) else config.crop_pct
    about = About(config.model, config.block, tuple(map(str, run.info["classes"])), **known)
    save = converted(load_run(run_path).eval(), path.suffix, about.input_size, batch)
    save(path, about.to_texts())
    return path
