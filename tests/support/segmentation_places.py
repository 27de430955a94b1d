"""Places in monai and mmengine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn

import accuracy_booster as ab
from support.halved_networks import CHANNELS, image, network
from support.places import KEPT, SITES, Place


def _monai(name: str) -> Callable[..., Any]:
    from monai.networks import utils

    return getattr(utils, name)


def _plain(norm: nn.Module) -> nn.Module:
    """A new norm with the weights and statistics of this one, without its gate."""
    state = {k: v for k, v in norm.state_dict().items() if ab.surgery.ATTRIBUTE not in k}
    new = nn.BatchNorm2d(CHANNELS).eval()
    new.load_state_dict(state)
    return new


def _replace_modules(model: nn.Module) -> None:
    for name in SITES["norm"]:
        _monai("replace_modules")(model, name, _plain(model.get_submodule(name)))


def _replace_temporarily(model: nn.Module) -> None:
    with _monai("replace_modules_temp")(model, "bn1", nn.Identity(), strict_match=False):
        model(image())


def _replace_by_type(model: nn.Module) -> nn.Module:
    return _monai("replace_modules_by_type")(
        model, {"BatchNorm2d": _plain, "GatedBatchNorm2d": _plain}
    )


def _copy_state(gates: bool) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        new = network()
        if gates and ab.surgery.attached(model):
            ab.rebuild_gates(new, ab.gate_record(model))
        _monai("copy_model_state")(new, model)
        return new

    return tool


def _adapter(model: nn.Module) -> nn.Module:
    from monai.networks.nets import NetAdapter

    model.add_module("fc", nn.Linear(CHANNELS, 2))
    return NetAdapter(model, num_classes=2, pool=None, fc_name="fc", node_name="").features


def _nvtx(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    from monai.utils.nvtx import Range

    def run(x: torch.Tensor) -> torch.Tensor:
        with mock.patch("monai.utils.nvtx._nvtx"):  # the marks need a GPU
            return model(x)

    for block in (model[1], model[2]):
        Range()(block.bn2)
        Range()(block.conv2)
    return run


def _mmengine_sync(revert: bool) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm

        converted = convert_sync_batchnorm(model)
        return revert_sync_batchnorm(converted).eval() if revert else converted.eval()

    return tool


def _efficient_bn(model: nn.Module) -> None:
    from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval

    turn_on_efficient_conv_bn_eval(model, ["1", "2"])


def _mmengine_checkpointing(model: nn.Module) -> None:
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    turn_on_activation_checkpointing(model, ["1", "2.bn2", "2.conv2"])


def _averaged(name: str) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        import mmengine.model

        average = getattr(mmengine.model, name)(model)
        average.update_parameters(model)
        average.update_parameters(model)
        return average

    return tool


SEGMENTATION = [
    Place(
        "monai",
        "networks.utils.replace_modules",
        "sets a new module by name",
        KEPT,
        _replace_modules,
        ("norm",),
    ),
    Place(
        "monai",
        "networks.utils.replace_modules_temp",
        "the same, and back",
        KEPT,
        _replace_temporarily,
    ),
    Place(
        "monai",
        "networks.utils.replace_modules_by_type",
        "writes into _modules, by class name",
        "kept; a warning names ab.repair",
        _replace_by_type,
        ("norm",),
        warns="a tool rebuilt 'bn2'",
    ),
    Place(
        "monai",
        "networks.utils.add_casts_around_norms",
        "the same; a gated norm has another name",
        "kept; a gated norm gets no cast",
        lambda m: _monai("add_casts_around_norms")(m),
    ),
    Place(
        "monai",
        "networks.utils.set_named_module",
        "sets a module by name",
        KEPT,
        lambda m: _monai("set_named_module")(m, "1.bn2", copy.deepcopy(m[1].bn2)),
    ),
    Place(
        "monai",
        "networks.utils.copy_model_state",
        "copies tensors of the same name",
        KEPT,
        _copy_state(True),
    ),
    Place(
        "monai",
        "networks.utils.copy_model_state into a network without gates",
        "the same",
        "lost: only monai's log tells how many were copied",
        _copy_state(False),
    ),
    Place(
        "monai",
        "networks.utils.freeze_layers",
        "freezes by name",
        KEPT,
        lambda m: _monai("freeze_layers")(m, "1"),
    ),
    Place(
        "monai",
        "networks.utils.convert_to_torchscript(use_trace=True)",
        "a graph",
        KEPT,
        lambda m: _monai("convert_to_torchscript")(m, use_trace=True, inputs=[image()]),
    ),
    Place(
        "monai",
        "networks.utils.convert_to_torchscript",
        "scripts the network",
        "error: gates are not scripted",
        lambda m: _monai("convert_to_torchscript")(m),
        raises="Unknown type annotation",
    ),
    Place(
        "monai", "networks.nets.NetAdapter", "a container of the network's children", KEPT, _adapter
    ),
    Place("monai", "utils.nvtx.Range", "sets forward on a module", KEPT, _nvtx),
    Place(
        "mmengine", "model.convert_sync_batchnorm", "rebuilds norms", KEPT, _mmengine_sync(False)
    ),
    Place("mmengine", "model.revert_sync_batchnorm", "rebuilds norms", KEPT, _mmengine_sync(True)),
    Place(
        "mmengine",
        "runner.activation_checkpointing",
        "sets forward on modules",
        KEPT,
        _mmengine_checkpointing,
    ),
    *(
        Place("mmengine", f"model.{name} (EMAHook)", "a deep copy", KEPT, _averaged(name))
        for name in ("ExponentialMovingAverage", "StochasticWeightAverage", "MomentumAnnealingEMA")
    ),
]

# not noticed today
EFFICIENT = Place(
    "mmengine",
    "model.efficient_conv_bn_eval",
    "computes a convolution and its norm from their tensors, in a graph",
    "kept; a gated pair is computed as usual",
    _efficient_bn,
)
