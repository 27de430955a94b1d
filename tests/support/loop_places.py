"""Places in lightning, accelerate, ema_pytorch and peft."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from torch import nn

import accuracy_booster as ab
from support.halved_networks import network
from support.places import KEPT, Place


def _lightning_sync(revert: bool) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm

        plugin = TorchSyncBatchNorm()
        return plugin.revert(plugin.apply(model)).eval() if revert else plugin.apply(model)

    return tool


def _lightning_freeze(model: nn.Module) -> None:
    from lightning.pytorch.callbacks import BaseFinetuning

    BaseFinetuning.freeze(model, train_bn=False)
    BaseFinetuning.make_trainable(model)


def _accelerate(name: str, **options: Any) -> Callable[[nn.Module], Any]:
    def tool(model: nn.Module) -> Any:
        import accelerate

        if name == "disk_offload":
            return accelerate.disk_offload(model, tempfile.mkdtemp(), **options)
        if name == "prepare":
            accelerator = accelerate.Accelerator(cpu=True)
            return accelerator.unwrap_model(accelerator.prepare(model))
        home = accelerate.utils if name == "compile_regions" else accelerate
        return getattr(home, name)(model, **options)

    return tool


def _empty(model: nn.Module) -> nn.Module:
    """The network without memory, its gates from their record, then the weights from a file."""
    import accelerate

    with accelerate.init_empty_weights():
        new = network()
        if ab.surgery.attached(model):
            ab.rebuild_gates(new, ab.gate_record(model))
    with tempfile.TemporaryDirectory() as folder:
        accelerate.Accelerator(cpu=True).save_model(model, folder)
        return accelerate.load_checkpoint_and_dispatch(new, folder, device_map={"": "cpu"}).eval()


def _ema(back: bool) -> Callable[[nn.Module], nn.Module]:
    def tool(model: nn.Module) -> nn.Module:
        from ema_pytorch import EMA

        average = EMA(model, update_after_step=0, update_every=1)
        average.update()
        average.update()
        if not back:
            return average.ema_model
        average.update_model_with_ema()
        return model

    return tool


LOOPS = [
    Place(
        "lightning",
        "plugins.layer_sync.TorchSyncBatchNorm.apply",
        "rebuilds norms",
        KEPT,
        _lightning_sync(False),
    ),
    Place(
        "lightning",
        "plugins.layer_sync.TorchSyncBatchNorm.revert",
        "rebuilds them again",
        KEPT,
        _lightning_sync(True),
    ),
    Place(
        "lightning",
        "callbacks.BaseFinetuning.freeze, make_trainable",
        "freezes norms by class",
        "kept; gates are frozen with their norms",
        _lightning_freeze,
    ),
    Place(
        "accelerate",
        "Accelerator.prepare, unwrap_model",
        "sets and removes forward",
        KEPT,
        _accelerate("prepare"),
    ),
    Place(
        "accelerate",
        "utils.compile_regions",
        "copies containers by class, compiles what is in them",
        KEPT,
        _accelerate("compile_regions", backend="eager"),
        ("norm",),
    ),
    Place(
        "accelerate",
        "init_empty_weights, load_checkpoint_and_dispatch",
        "a network without memory, weights from a file",
        "kept, after ab.rebuild_gates",
        _empty,
    ),
    Place(
        "accelerate",
        "cpu_offload",
        "sets forward on each module",
        KEPT,
        _accelerate("cpu_offload", execution_device="cpu"),
    ),
    Place(
        "accelerate",
        "disk_offload",
        "sets forward on each module",
        KEPT,
        _accelerate("disk_offload", execution_device="cpu"),
    ),
    Place("ema_pytorch", "EMA.ema_model", "a deep copy", KEPT, _ema(False)),
    Place("ema_pytorch", "EMA.update_model_with_ema", "copies weights back", KEPT, _ema(True)),
]


def _adapted(kind: str, **options: Any) -> Callable[[nn.Module], nn.Module]:
    """Wraps convolutions in an adapter, and merges it."""

    def tool(model: nn.Module) -> nn.Module:
        import peft

        config = getattr(peft, f"{kind}Config")(target_modules=["conv2"], **options)
        return peft.get_peft_model(model, config).eval().merge_and_unload()

    return tool


def _tuned_norms(model: nn.Module) -> nn.Module:
    import peft

    config = peft.LNTuningConfig(target_modules=["bn2"])
    return peft.get_peft_model(model, config).eval().merge_and_unload()


ADAPTERS = [
    ("Lora", {"r": 2}),
    ("Lora", {"r": 2, "use_dora": True}),
    ("LoHa", {"r": 2}),
    ("LoKr", {"r": 2}),
    ("IA3", {"feedforward_modules": []}),
    ("OFT", {"oft_block_size": 4, "r": 0}),
    ("AdaLora", {"total_step": 10}),
    ("HRA", {"r": 2}),
]
for kind, options in ADAPTERS:
    name = f"{kind}Config" + ("(use_dora=True)" if "use_dora" in options else "")
    does = "wraps convolutions"
    LOOPS += [
        Place("peft", f"{name} beside the gates", does, KEPT, _adapted(kind, **options), ("norm",)),
        Place(
            "peft",
            f"{name} on a gated convolution",
            does,
            "kept; a warning says to wrap first",
            _adapted(kind, **options),
            ("conv",),
            warns="Wrap first and boost afterwards",
        ),
    ]
LOOPS += [
    Place("peft", "LNTuningConfig", "copies norms", KEPT, _tuned_norms, ("norm",)),
]
