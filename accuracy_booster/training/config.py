"""What a training run is: one typed configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from accuracy_booster.data.choices import CROP_MODES, INTERPOLATIONS
from accuracy_booster.errors import SHOWN, shortened, shown, unknown

# What a training may ask for. More is a slip or an attack, and would end in a machine that swaps.
MAX_SIDE = 10_000  # pixels of an image's edge
MAX_WORKERS = 256
MAX_BATCH = 1_000_000
MAX_EPOCHS = 1_000_000
MAX_CLASSES = 1_000_000
MAX_CHANNELS = 10_000
MAX_TEXT = 10_000  # characters of a name, a path or a recipe
MAX_FILE = 100_000  # characters of a YAML file; ours have about 1,200
MANY_DIGITS = "a number has thousands of digits"
MAX_DEPTH = 8  # of brackets and indents in it; ours have 1


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults shown are those of the preset cifar_resnet.

    Args:
        model: the network (`accuracy-booster models` lists them)
        block: the gates' recipe: a name, a text such as "gap | dense(groups=C) | bn | sigmoid",
            or "none"
        data: digits, cifar10, cifar100, a folder with train/ and val/ or test/ folders of class
            folders (or .tar files of them), a folder of class folders (then with validation), a
            directory of Parquet files, or what timm's factory reads by number: hfds/NAME,
            torch/NAME. A run keeps the absolute path; train --resume RUN --data PLACE and eval
            --data PLACE take data that have moved
        init: auto, paper, or identity: the boosted network starts as what it was. auto is identity
            on trained weights, what the gates of `weights` started with, and otherwise paper
        pretrained: start from the weights of timm or torchvision, on images made as for them: what
            image_size, mean, std, interpolation, crop_pct and crop_mode do not give is theirs
        weights: start from a file (.safetensors, or of torch.save), a run's directory, or one of
            ab.save(full=True): the base network alone or with its gates. Prefixes such as module.
            are taken off; a head for other classes starts anew
        freeze: none, or base: train the gates alone (and the head, where its classes are new)
        gate_lr: learning rate of the gates; by default lr
        output: the run's directory; by default runs/MODEL-BLOCK-DATA-sSEED
        overwrite: replace a run that is already in the output directory
        checkpoint_minutes: time between checkpoints within an epoch; there is one after each epoch
        bad_images: unreadable images, of all splits, that are skipped before training stops
        preset: the settings to start from; by default digits for the built-in digits, else those
            of the model's family (train --print_config shows what they come to)
        epochs: passes over the training set; train --resume RUN --epochs N trains a run longer
        batch_size: images per step, of all processes together
        accumulate: parts into which a step's images are split, one after the other
        lr: learning rate
        momentum: SGD momentum
        nesterov: use Nesterov momentum
        weight_decay: on all parameters but those of the next two
        norm_weight_decay: on the network's norms and biases; by default weight_decay
        gate_weight_decay: on the gates; by default weight_decay
        clip_grad: largest norm of the gradient; by default it is not clipped
        schedule: step (times gamma at each milestone) or cosine (to zero)
        milestones: shares of the epochs after which the rate drops (rounded up to whole epochs)
        gamma: factor of a drop
        warmup_epochs: epochs at the warm-up rate before the schedule's
        warmup_lr: learning rate of the warm-up, or with which it starts
        warmup: constant, or linear: from warmup_lr up to lr, step by step
        label_smoothing: share of the target that goes to all classes alike
        mixup: alpha of mixup; 0 is none
        cutmix: alpha of CutMix; 0 is none. With both, each batch takes one of them
        ema: decay of a moving average of the weights, which is then what is measured and kept;
            0 is none
        augment: auto, crop, crop_flip, resized_crop or none
        validation: share of the training set held out; each epoch is then measured on it, and the
            test set only once, at the end; where the data have no test set, the share is the test
            set
        seed: of the initial weights, the order of the images and their augmentation
        device: auto, cpu or cuda
        precision: fp32, bf16 or fp16
        skipped_steps: steps in a row that fp16's loss scaling may skip before training stops
        compile: auto, on or off: torch.compile the training step. auto tries it where the run is
            long enough to pay for compiling, and keeps what was faster
        fuse: auto, on or off: compute norm, gate, sum and ReLU at the ends of residual branches in
            one pass (ab.fuse). auto does it in a compiled step and on a GPU with Triton
        sync_bn: batch norms, the gates' too, take the moments of all processes together
        channels_last: keep the network in the channels-last memory format
        workers: processes that load images
        eval_batch_size: images per batch when measuring
        data_dir: where cifar10 and cifar100 are downloaded to, by default
            ~/.cache/accuracy_booster; the root of timm's data sets
        image_column: the Parquet column of the images, where it cannot be told
        label_column: the Parquet column of the labels, where it cannot be told
        image_size: height and width of the network's input; by default small images keep theirs
            and larger ones are cropped to 224
        in_chans: channels of the images; by default the data's
        num_classes: outputs of the head; by default the data's classes
        mean: per channel, of pixels in [0, 1]; by default the training set's, or ImageNet's where
            the images are not held in memory
        std: as mean
        interpolation: bilinear, bicubic or nearest, when images are resized; by default bilinear
        crop_pct: edge of the centre crop on which large images are measured, as a share of the
            resized image's shorter edge; by default 0.875
        crop_mode: center, squash (resize to a square first) or border (keep the whole image,
            between borders), as timm's; by default center
    """

    model: str
    block: str = "ab"
    data: str = "digits"
    init: str = "auto"
    pretrained: bool = False
    weights: str | None = None
    freeze: str = "none"
    gate_lr: float | None = None
    output: str | None = None
    overwrite: bool = False
    checkpoint_minutes: float = 10.0
    bad_images: int = 100
    preset: str | None = None
    epochs: int = 200
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float | None = None
    gate_weight_decay: float | None = None
    clip_grad: float | None = None
    schedule: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup_lr: float = 0.01
    warmup: str = "constant"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    augment: str = "auto"
    validation: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    skipped_steps: int = 20
    compile: str = "auto"
    fuse: str = "auto"
    sync_bn: bool = False
    channels_last: bool = True
    workers: int = 0
    eval_batch_size: int = 256
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    image_size: int | tuple[int, int] | None = None
    in_chans: int | None = None
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None

    def __post_init__(self):
        for name in ("data", "output", "data_dir", "weights"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))
        if self.block is None:
            object.__setattr__(self, "block", "none")
        elif hasattr(self.block, "gates"):  # an ab.Recipe
            object.__setattr__(self, "block", str(self.block))
        for name in ("milestones", "image_size", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):  # of YAML and JSON
                object.__setattr__(self, name, tuple(value))
        for f in fields(self):  # 1 for 1.0
            value = getattr(self, f.name)
            if str(f.type).startswith("float") and type(value) is int and _is_finite(value):
                object.__setattr__(self, f.name, float(value))
        if type(self.image_size) is int:
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        _check_types(self)
        _check(self)

    def change(self, given: Mapping[str, Any]) -> TrainConfig:
        """A copy with other values.

        Raises:
            ValueError: for a name that is no option (with the nearest), or a value out of range.
        """
        known = [f.name for f in fields(self)]
        for name in given:
            if name not in known:
                raise unknown("option", name, known)
        return replace(self, **given)

    @property
    def data_name(self) -> str:
        """The data set's name, or the last part of its path."""
        return os.path.basename(os.path.abspath(Path(self.data).expanduser()))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of a resolved configuration: one whose data have been opened."""
        if self.in_chans is None or not isinstance(self.image_size, tuple):
            raise ValueError("the configuration is not resolved: its data have not been opened")
        return (self.in_chans, *self.image_size)

    def to_yaml(self) -> str:
        """Every value on a line of its own, in the order above; `from_yaml` reads it back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=2**20)

    def shown(self) -> dict[str, str]:
        """Every value that is set, as a person reads it, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_yaml(cls, text: str) -> TrainConfig:
        """The configuration of `to_yaml`'s text.

        Raises:
            ValueError: for a text that is no YAML, is too long or nested, or names no model; for a
                name that is no option, or a value out of range.
        """
        values = read_settings(text)
        if not isinstance(values.get("model"), str):
            raise ValueError("the configuration names no model")
        return cls(values["model"]).change(values)


def read_settings(text: str) -> dict[str, Any]:
    """A YAML text of names with plain values or flat lists of them, as configurations have.

    It runs no code and takes neither long nor much memory, whatever the text holds.

    Raises:
        ValueError: for any other text.
    """
    if len(text) > MAX_FILE:
        raise ValueError(
            f"the configuration has {len(text):,} characters; it may have up to {MAX_FILE:,}"
        )
    try:
        check_nesting(text)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError) as e:
        reason = shortened(" ".join(str(e).split()), SHOWN)
        reason = MANY_DIGITS if reason.startswith("Exceeds the limit") else reason
        raise ValueError(f"the configuration is no YAML that can be read: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the configuration names no model, but is {shown(values)}")
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list, set, tuple)) for item in items):
            raise ValueError(f"{shown(name)}: {shown(value)} must be one value or a list of values")
        if any(isinstance(item, int) and item.bit_length() > 64 for item in items):
            raise ValueError(f"{shown(name)}: {shown(value)} must be below 2**64")
    return values


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """A YAML file of settings, as `read_settings` reads its text.

    Raises:
        ValueError: for a file that cannot be read, or is no such text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(4 * MAX_FILE + 1)
        if len(content) > 4 * MAX_FILE:
            raise ValueError(f"it has more than {4 * MAX_FILE:,} bytes")
        return read_settings(content.decode())
    except OSError as e:
        raise ValueError(f"cannot read the configuration {path}: {e.strerror or e}") from None
    except ValueError as e:
        raise ValueError(f"cannot read the configuration {path}: {e}") from None


