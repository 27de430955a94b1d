"""The HTML page of `ab.inspect`: what the gates of a network do, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.inspection import sentences
from accuracy_booster.inspection.class_heat_map import heat_map, separating_channels
from accuracy_booster.inspection.example_images import examples, thumbnails
from accuracy_booster.inspection.gate_statistics import GateStatistics
from accuracy_booster.inspection.network_colours import measures
from accuracy_booster.inspection.results import BY_IMAGE, WHICH, Inspection
from accuracy_booster.progress import printable
from accuracy_booster.report.figures import histogram, line_chart
from accuracy_booster.report.numbers import MISSING, number
from accuracy_booster.report.page import render, write_page

if TYPE_CHECKING:
    from markupsafe import Markup

PACKAGE = "accuracy_booster.inspection"
FIGURE_BINS = 20
PAPER = (
    "The paper's Table 16, for another network, AB ResNet-56 on CIFAR-10, prints 94.66 % with no "
    "channel zeroed. With 5, 10, 15, 20 and 25 % of the channels zeroed it prints 76.13, 53.52, "
    "40.01, 29.24 and 18.22 % for the highest weights, and 91.32, 84.50, 74.26, 63.11 and 52.40 % "
    "for the lowest."
)


def write_inspection(path: Path, inspection: Inspection) -> None:
    """Write what an inspection found as one self-contained HTML file.

    Raises:
        CannotWrite: if the file cannot be written; what was there is still there.
    """
    script = files(PACKAGE).joinpath("templates/inspection.js").read_text(encoding="utf-8")
    lead = (
        f"{printable(inspection.title)}. {sentences.count(len(inspection.gates), 'gate')}, "
        f"{sentences.count(inspection.gates.images, 'image')}."
    )
    parts = [
        {"title": "Summary", "html": _summary(inspection)},
        {"title": "The network", "html": _network(inspection)},
        {"title": "Average weights of one layer", "html": _figure_3(inspection)},
        {"title": "Channels zeroed", "html": _table_16(inspection)},
        {"title": "How it was made", "html": _how(inspection)},
    ]
    write_page(Path(path), "What the gates do", lead, parts, script=script)


def _render(template: str, **values: Any) -> Markup:
    return render(template, PACKAGE, **values)


def _summary(inspection: Inspection) -> Markup:
    return _render(
        "summary.html",
        tiles=sentences.tiles(inspection),
        said=[printable(text) for text in sentences.summary(inspection)],
        unmoved=_printable(sentences.unmoved(inspection)),
    )


def _network(inspection: Inspection) -> Markup:
    gates = inspection.gates
    names = class_names(inspection)
    pictures, most = thumbnails(inspection)
    places = {site: _place(inspection, site) for site in gates}
    about = {
        "measures": measures(inspection),
        "pictures": pictures,
        "chosen": list(gates).index(gates.find(inspection.layer)),
        "stages": _stages(inspection),
        "places": places,
    }
    panels = [_panel(inspection, site, names, pictures, most) for site in gates]
    return _render("network.html", **about, panels=panels)


def _stages(inspection: Inspection) -> list[dict[str, Any]]:
    """The stages of the network: each {"name", "shape", "sites": [(number of the block, site)]}."""
    gates, places = inspection.gates, inspection.gates.places()
    stages: list[dict[str, Any]] = []
    for i, (site, gate) in enumerate(gates.items()):
        place = places.get(site.partition("#")[0])
        name = "Stage" if place is None else "Stage " + place.removeprefix("Conv").partition("_")[0]
        if not stages or stages[-1]["name"] != name:
            stages.append({"name": name, "shape": _shape(gate), "sites": []})
        stages[-1]["sites"].append((i, site))
    return stages


def _place(inspection: Inspection, site: str) -> str:
    """A site's name in the paper, with the number of the gate there; else the site."""
    first, _, second = site.partition("#")
    place = inspection.gates.places().get(first)
    if place is None:
        return printable(site)
    return f"{place} #{second}" if second else place


def _shape(gate: GateStatistics) -> str:
    channels = "one weight for all channels" if gate.shared else f"{gate.channels:,} channels"
    if not gate.spatial_size:
        return channels
    return f"{channels}, " + " \N{MULTIPLICATION SIGN} ".join(map(str, gate.spatial_size))


def _panel(
    inspection: Inspection,
    site: str,
    names: Sequence[str],
    pictures: Mapping[int, Any],
    most: int,
) -> dict[str, Any]:
    gate = inspection.gates[site]
    place = _place(inspection, site)
    shares = [100 * n / int(gate.histogram.sum()) for n in gate.histogram.sum(0).tolist()]
    averages = _averages(gate, 0, gate.scale, len(shares))
    return {
        "place": place,
        "site": printable(site),
        "recipe": printable(gate.recipe),
        "shape": _shape(gate),
        "remarks": _remarks(gate),
        "numbers": _numbers(inspection, site),
        "averages": histogram(averages, 0, gate.scale, x="average weight", y="channels"),
        "weights": histogram(shares, 0, gate.scale, x="weight", y="% of all weights"),
        "bounds": _bounds(gate),
        "heat": heat_map(gate, names),
        "separating": separating_channels(gate, names),
        "examples": examples(gate, pictures, most),
        "has_images": gate.highest is not None,
        "labels": {n: names[k] for n, k in inspection.labels.items() if 0 <= k < len(names)},
    }


