"""The command that shows what the gates of a trained network do: inspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import add_measured
from accuracy_booster.cli.words import split
from accuracy_booster.errors import unknown

REPORT = "gates.html"


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run that has gates")
    add_measured(parser)
    parser.add_argument(
        "--layer",
        type=str | None,
        help="the layer of the histogram: a module's name, or the paper's, such as Conv4_1; by "
        "default the first block of the last stage",
    )
    parser.add_argument(
        "--percents",
        type=str,
        default="5,10,15,20,25",
        help="measure the accuracy with so many % of the channels of every block zeroed (Table "
        "16): those of the highest, the lowest and random weights; none to measure none",
    )
    parser.add_argument(
        "--by",
        type=str,
        default="image",
        help="what the channels to zero are ranked by: image (the weights of each image) or "
        "average (their mean over all images)",
    )
    parser.add_argument(
        "--separate",
        type=str | None,
        help="two classes, such as cat,dog: list the channels whose weights tell them apart",
    )
    parser.add_argument("--images", type=int | None, help="look at the first so many images only")
    parser.add_argument("--seed", type=int, default=0, help="of the random channels")
    parser.add_argument(
        "--output", type=str | None, help=f"the report, an HTML file; by default RUN/{REPORT}"
    )


def _inspect(given: dict[str, Any]) -> Result:
    from accuracy_booster.files import check_folder
    from accuracy_booster.inspection import inspect
    from accuracy_booster.inspection.page import write_inspection
    from accuracy_booster.inspection.sentences import summary

    run = Path(given.pop("run"))
    output = output_file(given.pop("output", None), REPORT) or run / REPORT
    if "percents" in given:
        given["percents"] = _percents(given["percents"])
    pair = _pair(run, given.pop("separate", None))
    check_folder(output.parent)
    found = inspect(run, **given)
    separations = found.gates.separating(*pair) if pair else []
    write_inspection(output, found)

    def show() -> None:
        print_table(*gates_table(found))
        say(*COLUMNS)
        say(*summary(found))
        if found.zeroed:
            print_table(*zeroed_table(found))
        if pair:
            print_table(*separation_table(separations, pair))
        say("Report:", output)

    value = {**found.to_dict(), "report": str(output)}
    if pair:
        value["separating"] = [asdict(one) for one in separations]
    return value, show


def _pair(run: Path, given: str | None) -> tuple[str, str] | None:
    """The two classes of --separate, which are looked up before anything is measured."""
    if given is None:
        return None
    from accuracy_booster.training.run_directory import Run

    names = split(given)
    if len(names) != 2:
        raise ValueError(f"--separate={given!r} names {len(names)} classes; give two, as cat,dog")
    if names[0] == names[1]:
        raise ValueError(f"--separate={given!r} names one class twice; give two")
    classes = Run.open(run)[0].info["classes"]
    for name in names:
        if name not in classes:
            raise unknown("class", name, classes)
    return names[0], names[1]


def _percents(text: str) -> list[float]:
    if text.strip().lower() in ("", "none"):
        return []
    try:
        return [float(word) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ValueError(f"--percents={text!r} must be numbers such as 5,10,25, or none") from None


# what the columns of `gates_table` are
COLUMNS = (
    "mean and spread: of a channel's weights over the images, averaged over the channels.",
    "saturated: the share of weights within 5 % of an end of the gate's scale.",
    "by class: the share of the weights' variance that the image's class explains. bits: the "
    "entropy of a channel's weights.",
    "frozen: change of the top-1 accuracy, in points, with this gate at its mean weights "
    "[95 % interval].",
    "",
)


def gates_table(found: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what each gate does."""
    header = ["gate", "place", "mean", "spread", "saturated", "by class", "bits", "frozen: change"]
    places = found.gates.places()
    rows = []
    for site, gate in found.gates.items():
        outcome = found.frozen[site]
        rows.append(
            [
                site,
                places.get(site, ""),
                f"{float(gate.mean.mean()):.3f}",
                f"{float(gate.spread.mean()):.3f}",
                f"{100 * gate.saturated:.1f} %",
                "" if gate.explained is None else f"{100 * gate.explained:.0f} %",
                f"{float(gate.entropy.mean()):.1f}",
                f"{outcome.change:+.2f} [{outcome.low:+.2f}, {outcome.high:+.2f}]",
            ]
        )
    return header, rows


def separation_table(found: Any, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the channels that tell two classes apart."""
    header = ["gate", "channel", *(f"mean, {name}" for name in names), "distance in spreads"]
    rows = [
        [s.site, str(s.channel), f"{s.one:.3f}", f"{s.other:.3f}", f"{s.distance:+.2f}"]
        for s in found
    ]
    return header, rows


def zeroed_table(found: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows of Table 16."""
    kinds = list(dict.fromkeys(cell.which for cell in found.zeroed))
    cells = {(cell.percent, cell.which): cell.outcome.top1 for cell in found.zeroed}
    header = ["% of channels zeroed", *(f"{kind}: top-1 %" for kind in kinds)]
    rows = [["0", *[f"{found.top1:.2f}"] * len(kinds)]]
    for percent in dict.fromkeys(cell.percent for cell in found.zeroed):
        rows.append([f"{percent:g}", *(f"{cells[percent, kind]:.2f}" for kind in kinds)])
    return header, rows


COMMANDS = {
    "inspect": Command(
        "Show what the gates of a run do, and what its accuracy owes to them.",
        "accuracy-booster inspect runs/resnet20-ab --data cifar100",
        _arguments,
        _inspect,
    ),
}
