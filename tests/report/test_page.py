"""Pages of reports: what they say, what they escape, how large they are, what they leave out."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from support.inspections import RESNET20, make_gate, make_inspection

from accuracy_booster.errors import CannotWrite
from accuracy_booster.inspection.class_heat_map import heat_map, separating_channels
from accuracy_booster.inspection.example_images import thumbnails
from accuracy_booster.inspection.gate_statistics import Gates
from accuracy_booster.inspection.network_colours import measures
from accuracy_booster.inspection.page import write_inspection
from accuracy_booster.inspection.results import Outcome
from accuracy_booster.inspection.sentences import summary
from accuracy_booster.report.figures import COLOURS, histogram, nice_step, to_themed_svg
from accuracy_booster.report.page import render, write_page

IMAGE = "<img src=x onerror=alert(1)>"
HOSTILE = [
    IMAGE,
    "</script><script>alert(1)</script>",
    '" onfocus="alert(1)',
    "' x='",
    "{{ 7 * 7 }}",
]
VOID = ("meta", "image", "use", "line", "path", "rect", "circle", "polyline", "br", "img", "link")
BIDI = "\u202eevil"


class Page(HTMLParser):
    """A page's elements; `broken` holds tags that close what is not open."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.broken: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What it says, with signs as a keyboard has them."""
        plain = {ord("\N{MINUS SIGN}"): "-", ord("\N{MULTIPLICATION SIGN}"): "x"}
        return " ".join(" ".join(self.words).translate(plain).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.found
            if name == tag and all(found.get(k.rstrip("_")) == v for k, v in attributes.items())
        ]


def page_of(tmp_path, inspection) -> tuple[Page, str]:
    path = tmp_path / "page.html"
    write_inspection(path, inspection)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.broken == []
    assert page.open == []
    ids = [found["id"] for _, found in page.found if "id" in found]
    assert len(ids) == len(set(ids)), "an id stands twice"
    for _, found in page.found:
        for name in ("aria-controls", "aria-labelledby"):
            assert found.get(name, ids[0]) in ids
        for name in ("href", "src"):
            address = found.get(name, "#" + ids[0])
            assert address.startswith("data:image/") or address.removeprefix("#") in ids
    return page, text


# --- what it says


def test_the_page_says_what_was_found(tmp_path):
    page, _ = page_of(tmp_path, make_inspection(names=[f"kind {i}" for i in range(10)]))
    for sentence in (
        "The network is right on 67.30 % of the 400 images of the test split.",
        "6 of 9 gates alone have an effect that these images tell",
        "Conv4_1 matters most: -1.62 [-1.83 to -1.41] points.",
        "does not fold into the plain one without loss",
        "Of 336 channels 9 (Conv2_1, Conv2_2, Conv2_3, Conv3_1, Conv3_2, Conv3_3 and 3 more) are "
        "dead",
    ):
        assert sentence in page.text
    assert len(page.all("button", role="tab")) == len(page.all("div", role="tabpanel")) == 9
    assert len(re.findall(r"Stage \d · ", page.text)) == 3
    assert "Stage 3 · 32 channels, 16 x 16" in page.text
    assert "14.80 (-52.50 [-52.90 to -52.10])" in page.text  # Table 16's last row
    assert "94.66 %" in page.text
    assert "kind 3" in page.text


def test_summary_tells_when_the_network_folds():
    folds = make_inspection(folds=True)
    assert folds.folds_away
    assert any("folds into the plain one" in text for text in summary(folds))
    better = replace(folds, all_frozen=Outcome(68, 0.7, 0.2, 1.2))
    assert better.folds_away
    few_images = replace(folds, all_frozen=Outcome(68, -0.2, -1.4, 1.0))
    assert not few_images.folds_away  # the interval holds 0, and a loss of over half a point
    assert any("cannot tell whether the network folds" in text for text in summary(few_images))
    worse = replace(folds, all_frozen=Outcome(68, -2.0, -2.5, -1.5))
    assert any("does not fold into the plain one" in text for text in summary(worse))
    none = replace(folds, frozen={})
    assert any("No gate alone was frozen" in text for text in summary(none))
    assert measures(none)[0].key == "spread"


