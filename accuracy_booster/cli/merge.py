"""The command that makes the gates of a trained network constants: merge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import add_measured, count_of_images

if TYPE_CHECKING:
    from torch import nn

    from accuracy_booster.training.opening_to_measure import Opened

MERGED = "merged.safetensors"


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run that has gates")
    add_measured(parser, split="train")
    parser.add_argument(
        "--images",
        type=int | None,
        help="the mean weights are over the first so many images of the split",
    )
    parser.add_argument(
        "--reestimate",
        action="store_true",
        help="estimate the running statistics of the batch norms anew, with the gates constant, "
        "in a second pass over the images of the split; the network with gates is measured with "
        "new statistics too",
    )
    parser.add_argument(
        "--output", type=str | None, help=f"the file of weights; by default RUN/{MERGED}"
    )


def _merge(given: dict[str, Any]) -> Result:
    from accuracy_booster.inspection.batch_norms import reestimate_norms
    from accuracy_booster.training.evaluation import measure_opened
    from accuracy_booster.training.opening_to_measure import open_measured

    run = Path(given.pop("run"))
    output = Path(given.pop("output", None) or run / MERGED)
    _check_output(output)
    reestimate, split = given.pop("reestimate", False), given.pop("split", "train")
    limit = count_of_images(given.pop("images", None))
    opened = open_measured(run, split=split, **given)
    if reestimate and opened.accelerator.num_processes > 1:
        raise ValueError("--reestimate runs in one process; start it without torchrun")
    network, merged, sites, images = _merged(opened, run, limit)
    test = open_measured(run, split="test", **given)
    before = measure_opened(test, network).top1
    renewed = None
    if reestimate:
        for model in (network, merged):
            reestimate_norms(opened, model)
        renewed = measure_opened(test, network).top1
    after = measure_opened(test, merged).top1
    value = {
        "output": str(output),
        "sites": sites,
        "images": images,
        "reestimated": reestimate,
        "top1": before,
        "reestimated_top1": renewed,
        "merged_top1": after,
    }
    if opened.accelerator.is_main_process:
        _write(output, merged, opened, value)

    def show() -> None:
        say(
            f"{len(sites)} gates are constants, the mean weights over {images:,} images of "
            f"{opened.data.name} ({split}). Top-1 on the test images: {before:.2f} % with gates, "
            f"{after:.2f} % merged ({after - before:+.2f})."
        )
        if renewed is not None:
            say(f"With gates and new statistics of its norms, too: {renewed:.2f} %.")
        elif after < before - 0.5:
            say(
                "Layers after a constant gate see other statistics than in training: --reestimate "
                "estimates them anew, and training on (--weights) adapts the rest."
            )
        say(output)

    return value, show


def _merged(
    opened: Opened, run: Path, limit: int | None
) -> tuple[nn.Module, nn.Module, list[str], int]:
    """The run's network, the same with constants for gates, the sites, and the images seen.

    Raises:
        ValueError: if there are no gates, or one of them cannot be merged.
    """
    import torch

    from accuracy_booster.fastpath.merging import merge_gates, sites_by_reason
    from accuracy_booster.inspection.gate_weights import gates_in
    from accuracy_booster.inspection.opened_networks import gates_of
    from accuracy_booster.surgery import attached
    from accuracy_booster.surgery.wrappers import unwrapped

    network = unwrapped(opened.network)
    gates_in(network)  # raises an error where there are no gates
    sites = list(attached(network))
    # Whether a gate can be merged does not depend on the constants: check it before reading data.
    ones = {name: torch.ones(gate.channels) for name, gate in attached(network).items()}
    _, _, kept = merge_gates(network, ones)
    if kept:
        raise ValueError(
            f"{run}: {len(kept)} of {len(sites)} gates cannot be merged, and a file with gates is "
            f"none of the plain network: {sites_by_reason(kept)}; ab.merge(model, gates) merges "
            "the others"
        )
    gates = gates_of(opened, limit)
    merged, _, _ = merge_gates(network, gates, sites)
    return network, merged, sites, gates.images


def _check_output(output: Path) -> None:
    """Raise ValueError unless the file is new, or this command wrote it."""
    from accuracy_booster.files import check_folder, unpack

    if output.suffix != ".safetensors":
        raise ValueError(f"--output {output} must end in .safetensors, such as {MERGED}")
    check_folder(output.parent)
    if not output.exists():
        return
    try:
        ours = "merged_top1" in unpack(output).values
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{output} is there and no file of merge; choose another --output")


def _write(output: Path, merged: nn.Module, opened: Opened, value: dict[str, Any]) -> None:
    from accuracy_booster.files import pack, write

    about = {"model": opened.config.model, "block": opened.config.block, **value}
    content, _ = pack(merged.state_dict(), about)
    write(output, content)


COMMANDS = {
    "merge": Command(
        "Make the gates of a run constants: the weights of a plain network, and what that costs.",
        "accuracy-booster merge runs/resnet20-ab --output weights.safetensors",
        _arguments,
        _merge,
    ),
}
