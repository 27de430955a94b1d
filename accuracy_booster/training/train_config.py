"""`TrainConfig`: the settings of a training for classification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from accuracy_booster.data.choices import AUTO_AUGMENTS, BALANCES, CROP_MODES, INTERPOLATIONS
from accuracy_booster.training.run_config import Rules, RunConfig

MAX_CLASSES = 1_000_000
MAX_CHANNELS = 10_000
SPLITS = ("train", "test", "validation")
# the settings that measuring a run may change
MEASURED = (
    *("image_size", "mean", "std", "eval_batch_size", "device", "precision", "workers"),
    *("data_dir", "image_column", "label_column", "bad_images"),
    *("interpolation", "crop_pct", "crop_mode", "validation"),
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A training run. The defaults shown are those of the preset cifar_resnet.

    Args:
        model: the network (`accuracy-booster models` lists them)
        data: digits, cifar10, cifar100, a folder with train/ and val/ or test/ folders of class
            folders (or .tar files of them), a folder of class folders (then with validation), a
            directory of Parquet files, or what timm's factory reads by number: hfds/NAME,
            torch/NAME. A run keeps the absolute path; train --resume RUN --data PLACE and eval
            --data PLACE take data that have moved
        pretrained: start from the weights of timm or torchvision, on images made as for them: what
            image_size, mean, std, interpolation, crop_pct and crop_mode do not give is theirs
        weights: start from a file (.safetensors, or of torch.save), a run's directory, or one of
            ab.save(full=True): the base network alone or with its gates. Prefixes such as module.
            are taken off; a head for other classes starts anew
        where: the sites of the gates: residual (the ends of residual branches), conv (after each
            convolution's norm), attention (in place of the network's own), or names of modules and
            regular expressions between slashes, separated by commas
        skip: names or shell patterns of modules whose sites get no gate, separated by commas; a
            name also covers what lies in the module
        freeze: none, or base: train the gates alone (and the head, where its classes are new)
        preset: the settings to start from; by default finetune where the network starts from
            trained weights, else digits for the built-in digits, else those of the model's family
            (train --print_config shows what they come to)
        layer_decay: factor of the learning rate from each layer to the one before it, as timm's;
            0.75 lets the first layers change least; by default all layers have the same rate
        label_smoothing: share of the target that goes to all classes alike
        mixup: alpha of mixup; 0 is none
        cutmix: alpha of CutMix; 0 is none. With both, each batch takes one of them
        random_erasing: probability that a rectangle of a training image becomes noise, as timm's
            --reprob
        augment: auto, crop, crop_flip, resized_crop or none
        auto_augment: what timm does to the training images after that, in the text of its --aa,
            such as rand-m9-mstd0.5-inc1; by default nothing
        class_weights: none, or balanced: weights in the training loss, images / (classes x images
            of the class)
        sampling: none, or balanced: an epoch draws images with replacement, each class as often
        validation: share of the training set held out; each epoch is then measured on it, and the
            test set only once, at the end; where the data have no test set, the share is the test
            set
        keep: last, or best: the epoch whose network is measured on the test set and becomes
            model.safetensors. auto is best where there is a validation split, and otherwise last
        patience: epochs without a better top-1 on the validation split after which training ends;
            0 trains all epochs
        compile: auto, on or off: torch.compile the training step. auto tries it where the run is
            long enough to pay for compiling, and keeps what was faster
        fuse: auto, on or off: compute norm, gate, sum and ReLU at the ends of residual branches in
            one pass (ab.fuse). auto does it in a compiled step, and on the CPU in a network with
            gates, if there is a compiler (g++)
        sync_bn: batch norms, the gates' too, take the moments of all processes together
        data_dir: where cifar10 and cifar100 are downloaded to, by default
            ~/.cache/accuracy_booster; the root of timm's data sets
        image_column: the Parquet column of the images, where it cannot be told
        label_column: the Parquet column of the labels, where it cannot be told
        image_size: height and width of the network's input; by default small images keep theirs
            and larger ones are cropped to 224
        in_chans: channels of the images: 1 reads them as grey, 3 as colour; by default the data's,
            and 3 for images in files
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

    task: ClassVar[str] = "classification"
    command: ClassVar[str] = "train"
    network_field: ClassVar[str] = "model"
    places: ClassVar[tuple[str, ...]] = ("data", "data_dir")

    model: str = field(kw_only=False)
    where: str = "residual"
    skip: str | None = None
    freeze: str = "none"
    preset: str | None = None
    layer_decay: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float = 0.0
    augment: str = "auto"
    auto_augment: str | None = None
    class_weights: str = "none"
    sampling: str = "none"
    validation: float = 0.0
    keep: str = "auto"
    patience: int = 0
    compile: str = "auto"
    fuse: str = "auto"
    sync_bn: bool = False
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

    def __post_init__(self) -> None:
        if type(self.image_size) is int:
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        if self.where != "residual" or self.skip is not None:
            self._write_places_as_text()
        super().__post_init__()

    def _write_places_as_text(self) -> None:
        """Turn `where` and `skip` into texts; raise ValueError for what no text can say."""
        # imported here: the folder imports torch, which --help must not
        from accuracy_booster.surgery.where_text import read_skip, read_where, write_where

        object.__setattr__(self, "where", write_where(self.where))
        read_where(self.where)
        object.__setattr__(self, "skip", ",".join(read_skip(self.skip)) or None)

    def rules(self) -> Rules:
        return {
            **super().rules(),
            "freeze": (self.freeze in ("none", "base"), "none or base"),
            "std": (self.std is None or all(s > 0 for s in self.std), "> 0"),
            "layer_decay": (self.layer_decay is None or 0 < self.layer_decay <= 1, "in (0, 1]"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "mixup": (self.mixup >= 0, ">= 0"),
            "cutmix": (self.cutmix >= 0, ">= 0"),
            "random_erasing": (0 <= self.random_erasing <= 1, "a probability in [0, 1]"),
            "auto_augment": (
                self.auto_augment is None or self.auto_augment.partition("-")[0] in AUTO_AUGMENTS,
                f"one of {', '.join(AUTO_AUGMENTS)}, with timm's settings after dashes, such as "
                "rand-m9-mstd0.5-inc1",
            ),
            "class_weights": (self.class_weights in BALANCES, "none or balanced"),
            "sampling": (self.sampling in BALANCES, "none or balanced"),
            "keep": (self.keep in ("auto", "last", "best"), "auto, last or best"),
            "patience": (self.patience >= 0, ">= 0"),
            "compile": (self.compile in ("auto", "on", "off"), "auto, on or off"),
            "fuse": (self.fuse in ("auto", "on", "off"), "auto, on or off"),
            "validation": (0 <= self.validation < 1, "a share of the training set in [0, 1)"),
            "interpolation": (
                self.interpolation in (None, *INTERPOLATIONS),
                ", ".join(INTERPOLATIONS[:-1]) + f" or {INTERPOLATIONS[-1]}",
            ),
            "crop_pct": (self.crop_pct is None or 0 < self.crop_pct <= 1, "a share in (0, 1]"),
            "crop_mode": (
                self.crop_mode in (None, *CROP_MODES),
                ", ".join(CROP_MODES[:-1]) + f" or {CROP_MODES[-1]}",
            ),
            "in_chans": (
                self.in_chans is None or 1 <= self.in_chans <= MAX_CHANNELS,
                f">= 1, and <= {MAX_CHANNELS:,}",
            ),
            "num_classes": (
                self.num_classes is None or 1 <= self.num_classes <= MAX_CLASSES,
                f">= 1, and <= {MAX_CLASSES:,}",
            ),
        }

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of a resolved configuration: one whose data have been opened."""
        if self.in_chans is None or not isinstance(self.image_size, tuple):
            raise ValueError("the configuration is not resolved: its data have not been opened")
        return (self.in_chans, *self.image_size)

    @property
    def synchronised(self) -> bool:
        return self.sync_bn