def test_colours_tell_losses_from_gains_and_from_nothing():
    lost = measures(make_inspection())[0]
    levels = [level for level, _ in lost.cells.values()]
    #         0.02    0.31 -0.05   0.44  0.12   0.73  1.62  0.94  -0.40, each ± 0.21
    assert levels == ["none", "1", "none", "1", "none", "2", "4", "2", "gain"]
    assert dict(lost.levels)["4"] == "1.5 to 2.0"
    assert {level for level, _ in lost.levels} >= set(levels)


def test_every_measure_has_a_cell_and_a_legend_for_each_gate():
    inspection = make_inspection(scale=2.0)
    keys = [m.key for m in measures(inspection)]
    assert keys == ["frozen", "spread", "explained", "saturated", "mean"]
    for measure in measures(inspection):
        legend = dict(measure.levels)
        assert list(measure.cells) == list(inspection.gates)
        for site, (level, text) in measure.cells.items():
            assert level in legend
            if measure.key == "mean":
                low, high = (float(v) for v in legend[level].split(" to "))
                value = float(inspection.gates[site].mean.mean())
                assert low - 0.005 <= value <= high + 0.005
                assert abs(float(text) - value) < 0.06


@pytest.mark.parametrize(("span", "step"), [(1, 0.2), (1.62, 0.5), (0.03, 0.01), (99, 20), (5, 1)])
def test_steps_are_round(span, step):
    assert nice_step(span) == pytest.approx(step)


def test_a_histogram_has_a_bar_for_each_bin_that_is_not_empty():
    chart = histogram([0, 3, 0, 1], 0, 1, x="x", y="y")
    assert chart["path"].count("M") == 2
    heights = [float(v) for v in re.findall(r"v-([\d.]+)", chart["path"])]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert [tick["text"] for tick in chart["y_ticks"]] == ["0", "1", "2", "3"]


def test_the_heat_map_shows_the_class_and_channel_that_stand_out():
    gate = make_gate("a", 40, classes=35, images=700)
    means = gate.mean.expand(35, -1).clone()
    means[7, 33] += 2 * gate.spread[33]
    found = heat_map(replace(gate, class_means=means), [f"k{i}" for i in range(35)])
    assert (len(found["classes"]), len(found["channels"])) == (30, 30)
    assert ["k7", "33 (+2.0)"] in [row[:2] for row in found["rows"]]
    assert found["limit"] == 2.0


def test_channels_that_separate_classes_come_first():
    gate = make_gate("a", 16)
    rows = separating_channels(gate, [f"k{i}" for i in range(10)])
    best = int(gate.class_share.argmax())
    high = int(gate.class_means[:, best].argmax())
    assert rows[0][0] == str(best)
    assert rows[0][2].startswith(f"k{high} (")
    assert len(rows) == 5


# --- what it escapes


def test_no_name_from_outside_becomes_markup(tmp_path):
    sites = [(f"{name}.{i}", 8, (4, 4)) for i, name in enumerate([*HOSTILE, BIDI])]
    inspection = make_inspection(
        sites,
        names=[*HOSTILE, BIDI, "plain"],
        classes=7,
        title=IMAGE,
        silent=(f"silent {IMAGE}",),
        recipe=f"gap | {HOSTILE[1]}",
    )
    page, text = page_of(tmp_path, replace(inspection, split=IMAGE))
    assert not page.all("img")
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, found in page.found for name in found)
    assert "<script>alert" not in text
    for name in HOSTILE[:-1]:
        assert " ".join(name.split()) in page.text
    assert "{{ 7 * 7 }}" in page.text
    labels = [found["aria-label"] for found in page.all("svg", role="img")]
    assert any(label.startswith(HOSTILE[2] + ", weight") for label in labels)
    assert "\u202e" not in text
    assert "\\u202eevil" in page.text


