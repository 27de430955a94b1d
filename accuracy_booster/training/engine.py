"""The pieces of a run that a configuration decides: device, network, optimizer, schedule."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from accuracy_booster.blocks import recipe
from accuracy_booster.data import Data, load_data, sources
from accuracy_booster.files import pack
from accuracy_booster.models import builder, create_model
from accuracy_booster.models.heads import heads
from accuracy_booster.models.preprocessing import pretrained_preprocessing
from accuracy_booster.ops import bf16_works
from accuracy_booster.progress import note
from accuracy_booster.surgery import ATTRIBUTE, added_parameters, attached
from accuracy_booster.surgery.where import Where
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.initial_weights import decide_start, run_of
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import WEIGHTS, Run

if TYPE_CHECKING:
    from accelerate import Accelerator


def attempt() -> int:
    """How often torchrun has started this command again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _join_restarted_group() -> None:
    """Meet the other processes of a torchrun restart at addresses of this attempt.

    All attempts share torchrun's store, where a process can still find the address of one that
    died with the attempt before, and then waits for it.
    """
    from torch import distributed

    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not attempt() or not shared or distributed.is_initialized():
        return
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    if world < 2:
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(host, port, world, is_master=False)
    own = distributed.PrefixStore(f"accuracy-booster/attempt{attempt()}", store)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world)


def device_named(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here.

    Raises:
        ValueError: for another name, or a device that is not here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda', but no CUDA device is available; use device='cpu' or 'auto'"
        )
    return torch.device("cuda" if torch.cuda.is_available() and name != "cpu" else "cpu")


def make_accelerator(config: RunConfig) -> Accelerator:
    """accelerate's engine on the configured device and precision.

    Raises:
        ValueError: for a device that is not here, or a precision that it refuses.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device_named(config.device)
    _join_restarted_group()
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run's settings stay
    # accelerate takes torchrun's processes for a group on the CPU only if it is asked for that
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = config.device == "cpu" or (several and not torch.cuda.is_available())
    precision = "no" if config.precision == "fp32" else config.precision
    # built without mixed precision first: to know the device before asking what it can do
    device = Accelerator(cpu=cpu).device.type
    if precision == "fp16" and device == "cpu":
        raise ValueError("precision='fp16' needs a GPU; on the CPU use fp32 or bf16")
    if precision == "bf16" and not bf16_works(device):
        raise ValueError(
            f"precision='bf16' was tried on this {device} and it failed (a CPU can announce "
            "instructions that it then refuses); use precision='fp32'"
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=precision)


def open_data(config: TrainConfig, **more: Any) -> Data:
    """The data that a configuration names; `more` are further arguments of `load_data`."""
    names = (
        *("batch_size", "eval_batch_size", "image_size", "augment", "validation", "mean", "std"),
        *("seed", "workers", "data_dir", "image_column", "label_column"),
        *("interpolation", "crop_pct", "crop_mode"),
    )
    return load_data(config.data, **{**{name: getattr(config, name) for name in names}, **more})


def open_data_anew(config: TrainConfig) -> Data:
    """The data of a new run: a pretrained network gets images made as those it was trained on.

    One that starts from a run's weights gets pixels normalised as in that run. What is used is
    printed in one line, and `fill_in` keeps it in the run's configuration.
    """
    if config.weights is not None and (found := run_of(config.weights)) is not None:
        begun = found[1]
        mean, std = config.mean or begun.mean, config.std or begun.std
        note(f"images as {config.weights} was trained on: mean {mean}, std {std}")
        return open_data(config, mean=mean, std=std)
    size = config.image_size if isinstance(config.image_size, tuple) else None
    own = pretrained_preprocessing(config.model, size) if config.pretrained else None
    if own is None:
        return open_data(config)
    names = ("image_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    given = {name: getattr(config, name) for name in names}
    used = replace(own, **{name: value for name, value in given.items() if value is not None})
    note(f"images as {config.model} was pretrained on: {used}")
    return open_data(config, own=own)


def place_data(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths of its data, which name them from everywhere."""
    root = config.data_dir and os.path.abspath(Path(config.data_dir).expanduser())
    return config.change({"data": sources.full_name(config.data), "data_dir": root})


def check_names(config: RunConfig) -> None:
    """Raise ValueError for a wrong model or block, before data are read."""
    builder(config.network)
    if config.block != "none":
        recipe(config.block)


def fill_in(config: TrainConfig, data: Data) -> TrainConfig:
    """The configuration with what the data decide: it repeats the run as it is.

    Raises:
        ValueError: for classes or channels that do not fit the configuration, or weights that
            cannot be read.
    """
    data.check_trainable()
    config = place_data(decide_start(config))
    classes = len(data.classes)
    if config.num_classes is not None and classes > config.num_classes:
        raise ValueError(
            f"{data.name} has {classes} classes, more than num_classes={config.num_classes}"
        )
    if config.in_chans not in (None, data.in_chans):
        raise ValueError(f"in_chans={config.in_chans}, but {data.name} has {data.in_chans}")
    decided = {
        "num_classes": config.num_classes or classes,
        "in_chans": data.in_chans,
        "image_size": data.image_size,
        "mean": data.mean,
        "std": data.std,
        "augment": data.augment,
        "interpolation": data.interpolation,
        "crop_pct": data.crop_pct,
        "crop_mode": data.crop_mode,
        "batch_size": data.loaders["train"].batch_size,  # no larger than the training set
        # fewer images than a batch come in one part
        "accumulate": config.accumulate
        if data.loaders["train"].batch_size == config.batch_size
        else 1,
    }
    return config.change(decided)


