"""The command that makes a trained network smaller: prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import add_measured, count_of_images

if TYPE_CHECKING:
    from torch import nn


PRUNED = "pruned.pt2"


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run")
    parser.add_argument(
        "--keep", type=float, default=0.75, help="the share of the channels that stay, up to 1"
    )
    parser.add_argument(
        "--by",
        type=str,
        default="gates",
        help="what a channel is worth: gates, magnitude, gates*magnitude, random",
    )
    parser.add_argument(
        "--of",
        type=str,
        default="outputs",
        help="outputs (the ends of residual branches) or inner (the maps inside them)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=5000,
        help="the gates' mean weights are over the first so many training images",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --by random")
    parser.add_argument(
        "--reestimate",
        action="store_true",
        help="estimate the running statistics of the batch norms anew, on the training images",
    )
    add_measured(parser)
    parser.add_argument(
        "--output",
        type=str | None,
        help=f"the file of the program that torch.export.load reads; by default RUN/{PRUNED}",
    )


def _prune(given: dict[str, Any]) -> Result:
    from accuracy_booster.analysis import complexity
    from accuracy_booster.files import check_folder
    from accuracy_booster.inspection.batch_norms import reestimate_norms
    from accuracy_booster.inspection.opened_networks import gates_of
    from accuracy_booster.pruning import prune, pruning_of
    from accuracy_booster.training.evaluation import measure_opened
    from accuracy_booster.training.opening_to_measure import open_measured

    run = Path(given.pop("run"))
    output = Path(given.pop("output", None) or run / PRUNED)
    if output.suffix != ".pt2":
        raise ValueError(f"--output {output} must end in .pt2, such as {PRUNED}")
    check_folder(output.parent)
    names = ("keep", "by", "of", "seed")
    how = {name: given.pop(name) for name in names if name in given}
    images = count_of_images(given.pop("images", 5000))
    reestimate = given.pop("reestimate", False)
    opened = open_measured(run, **given)
    network, size = opened.network.eval(), opened.data.input_size
    gates = None
    if _needs_gates(how.get("by", "gates")):
        if opened.config.block == "none":
            raise ValueError(
                f"the run in {run} has no gates to rank channels by; give --by magnitude, or random"
            )
        gates = gates_of(open_measured(run, **{**given, "split": "train"}), images)
    small = prune(network, **how, gates=gates, example=_images(network, 1, size))
    report = pruning_of(small)
    if reestimate:
        reestimate_norms(open_measured(run, **{**given, "split": "train"}), small)
    costs = [complexity(model, input_size=size) for model in (network, small)]
    accuracies = [measure_opened(opened, model).top1 for model in (network, small)]
    if opened.accelerator.is_main_process:
        _write_program(output, small, size)
    value = {
        "output": str(output),
        **{name: [getattr(cost, name) for cost in costs] for name in ("parameters", "macs")},
        "top1": accuracies,
        "reestimated": reestimate,
        "pruning": report.to_dict(),
    }

    def show() -> None:
        header, rows = report.table()
        print_table(header, rows)
        say(report.summary())
        before, after = costs
        share = 100 * (1 - after.macs / before.macs)
        say(
            f"parameters {before.parameters:,} -> {after.parameters:,}, MACs {before.macs:,} -> "
            f"{after.macs:,} ({share:.1f} % fewer), top-1 on the {opened.split} images "
            f"{accuracies[0]:.2f} % -> {accuracies[1]:.2f} %, not trained since"
        )
        hint = "" if reestimate else "--reestimate adapts the norms; "
        say(f"{hint}in Python, ab.prune gives the network, which can be trained on")
        say(output)

    return value, show


def _needs_gates(by: str) -> bool:
    from accuracy_booster.pruning.criteria import CRITERIA

    return by in CRITERIA and CRITERIA[by].needs_gates  # another name is refused by `prune`


def _images(network: nn.Module, count: int, size: tuple[int, ...]) -> Any:
    """Zeros [count, C, H, W] on the network's device."""
    import torch

    return torch.zeros(count, *size, device=next(network.parameters()).device)


def _write_program(output: Path, network: nn.Module, size: tuple[int, ...]) -> None:
    """The network for inference on the CPU, for batches of any number of images."""
    import io

    import torch

    from accuracy_booster.files import write

    # torch.export.save warns of weights in other formats
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(network, (_images(network, 2, size),), dynamic_shapes=(batch,))
    content = io.BytesIO()
    torch.export.save(program, content)
    write(output, content.getvalue())


COMMANDS = {
    "prune": Command(
        "Remove the channels of a run that count least: a smaller network for inference.",
        "accuracy-booster prune runs/resnet20-ab --keep 0.75 --by gates --output small.pt2",
        _arguments,
        _prune,
    ),
}
