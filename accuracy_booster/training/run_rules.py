"""What the settings that all tasks share must be, beyond their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accuracy_booster.training.setting_types import is_utf8

# The most that a training may ask for: more is a mistake or an attack, and exhausts the machine.
MAX_WORKERS = 256
MAX_BATCH = 1_000_000
MAX_EPOCHS = 1_000_000

Rules = Mapping[str, tuple[bool, str]]  # setting -> whether it is right, and what it must be


def rules_of_all_tasks(config: Any) -> Rules:
    """The rules of a `RunConfig`."""
    why = ": a gate's batch norm needs two images" if config.least_images > 1 else ""
    names = [name.strip() for name in config.log_with.split(",")]
    return {
        "epochs": (1 <= config.epochs <= MAX_EPOCHS, f">= 1, and <= {MAX_EPOCHS:,}"),
        "batch_size": (
            config.least_images <= config.batch_size <= MAX_BATCH,
            f">= {config.least_images}{why}, and <= {MAX_BATCH:,}",
        ),
        "eval_batch_size": (
            1 <= config.eval_batch_size <= MAX_BATCH,
            f">= 1, and <= {MAX_BATCH:,}",
        ),
        "lr": (config.lr > 0, "> 0"),
        "gate_lr": (config.gate_lr is None or config.gate_lr > 0, "> 0"),
        "init": (config.init in ("auto", "paper", "identity"), "auto, paper or identity"),
        "weights": (
            config.weights is None or (bool(config.weights) and not config.pretrained),
            "a file or a run, and without pretrained: one start or the other"
            if config.weights
            else "the path of a file or of a run; leave it out to start from none",
        ),
        "output": (
            is_utf8(config.output or ""),
            "a path in UTF-8: safetensors and TensorBoard write to no other",
        ),
        "log_with": (
            all(names) and (len(names) == 1 or "none" not in names),
            "none, or names separated by commas: tensorboard, wandb, mlflow, ... (accelerate's)",
        ),
        "momentum": (0 <= config.momentum < 1, "in [0, 1)"),
        "optimizer": (
            config.optimizer.isidentifier(),
            "sgd, adamw, or another name of timm's create_optimizer_v2",
        ),
        "nesterov": (
            not config.nesterov or (config.momentum > 0 and config.optimizer == "sgd"),
            "used with sgd, and with a momentum > 0",
        ),
        "weight_decay": (config.weight_decay >= 0, ">= 0"),
        "schedule": (config.schedule in ("step", "cosine"), "step or cosine"),
        "milestones": (
            all(0 < m < 1 for m in config.milestones)
            and list(config.milestones) == sorted(config.milestones),
            "rising shares of the epochs in (0, 1)",
        ),
        "gamma": (config.gamma > 0, "> 0"),
        "warmup_lr": (config.warmup_lr > 0, "> 0"),
        "warmup": (config.warmup in ("constant", "linear"), "constant or linear"),
        "warmup_epochs": (
            config.warmup_epochs >= (config.warmup == "linear"),
            ">= 1 for a linear warmup" if config.warmup == "linear" else ">= 0",
        ),
        "norm_weight_decay": (
            config.norm_weight_decay is None or config.norm_weight_decay >= 0,
            ">= 0",
        ),
        "gate_weight_decay": (
            config.gate_weight_decay is None or config.gate_weight_decay >= 0,
            ">= 0",
        ),
        "clip_grad": (config.clip_grad is None or config.clip_grad > 0, "> 0"),
        "ema": (0 <= config.ema < 1, "in [0, 1)"),
        "checkpoint_minutes": (config.checkpoint_minutes >= 0, ">= 0"),
        "bad_images": (config.bad_images >= 0, ">= 0"),
        "skipped_steps": (config.skipped_steps >= 0, ">= 0"),
        "seed": (0 <= config.seed < 2**32, ">= 0, and below 2**32"),
        "data": (bool(config.data), "a name or a directory"),
        "precision": (config.precision in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16"),
        "device": (config.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        "workers": (
            0 <= config.workers <= MAX_WORKERS,
            f">= 0, and <= {MAX_WORKERS}: each is a process",
        ),
        "warmup_steps": (
            config.warmup_steps >= 0 and not (config.warmup_steps and config.warmup_epochs),
            ">= 0, and 0 with warmup_epochs: one warm-up or the other",
        ),
        "accumulate": (
            config.accumulate >= 1
            and config.batch_size % config.accumulate == 0
            and config.batch_size >= config.least_images * config.accumulate,
            f"a divisor of batch_size={config.batch_size}, and <= "
            f"{config.batch_size // config.least_images}: a step's images are split into so many "
            "parts"
            + (", and a batch norm needs two images in each" if config.least_images > 1 else ""),
        ),
    }