def build_network(
    config: TrainConfig, *, pretrained: bool = False, where: Where = "residual"
) -> nn.Module:
    """The network of a resolved configuration, in its memory format, fresh or pretrained."""
    network = create_model(
        config.model,
        block=config.block,
        init="identity" if config.block != "none" and config.init == "identity" else "paper",
        where=where,
        pretrained=pretrained,
        num_classes=config.num_classes or 0,
        in_chans=config.input_size[0],
        input_size=config.input_size,
    )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)


def save_network(network: nn.Module, run: Run, result: Mapping[str, Any], epochs: int) -> None:
    """Write what a run ended with: its result and its weights, hashed.

    The file of weights has no id in it, so that a run that is repeated gives the same bytes;
    run.json, which has the id, holds the hash of the weights.
    """
    values = {"fingerprint": run.info.get("fingerprint"), "epochs": epochs}
    run.end(result, epochs, *pack(network.state_dict(), values))


def load_network(run: Run, config: TrainConfig) -> nn.Module:
    """The network of a finished run with its final weights.

    Raises:
        ValueError: if the weights are damaged, or of another run or network.
    """
    path = run.path / WEIGHTS
    try:
        state = OrderedDict(run.weights())
        network = build_network(config)
        if (gated := _gated(state)) != _gated(network.state_dict()):
            # an older version put gates after an activation that they stand before today
            network = build_network(config, where=gated)
        # which a file has not, and torchvision's MNASNet wants
        state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
        network.load_state_dict(state)
    except (RuntimeError, ValueError, OSError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"{path} does not load: {reason}") from e
    return network


def _gated(names: Iterable[str]) -> list[str]:
    """The modules whose gates have tensors in a state dict, each once."""
    parts = (name.partition(f".{ATTRIBUTE}.") for name in names)
    return sorted({module for module, found, _ in parts if found})


def freeze(network: nn.Module, config: TrainConfig, *, keeps_head: bool) -> list[nn.Module]:
    """Freeze what `config.freeze` says; returns the norms that then stay in eval mode.

    Heads stay trainable unless `keeps_head` says that theirs are trained weights for the classes.

    Raises:
        ValueError: if nothing would be left to train.
    """
    if config.freeze == "none":
        return []
    gates = attached(network)
    if not gates:
        raise ValueError("freeze='base' leaves nothing to train without a block; give one")
    trained = {id(p) for gate in gates.values() for p in gate.parameters()}
    outer = {id(p) for head in heads(network).values() for p in head.parameters()}
    if not keeps_head:
        trained |= outer
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    inside = {id(module) for gate in gates.values() for module in gate.modules()}
    norms = [m for m in network.modules() if hasattr(m, "running_mean") and id(m) not in inside]
    return norms


def make_optimizer(
    network: nn.Module, config: RunConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """SGD on what is trainable, in groups of one rate and weight decay; `lr0` is a group's rate."""
    gates = {id(p) for p in added_parameters(network)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        rate, decay, own = config.lr, config.weight_decay, None
        if id(parameter) in gates:
            rate, own = config.gate_lr or config.lr, config.gate_weight_decay
        elif parameter.ndim < 2:
            own = config.norm_weight_decay
        groups.setdefault((rate, decay if own is None else own), []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": members, "lr": rate, "lr0": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=fused,
    )


def rate_factor(config: RunConfig, epoch: int, done: float = 0.0, steps: int = 1) -> float:
    """What the rates are multiplied with in an epoch (from 0), of which the share `done` is over.

    It is a function of the place alone, so a training that goes on needs no schedule's state.

    Args:
        steps: of an epoch.
    """
    rising = min(config.warmup_steps, steps)
    if rising and (share := (epoch + done) * steps / rising) < 1:
        first = config.warmup_lr / config.lr
        return first + (1 - first) * share
    warmup = min(config.warmup_epochs, config.epochs)
    if epoch < warmup:
        first = config.warmup_lr / config.lr
        if config.warmup == "constant":
            return first
        return first + (1 - first) * (epoch + done) / warmup
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, config.epochs - warmup)))
    drops = sum(epoch >= math.ceil(m * config.epochs) for m in config.milestones)
    return config.gamma**drops


def set_rates(optimizer: Any, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["lr0"] * factor


def make_mixing(config: TrainConfig) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """(images[N, C, H, W], labels[N]) -> mixed images, targets[N, classes]; None where none is on.

    Random numbers come from torch's generator, which is seeded for each step.
    """
    if not config.mixup and not config.cutmix:
        return None
    from torchvision.transforms import v2

    classes = config.num_classes
    ways: list[Any] = []
    if config.mixup:
        ways.append(v2.MixUp(alpha=float(config.mixup), num_classes=classes))
    if config.cutmix:
        ways.append(v2.CutMix(alpha=float(config.cutmix), num_classes=classes))
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)


def make_average(network: nn.Module, config: RunConfig) -> Any:
    """timm's exponential moving average of the weights, or None."""
    if not config.ema:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(network, decay=config.ema)