def check_nesting(text: str) -> None:
    """Raise ValueError where loading a YAML text would recurse deeply or multiply its content."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("it has a merge key (<<); write the settings themselves")


def _is_utf8(text: str) -> bool:
    """Whether a path has no bytes that Python writes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and _is_finite(value)  # type: ignore[arg-type]


def _check_types(c: TrainConfig) -> None:
    """The types that annotations state, told as ValueErrors (the command line checks them too)."""
    expected = {
        "str": "text",
        "bool": "true or false",
        "int": "a whole number",
        "float": "a finite number",
        "tuple[float, ...]": "a list of numbers",
        "int | tuple[int, int]": f"a whole number in [1, {MAX_SIDE}], or two: height and width",
    }
    for f in fields(c):
        value, kind = getattr(c, f.name), str(f.type)
        if value is None and "None" in kind:
            continue
        kind = kind.removesuffix(" | None")
        fits = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": _is_number(value),
            "tuple[float, ...]": isinstance(value, tuple) and all(map(_is_number, value)),
            "int | tuple[int, int]": isinstance(value, tuple)
            and len(value) == 2
            and all(type(side) is int and 1 <= side <= MAX_SIDE for side in value),
        }[kind]
        if not fits:
            raise ValueError(f"{f.name}={shown(value)} must be {expected.get(kind, kind)}")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"{f.name}={shown(value)} must have up to {MAX_TEXT:,} characters")