def test_a_general_page_escapes_and_lets_nothing_run(tmp_path):
    path = tmp_path / "a.html"
    table = ([IMAGE, "n"], [[IMAGE, "1,000 %"], ["x", "2"]])
    sections = [
        {"title": IMAGE, "table": table, "text": IMAGE},
        {"title": "b", "html": render("parts.html"), "figure": "<svg></svg>", "label": IMAGE},
    ]
    write_page(path, IMAGE, IMAGE, sections, made=IMAGE)
    text = path.read_text()
    page = Page(text)
    assert not page.all("img")
    assert not page.all("script")
    assert page.all("div", role="img", aria_label=IMAGE) == []
    assert any(found.get("aria-label") == IMAGE for found in page.all("div", role="img"))
    policy = next(f for f in page.all("meta") if f.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'; script-src 'none'" in policy["content"]
    assert [f.get("scope") for f in page.all("th")] == ["col", "col", "row", "row"]
    assert len(page.all("caption")) == 1
    assert len(page.all("td", class_="number")) == 2


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(CannotWrite):
        write_inspection(tmp_path / "file" / "page.html", make_inspection(RESNET20[:1]))
    assert (tmp_path / "file").read_text() == "old"


# --- what it leaves out, and how large it is


def test_without_labels_the_parts_about_classes_are_left_out(tmp_path):
    page, text = page_of(tmp_path, make_inspection(labelled=False))
    assert "The images have no labels, so nothing is said about classes." in page.text
    assert page.text.count("so nothing is shown about classes") == 9
    assert "Heat map" not in text
    assert not page.all("button", data_measure="explained")
    assert "Explained by the class" not in page.text


def test_without_pictures_a_sentence_says_so(tmp_path):
    page, text = page_of(tmp_path, make_inspection(pictures=0))
    assert page.text.count("No pictures were kept, so none are shown.") == 9
    assert "<use" not in text


def test_gates_with_weights_for_positions_or_one_for_all_channels(tmp_path):
    maps = make_gate("a", 16, (8, 8), numbered=False, per_position=True)
    one = make_gate("b", 1, (8, 8), shared=True)
    second = make_gate("a#2", 1, (8, 8), shared=True, numbered=False, per_position=True)
    gates = Gates({"a": maps, "a#2": second, "b": one}, network="N", images=400)
    inspection = replace(make_inspection(), gates=gates, frozen={}, layer="a")
    page, _ = page_of(tmp_path, inspection)
    assert "This gate has a weight for each position" in page.text
    assert page.text.count("one weight for all channels") >= 2
    assert "Conv2_1 #2" in page.text
    assert page.text.count("weights are not one for each image") == 2


def test_one_constant_gate_of_one_image(tmp_path):
    inspection = make_inspection([("only", 3, None)], images=1, classes=1, pictures=3)
    page, _ = page_of(tmp_path, replace(inspection, zeroed=()))
    assert "1 gate, 1 image." in page.text
    assert "0 of 1 gate alone have an effect that these images tell" in page.text
    assert "Its weights hardly depend on the image." in page.text
    assert "No channels were zeroed." in page.text


def test_a_large_network_gives_a_small_file(tmp_path):
    sites = [(f"block{i}.norm", 2048 if i > 56 else 64, (7, 7)) for i in range(60)]
    inspection = make_inspection(sites, classes=1000, images=1000, pictures=0)
    noise = torch.randint(0, 256, (1000, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    pictures = dict(enumerate(noise.byte()))  # what compresses worst
    page, text = page_of(tmp_path, replace(inspection, pictures=pictures))
    assert len(text.encode()) < 5_000_000
    assert len(page.all("button", role="tab")) == 60
    addresses = [found["href"] for found in page.all("image") if "id" in found]
    assert len(addresses) == len(set(addresses)) > 50


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_number_of_channels_and_size(channels):
    for side in (5, 32, 200):
        inspection = make_inspection(RESNET20[:1], images=60, pictures=side)
        generator = torch.Generator().manual_seed(0)
        pictures = {
            i: torch.randint(0, 256, (channels, side, side), generator=generator).byte()
            for i in range(60)
        }
        found, most = thumbnails(replace(inspection, pictures=pictures))
        assert most == 4
        assert 0 < len(found) <= 24
        for picture in found.values():
            assert (picture["width"], picture["height"]) == (min(side, 96),) * 2
            assert picture["data"].startswith(
                f"data:image/{'png' if side < 96 else 'jpeg'};base64,"
            )


# --- figures


def test_a_themed_figure_has_no_black_and_its_text_is_text():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=COLOURS[2], label="a < b")
    axes.legend(frameon=False)
    text = to_themed_svg(figure)
    root = ElementTree.fromstring(text)
    assert "#000000" not in text
    assert f"var(--series-2, {COLOURS[2]})" in text
    assert "currentColor" in text
    assert "a < b" in [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert root.get("fill") == "currentColor"


def test_the_style_sheet_has_a_colour_for_each_series_in_both_themes():
    style = render("style.css")
    for i in range(len(COLOURS)):
        assert len(re.findall(rf"--series-{i}:", style)) == 2
