"""Places in torch itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from support.halved_networks import Block, image
from support.places import KEPT, Place


def _fuse_by_hand(model: nn.Module) -> None:
    for block in (model[1], model[2]):
        block.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
        block.bn2 = nn.Identity()


def _fuse_by_dict(model: nn.Module) -> None:
    for block in (model[1], model[2]):
        block._modules["conv2"] = fuse_conv_bn_eval(block.conv2, block.bn2)
        block._modules["bn2"] = nn.Identity()


def _spectral_norm(model: nn.Module) -> None:
    for block in (model[1], model[2]):
        torch.manual_seed(3)
        nn.utils.spectral_norm(block.conv2)
        nn.utils.remove_spectral_norm(block.conv2)


def _fx(name: str) -> Callable[[nn.Module], Any]:
    def tool(model: nn.Module) -> Any:
        from torch.fx.experimental import optimization
        from torch.fx.passes.split_module import split_module

        traced = fx.symbolic_trace(model)
        order = {node.name: i for i, node in enumerate(traced.graph.nodes)}
        return {
            "symbolic_trace": lambda: traced,
            "Transformer": lambda: fx.Transformer(traced).transform(),
            "Interpreter": lambda: fx.Interpreter(traced).run,
            "split_module": lambda: split_module(traced, model, lambda n: order[n.name] // 6),
            "fuse": lambda: optimization.fuse(model),
            "optimize_for_inference": lambda: optimization.optimize_for_inference(model),
        }[name]()

    return tool


def _mkldnn(model: nn.Module) -> nn.Module:
    from torch.utils import mkldnn

    return mkldnn.to_mkldnn(model)


def _ensemble(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    state = torch.func.stack_module_state([model, copy.deepcopy(model)])
    empty = copy.deepcopy(model).to("meta")
    call = torch.vmap(
        lambda p, b, x: torch.func.functional_call(empty, (p, b), (x,)), in_dims=(0, 0, None)
    )
    return lambda x: call(*state, x)[1]


def _replicate(model: nn.Module) -> nn.Module:
    """What `nn.parallel.replicate` does for each GPU of DataParallel."""
    new = {m: m._replicate_for_data_parallel() for m in model.modules()}
    for module, replica in new.items():
        for name, child in module._modules.items():
            replica._modules[name] = new[child]
        replica._parameters.update(module._parameters)
        replica._buffers.update(module._buffers)
    return new[model]


def _insert(model: nn.Module) -> nn.Module:
    branch = nn.Sequential(model[1])
    model[1] = branch
    branch.insert(0, nn.Identity())
    return model


def _to_empty(model: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to_empty(device="cpu").load_state_dict(state)


def _freeze_trace(model: nn.Module) -> nn.Module:
    traced = torch.jit.freeze(torch.jit.trace(model, image(), check_trace=False))
    return torch.jit.optimize_for_inference(traced)


def _checkpoint_wrapper(*kinds: type[nn.Module]) -> Callable[[nn.Module], None]:
    def tool(model: nn.Module) -> None:
        from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

        checkpoint_wrapper.apply_activation_checkpointing(
            model, check_fn=lambda module: isinstance(module, kinds)
        )

    return tool


TORCH = [
    Place(
        "torch",
        "nn.utils.fuse_conv_bn_eval",
        "folds a norm into a convolution; the user sets both",
        "kept",
        _fuse_by_hand,
        ("norm",),
    ),
    Place(
        "torch",
        "nn.utils.fuse_conv_bn_eval, written into _modules",
        "the same, past the hook on registrations",
        "kept; a warning names ab.repair",
        _fuse_by_dict,
        ("norm",),
        warns="a tool rebuilt 'bn2'",
    ),
    Place(
        "torch",
        "nn.utils.spectral_norm, remove_spectral_norm",
        "makes the weight an attribute",
        KEPT,
        _spectral_norm,
    ),
    Place(
        "torch",
        "nn.utils.convert_conv2d_weight_memory_format",
        "changes strides",
        KEPT,
        lambda m: nn.utils.convert_conv2d_weight_memory_format(m, torch.channels_last),
    ),
    Place(
        "torch", "nn.Module.to_empty, load_state_dict", "makes each tensor anew", KEPT, _to_empty
    ),
    Place(
        "torch",
        "nn.Module.set_submodule",
        "puts a copy in a module's place",
        KEPT,
        lambda m: m.set_submodule("1", copy.deepcopy(m[1])),
    ),
    Place(
        "torch",
        "nn.Module.compile",
        "compiles in place",
        KEPT,
        lambda m: m.compile(backend="eager"),
        ("norm",),
    ),
    Place(
        "torch",
        "nn.Sequential: slices, +, insert",
        "makes containers, writes into _modules",
        KEPT,
        lambda m: _insert(m[:1] + m[1:]),
    ),
    Place(
        "torch",
        "nn.parallel.replicate (DataParallel)",
        "copies each module without its class's __init__",
        KEPT,
        _replicate,
    ),
    *(
        Place("torch", f"fx.{name}", does, KEPT, _fx(name.rpartition(".")[2]))
        for name, does in (
            ("symbolic_trace", "a graph in place of the network"),
            ("Interpreter", "runs a graph"),
            ("Transformer", "rewrites a graph"),
            ("passes.split_module", "several networks from a graph"),
            ("experimental.optimization.fuse", "folds norms, by their exact class"),
            ("experimental.optimization.optimize_for_inference", "the same, and MKL-DNN"),
        )
    ),
    Place(
        "torch",
        "jit.trace, jit.freeze, jit.optimize_for_inference",
        "a graph, folded",
        KEPT,
        _freeze_trace,
    ),
    Place(
        "torch",
        "utils.mkldnn.to_mkldnn",
        "makes scripted layers, by class",
        "error: a scripted module takes no child",
        _mkldnn,
        raises="ScriptModule",
    ),
    Place(
        "torch",
        "func.replace_all_batch_norm_modules_",
        "drops running statistics",
        KEPT,
        lambda m: torch.func.replace_all_batch_norm_modules_(m),
        ("norm",),
    ),
    Place(
        "torch",
        "func.stack_module_state, functional_call",
        "runs without the modules' tensors",
        KEPT,
        _ensemble,
    ),
    Place(
        "torch",
        "distributed: apply_activation_checkpointing on blocks",
        "wraps modules",
        KEPT,
        _checkpoint_wrapper(Block),
    ),
    Place(
        "torch",
        "distributed: apply_activation_checkpointing on layers",
        "wraps gated modules",
        KEPT,
        _checkpoint_wrapper(nn.BatchNorm2d, nn.Conv2d),
    ),
]
