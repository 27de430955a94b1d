"""The model card of a run: README.md, with the head in YAML that the Hugging Face Hub reads.

Every figure is from the run's files, or was counted or timed when the card was written.
"""

# C channels, H W space

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from accuracy_booster.deploy import card_data
from accuracy_booster.deploy.card_costs import Costs
from accuracy_booster.deploy.loading_text import loading_text
from accuracy_booster.deploy.markdown_text import cell, code, json_lines, plain, yaml_text
from accuracy_booster.deploy.public_settings import (
    command,
    data_name,
    is_place,
    network_name,
    public_settings,
)
from accuracy_booster.deploy.saved_form import Loader, SavedForm
from accuracy_booster.deploy.wilson import wilson
from accuracy_booster.integrations.boosted_names import PREFIX
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.gated import is_of_gate
from accuracy_booster.training.measuring import tells_top5
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.train_result import TrainResult

if TYPE_CHECKING:
    from jinja2 import Template

PACKAGE = "accuracy_booster.deploy"
REFERENCE = (
    "P. Singh, P. Mazumder and V. P. Namboodiri, *Accuracy Booster: Performance Boosting using "
    "Feature Map Re-calibration*, WACV 2020, pages 884 to 893, "
    "[arXiv:1903.04407](https://arxiv.org/abs/1903.04407)."
)


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        network: the run's network, in eval mode.
        result: what the run ended with.
        info: what run.json holds.
        form: how the network is saved.
        costs: what it costs.
    """

    network: nn.Module
    result: TrainResult
    info: Mapping[str, Any]
    form: SavedForm
    costs: Costs

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        config: TrainConfig = self.result.config
        return config

    @property
    def hits(self) -> int:
        """The test images to which the first answer was right."""
        return round(self.result.test.top1 / 100 * self.result.test.images)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy in %."""
        low, high = wilson(self.hits, self.result.test.images)
        return 100 * low, 100 * high


