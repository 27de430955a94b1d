"""What a model card says of a run: its data, its training and its limits, from the run's files.

Nothing here is estimated. What the run's files do not say is said to be not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accuracy_booster.data.timm_sources import is_timms
from accuracy_booster.deploy.markdown_text import cell, code, plain
from accuracy_booster.deploy.public_settings import data_name, is_place, public_settings
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.train_result import TrainResult, kept_in_words

# the built-in data sets that the Hub has, by their names there
ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
ABOUT = {
    "digits": "the 1,797 handwritten digits of scikit-learn, 8 x 8; a fixed fifth is the test set",
    "cifar10": "CIFAR-10, with its own test set",
    "cifar100": "CIFAR-100, with its own test set",
}
Rows = list[tuple[str, str]]


def hub_data(config: TrainConfig) -> str | None:
    """The name of the data on the Hub; None if they are not known to be there."""
    if config.data.lower().startswith("hfds/"):
        return config.data.partition("/")[2]
    return ON_THE_HUB.get(config.data)


def data_type(config: TrainConfig) -> str:
    """What the field `type` of a data set in a model card says."""
    return hub_data(config) or ("imagefolder" if is_place(config.data) else config.data)


def data_rows(config: TrainConfig, info: Mapping[str, Any]) -> Rows:
    """What the network was trained and measured on."""
    marks = {k: v for k, v in (info.get("data") or {}).items() if isinstance(v, Mapping)}
    counts = {split: known["images"] for split, known in marks.items() if "images" in known}
    held = _held_out(config, counts)
    rows = [("data", cell(data_name(config)))]
    if config.data in ABOUT:
        rows.append(("what they are", ABOUT[config.data]))
    elif is_timms(config.data):
        rows.append(("what they are", "a data set of timm's"))
    if "train" in counts:
        rows.append(("training images", f"{counts['train'] - held:,}"))
    if held and "test" in counts:
        rows.append(("validation images", f"{held:,}, held out of the training set"))
    elif "validation" in counts:
        rows.append(("validation images", f"{counts['validation']:,}"))
    rows.append(("test images", _test_images(info, held, counts)))
    if (bad := len(info.get("unreadable") or ())) > 0:
        left_out = "image, which was" if bad == 1 else "images, which were"
        rows.append(("not readable", f"{bad:,} {left_out} left out"))
    hashes = [
        f"{split} {name} {code(known[name])}"
        for split, known in marks.items()
        for name in ("labels", "pixels")
        if isinstance(known.get(name), str)
    ]
    if hashes:
        rows.append(("hashes, which tell other data apart", ", ".join(hashes)))
    return rows


def _held_out(config: TrainConfig, counts: Mapping[str, int]) -> int:
    """How many of the training images were held out."""
    return round(config.validation * counts["train"]) if "train" in counts else 0


def _test_images(info: Mapping[str, Any], held: int, counts: Mapping[str, int]) -> str:
    measured = f"{info['test']['images']:,}"
    if "test" in counts or not held:
        return measured
    return f"{measured}, held out of the training set, since the data have no test set"


def training_text(config: TrainConfig, result: TrainResult, info: Mapping[str, Any]) -> str:
    """How the network was trained, in sentences."""
    epochs = result.epochs_done
    told = f"{epochs:,} epoch{'s'[: epochs != 1]}"
    kept = kept_in_words(result.kept_epoch, result.best_epoch)
    device = plain(info.get("device") or "a device that is not noted")
    start = "random weights"
    if config.weights:
        start = f"the weights in {code(public_settings(config)['weights'])}"
    elif config.pretrained:
        start = "the library's pretrained weights"
    elif (info.get("network") or {}).get("trained"):
        start = "the weights of the module that was given"
    seed, seconds = config.seed, round(result.seconds)
    return (
        f"It was trained for {told}{kept}, from {start}, with seed {seed}. The training took "
        f"{seconds:,} s on {device}. This command trains it again:"
    )


def limitations(config: TrainConfig, info: Mapping[str, Any], images: int) -> list[str]:
    """What the figures of the card do not say."""
    lines = [
        f"This is one training, with seed {config.seed}. The interval of the accuracy says what "
        f"{images:,} test images tell of this network. It does not say how much another seed would "
        "differ.",
        f"It was trained on {code(data_name(config))} alone, and measured on test images of the "
        "same kind. Images from another source may give another accuracy.",
        "It gives one of its classes for every image, also for an image of none of them.",
        "Not measured: the accuracy on other data, on changed or adversarial images, and of groups "
        "of people or things; whether its probabilities can be trusted; other devices and batch "
        "sizes than those above.",
    ]
    if config.pretrained or config.weights:
        lines.append(
            "It started from weights that others may have trained: their data and their licence "
            "count too."
        )
    if info.get("lengthened"):
        steps = ", ".join(f"{row['from']} to {row['to']}" for row in info["lengthened"])
        lines.append(
            f"The training was made longer after it had begun ({steps} epochs). The command trains "
            "all epochs in one go, which need not give the same network."
        )
    if config.precision != "fp32":
        lines.append(f"It was trained and measured in {config.precision}.")
    return lines