def _remarks(gate: GateStatistics) -> list[str]:
    said = []
    if gate.shared:
        said.append("This gate has one weight for all channels.")
    if gate.per_position:
        said.append("This gate has a weight for each position; the numbers are of its means.")
    if gate.is_constant:
        said.append("Its weights hardly depend on the image.")
    return said


def _numbers(inspection: Inspection, site: str) -> list[list[str]]:
    gate, frozen = inspection.gates[site], inspection.frozen.get(site)
    rows = [
        ["Change when frozen, points", MISSING if frozen is None else sentences.interval(frozen)],
        ["Mean weight", number(float(gate.mean.mean()), 3)],
        ["Lowest and highest channel's mean", _bounds(gate)],
        ["Spread across images", number(float(gate.spread.mean()), 3)],
        ["Saturated weights", f"{100 * gate.saturated:.1f} %"],
        ["Entropy, bits", number(float(gate.entropy.mean()), 2)],
    ]
    if gate.explained is not None:
        rows.append(["Explained by the class", f"{100 * gate.explained:.0f} %"])
    rows.append(["Dead channels", sentences.named(gate.dead, gate.channels)])
    rows.append(["Constant channels", sentences.named(gate.constant, gate.channels)])
    rows.append(["Scale of the weights", f"{gate.scale:g}"])
    return rows


def _bounds(gate: GateStatistics) -> str:
    return f"{number(float(gate.mean.min()), 3)} to {number(float(gate.mean.max()), 3)}"


def _averages(gate: GateStatistics, low: float, high: float, bins: int) -> list[int]:
    """How many channels have an average weight in each of equal bins."""
    places = ((gate.mean - low) * (bins / (high - low))).long().clamp(0, bins - 1)
    return places.bincount(minlength=bins).tolist()


def _figure_3(inspection: Inspection) -> Markup:
    """The histogram of the average weights of one layer, as in the paper's Figure 3."""
    site = inspection.gates.find(inspection.layer)
    gate = inspection.gates[site]
    low, high = float(gate.mean.min()), float(gate.mean.max())
    margin = max((high - low) * 0.05, 1e-3 * gate.scale)
    low, high = max(0.0, low - margin), min(gate.scale, high + margin)
    bars = _averages(gate, low, high, FIGURE_BINS)
    return _render(
        "figure_3.html",
        place=_place(inspection, site),
        site=printable(site),
        channels=gate.channels,
        images=inspection.gates.images,
        bounds=_bounds(gate),
        chart=histogram(bars, low, high, x="average weight of a channel", y="channels"),
    )


def _table_16(inspection: Inspection) -> Markup:
    """The accuracy with channels zeroed, as in the paper's Table 16."""
    cells = {(z.percent, z.which): z.outcome for z in inspection.zeroed}
    which = [name for name in WHICH if any(z.which == name for z in inspection.zeroed)]
    percents = sorted({z.percent for z in inspection.zeroed})
    rows = [["0", *[number(inspection.top1)] * len(which)]] if 0 not in percents else []
    for percent in percents:
        found = [cells.get((percent, name)) for name in which]
        rows.append(
            [
                f"{percent:g}",
                *(
                    MISSING if o is None else f"{number(o.top1)} ({sentences.interval(o)})"
                    for o in found
                ),
            ]
        )
    points = {
        f"{name} weights": [(0.0, inspection.top1)]
        + [(z.percent, z.outcome.top1) for z in inspection.zeroed if z.which == name]
        for name in which
    }
    return _render(
        "table_16.html",
        header=["% of channels", *(f"{name}, top-1 %" for name in which)],
        rows=rows,
        chart=line_chart(points, x="% of channels zeroed in every block", y="top-1 %")
        if which
        else None,
        by="the weights of each image" if inspection.by == BY_IMAGE else "their average weights",
        paper=PAPER,
    )


def _how(inspection: Inspection) -> Markup:
    return _render("how.html", split=printable(inspection.split), images=inspection.images)


def class_names(inspection: Inspection) -> list[str]:
    """A name for each class of a gate or a picture; "class 7" for one without a name."""
    numbers = [len(g.class_counts) for g in inspection.gates.values() if g.class_counts is not None]
    numbers += [k + 1 for k in inspection.labels.values()]
    given = [printable(name) for name in inspection.gates.classes]
    return given + [f"class {k}" for k in range(len(given), max(numbers, default=0))]


def _printable(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in rows]
