"""Places in torch.ao: quantisation and sparsity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from support.halved_networks import image
from support.places import KEPT, Place


def _fuse_modules(first: str, second: str) -> Callable[[nn.Module], nn.Module]:
    return lambda model: torch.ao.quantization.fuse_modules(
        model, [[f"{i}.{first}", f"{i}.{second}"] for i in (1, 2)]
    )


def _unquantised(model: nn.Module) -> nn.Module:
    """The rebuilt network, computing without rounding."""
    return model.eval().apply(torch.ao.quantization.disable_fake_quant)


def _prepare_qat(model: nn.Module) -> nn.Module:
    model.train().qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return _unquantised(torch.ao.quantization.prepare_qat(model))


def _prepare_qat_fx(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx

    mapping = get_default_qat_qconfig_mapping("x86")
    return _unquantised(quantize_fx.prepare_qat_fx(model.train(), mapping, (image(),)))


def _equalize(model: nn.Module) -> nn.Module:
    from torch.ao.quantization._equalize import equalize

    return equalize(model, [["1.conv1", "1.conv2"]], inplace=True)


def _sparsify(model: nn.Module) -> nn.Module:
    from torch.ao.pruning import WeightNormSparsifier

    sparsifier = WeightNormSparsifier(sparsity_level=0.0)
    sparsifier.prepare(model, [{"tensor_fqn": f"{i}.conv2.weight"} for i in (1, 2)])
    sparsifier.step()
    sparsifier.squash_mask()
    return model


QUANTIZATION = [
    Place(
        "torch",
        "ao.quantization.fuse_modules on gated layers",
        "folds norms, by exact class",
        "error: names ab.materialize",
        _fuse_modules("conv2", "bn2"),
        raises="ab.materialize",
    ),
    Place(
        "torch",
        "ao.quantization.fuse_modules on other layers",
        "the same",
        KEPT,
        _fuse_modules("conv1", "bn1"),
    ),
    Place(
        "torch",
        "ao.quantization.prepare_qat",
        "swaps layers, by exact class",
        "kept; a gated layer is not quantised",
        _prepare_qat,
        close=1e-4,
    ),
    Place(
        "torch",
        "ao.quantization.quantize_fx.prepare_qat_fx",
        "the same in a graph",
        "kept; a gated layer is not quantised",
        _prepare_qat_fx,
        close=1e-4,
    ),
    Place(
        "torch",
        "ao.quantization.quantize_dynamic",
        "swaps linear layers",
        KEPT,
        lambda m: torch.ao.quantization.quantize_dynamic(m, {nn.Linear}),
    ),
    Place(
        "torch",
        "ao.quantization._equalize.equalize",
        "rescales pairs of convolutions",
        KEPT,
        _equalize,
        ("norm",),
        close=1e-3,
    ),
    Place(
        "torch",
        "ao.quantization._equalize.equalize on a gated convolution",
        "the same",
        "error: names ab.materialize",
        _equalize,
        ("conv",),
        raises="ab.materialize",
    ),
    Place("torch", "ao.pruning.WeightNormSparsifier", "parametrizes weights", KEPT, _sparsify),
]