def _check(c: TrainConfig) -> None:
    rules: Mapping[str, tuple[bool, str]] = {
        "epochs": (1 <= c.epochs <= MAX_EPOCHS, f">= 1, and <= {MAX_EPOCHS:,}"),
        "batch_size": (
            2 <= c.batch_size <= MAX_BATCH,
            f">= 2: a gate's batch norm needs two images, and <= {MAX_BATCH:,}",
        ),
        "eval_batch_size": (
            1 <= c.eval_batch_size <= MAX_BATCH,
            f">= 1, and <= {MAX_BATCH:,}",
        ),
        "lr": (c.lr > 0, "> 0"),
        "gate_lr": (c.gate_lr is None or c.gate_lr > 0, "> 0"),
        "init": (c.init in ("auto", "paper", "identity"), "auto, paper or identity"),
        "weights": (
            c.weights is None or (bool(c.weights) and not c.pretrained),
            "a file or a run, and without pretrained: one start or the other",
        ),
        "output": (
            _is_utf8(c.output or ""),
            "a path in UTF-8: safetensors and TensorBoard write to no other",
        ),
        "freeze": (c.freeze in ("none", "base"), "none or base"),
        "momentum": (0 <= c.momentum < 1, "in [0, 1)"),
        "nesterov": (not c.nesterov or c.momentum > 0, "used with a momentum > 0"),
        "weight_decay": (c.weight_decay >= 0, ">= 0"),
        "schedule": (c.schedule in ("step", "cosine"), "step or cosine"),
        "milestones": (
            all(0 < m < 1 for m in c.milestones) and list(c.milestones) == sorted(c.milestones),
            "rising shares of the epochs in (0, 1)",
        ),
        "gamma": (c.gamma > 0, "> 0"),
        "warmup_lr": (c.warmup_lr > 0, "> 0"),
        "warmup": (c.warmup in ("constant", "linear"), "constant or linear"),
        "warmup_epochs": (
            c.warmup_epochs >= (c.warmup == "linear"),
            ">= 1 for a linear warmup" if c.warmup == "linear" else ">= 0",
        ),
        "std": (c.std is None or all(s > 0 for s in c.std), "> 0"),
        "accumulate": (
            c.accumulate >= 1
            and c.batch_size % c.accumulate == 0
            and c.batch_size >= 2 * c.accumulate,
            f"a divisor of batch_size={c.batch_size}, and <= {c.batch_size // 2}: a step's images "
            "are split into so many parts, and a batch norm needs two images in each",
        ),
        "norm_weight_decay": (c.norm_weight_decay is None or c.norm_weight_decay >= 0, ">= 0"),
        "gate_weight_decay": (c.gate_weight_decay is None or c.gate_weight_decay >= 0, ">= 0"),
        "clip_grad": (c.clip_grad is None or c.clip_grad > 0, "> 0"),
        "label_smoothing": (0 <= c.label_smoothing < 1, "in [0, 1)"),
        "mixup": (c.mixup >= 0, ">= 0"),
        "cutmix": (c.cutmix >= 0, ">= 0"),
        "ema": (0 <= c.ema < 1, "in [0, 1)"),
        "checkpoint_minutes": (c.checkpoint_minutes >= 0, ">= 0"),
        "bad_images": (c.bad_images >= 0, ">= 0"),
        "skipped_steps": (c.skipped_steps >= 0, ">= 0"),
        "compile": (c.compile in ("auto", "on", "off"), "auto, on or off"),
        "fuse": (c.fuse in ("auto", "on", "off"), "auto, on or off"),
        "validation": (0 <= c.validation < 1, "a share of the training set in [0, 1)"),
        "seed": (0 <= c.seed < 2**32, ">= 0, and below 2**32"),
        "data": (bool(c.data), "a name or a directory"),
        "precision": (c.precision in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16"),
        "device": (c.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        "workers": (
            0 <= c.workers <= MAX_WORKERS,
            f">= 0, and <= {MAX_WORKERS}: each is a process",
        ),
        "interpolation": (
            c.interpolation in (None, *INTERPOLATIONS),
            ", ".join(INTERPOLATIONS[:-1]) + f" or {INTERPOLATIONS[-1]}",
        ),
        "crop_pct": (c.crop_pct is None or 0 < c.crop_pct <= 1, "a share in (0, 1]"),
        "crop_mode": (
            c.crop_mode in (None, *CROP_MODES),
            ", ".join(CROP_MODES[:-1]) + f" or {CROP_MODES[-1]}",
        ),
        "in_chans": (
            c.in_chans is None or 1 <= c.in_chans <= MAX_CHANNELS,
            f">= 1, and <= {MAX_CHANNELS:,}",
        ),
        "num_classes": (
            c.num_classes is None or 1 <= c.num_classes <= MAX_CLASSES,
            f">= 1, and <= {MAX_CLASSES:,}",
        ),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ValueError(f"{name}={shown(getattr(c, name))} must be {rule}")