def model_card(subject: Subject, repo_id: str | None = None) -> str:
    """The text of a run's model card.

    Args:
        repo_id: the network's name on the Hub; None for a directory.
    """
    config, info = subject.config, subject.info
    classes = list(map(str, info["classes"]))
    tensors = subject.network.state_dict()
    text = _template().render(
        head=yaml_text(_head(subject)),
        title=plain(_title(config)),
        lead=_lead(subject),
        summary=_summary(subject),
        loading=loading_text(subject.form, repo_id),
        tensors=f"{len(tensors):,}",
        gate_tensors=f"{sum(map(is_of_gate, tensors)):,}",
        gates=_gates(subject),
        images=_images(subject.form),
        classes=classes,
        class_list=json_lines(classes),
        data=card_data.data_rows(config, info),
        training=card_data.training_text(config, subject.result, info),
        command=command(config),
        after_command=_after_command(config),
        settings=yaml_text(public_settings(config)),
        versions=", ".join(f"{plain(k)} {plain(v)}" for k, v in info["versions"].items()),
        cost=_cost(subject),
        how_timed=_how_timed(subject.costs),
        limitations=card_data.limitations(config, info, subject.result.test.images),
        reference=REFERENCE,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _title(config: TrainConfig) -> str:
    block = "" if config.block == "none" else f" with {config.block}"
    return f"{network_name(config)}{block} on {data_name(config)}"


def _head(subject: Subject) -> dict[str, Any]:
    """The fields of the head; `license` is the owner's choice and not among them."""
    config = subject.config
    own = subject.form.loader is Loader.OWN_CODE
    known = card_data.hub_data(config)
    metric = {
        "type": "accuracy",
        "name": "top-1 accuracy",
        "value": round(subject.hits / subject.result.test.images, 6),
    }
    result = {
        "task": {"type": "image-classification", "name": "image classification"},
        "dataset": {
            "type": card_data.data_type(config),
            "name": data_name(config),
            "split": "test",
        },
        "metrics": [metric],
    }
    return {
        "library_name": "pytorch" if own else "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *["timm"] * (not own), "accuracy-booster"],
        **({"datasets": [known]} if known else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": _title(config), "results": [result]}],
    }


def _lead(subject: Subject) -> str:
    low, high = subject.interval
    test = subject.result.test
    return (
        f"It names the class of an image. Top-1 accuracy {test.top1:.2f} % on {test.images:,} test "
        f"images (95 % interval {low:.2f} to {high:.2f} %), of one training with seed "
        f"{subject.config.seed}."
    )


def _summary(subject: Subject) -> card_data.Rows:
    config, test = subject.config, subject.result.test
    low, high = subject.interval
    rows = [
        ("network", cell(network_name(config))),
        ("block", cell(config.block)),
        ("start of the gates", config.init if config.block != "none" else "no gates"),
        ("input", " x ".join(map(str, config.input_size)) + " (channels, height, width)"),
        ("top-1 accuracy", f"{test.top1:.2f} %: {subject.hits:,} of {test.images:,} test images"),
        ("its 95 % interval", f"{low:.2f} to {high:.2f} % (Wilson)"),
    ]
    if tells_top5(config.num_classes):
        rows.append(("top-5 accuracy", f"{test.top5:.2f} %"))
    return [*rows, ("cross-entropy on the test images", f"{test.loss:.4f}")]


def _gates(subject: Subject) -> dict[str, Any]:
    """What somebody needs to know who builds the gates in another program; {} without gates."""
    gates = attached(subject.network)
    if not gates:
        return {}
    first, gate = next(iter(gates.items()))
    inside = {n: t for n, t in subject.network.state_dict().items() if n.startswith(f"{first}.")}
    base = subject.form.architecture.removeprefix(PREFIX)
    if subject.config.where == "attention":
        others = "The gates stand in the place of the network's own attention."
    elif base != subject.form.architecture:
        others = f"The others have the names and shapes of timm's {code(base)}."
    else:
        others = "The others have the names and shapes of the network without gates."
    return {
        "count": f"{len(gates):,}",
        "others": others,
        "recipe": code(str(gate.recipe)),
        "first": code(first),
        "tensors": [
            (cell(name), " x ".join(map(str, tensor.shape)) or "a number")
            for name, tensor in inside.items()
            if is_of_gate(name)
        ],
    }


def _images(form: SavedForm) -> str:
    about = form.config["pretrained_cfg"]
    channels, height, width = about["input_size"]
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    resize = (
        "resized to that size, and not cropped"
        if about["crop_mode"] == "squash" and about["crop_pct"] == 1
        else f"resized and cropped (`crop_pct` {about['crop_pct']:.6g}, `crop_mode` "
        f"{about['crop_mode']})"
    )
    mean, std = (", ".join(f"{v:.6g}" for v in about[name]) for name in ("mean", "std"))
    return (
        f"An image is {kind}, {height} pixels high and {width} wide: it is {resize}, with "
        f"{about['interpolation']} interpolation. Then each channel is (pixel / 255 - mean) / std, "
        f"with mean {mean} and std {std}. `config.json` holds these numbers, and timm's transform "
        "takes them from there."
    )


def _after_command(config: TrainConfig) -> str:
    lines = []
    if is_place(config.data):
        lines.append("`--data` names the directory of the data, which are not part of these files.")
    if config.weights is not None:
        lines.append("`--weights` names the file of the weights that it started from.")
    if is_own(config.model):
        lines.append("The network is of the author's own code, which makes it.")
    return " ".join(lines)


def _cost(subject: Subject) -> card_data.Rows:
    counted, timings = subject.costs.counted, subject.costs.timings
    rows = [("parameters", f"{counted.parameters:,}"), ("MACs of an image", f"{counted.macs:,}")]
    if attached(subject.network):
        rows += [
            ("parameters of the gates, among these", f"{counted.extra.parameters:,}"),
            ("MACs of the gates, among these", f"{counted.extra.macs:,}"),
        ]
    if counted.uncounted:
        rows.append(("operators that were not counted", cell(", ".join(counted.uncounted))))
    rows += [
        (
            f"latency of a batch of {one.batch}",
            f"{one.milliseconds:.2f} ms (median of {one.rounds})",
        )
        for one in timings
    ]
    return rows


def _how_timed(costs: Costs) -> str:
    if not costs.timings:
        return "The latency was not measured."
    return (
        f"Timed on {plain(costs.machine)}, when this card was written: in PyTorch's eager mode, in "
        "float32, as the lines above load it, neither folded nor compiled. Other machines take "
        "other times. A MAC is one multiply-add of a convolution or a dense layer."
    )


@cache
def _template() -> Template:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        autoescape=False,  # it is no HTML; `markdown_text` escapes what is from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("model_card.md")
