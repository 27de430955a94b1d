"""The page of an inspection: what it says, escapes and leaves out, and how large it is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from support.inspections import RESNET20, make_gate, make_inspection
from support.pages import (
    IMAGE,
    Page,
)

from accuracy_booster.errors import CannotWrite
from accuracy_booster.inspection.gate_statistics import Gates
from accuracy_booster.inspection.page import write_inspection

HOSTILE = [
    IMAGE,
    "</script><script>alert(1)</script>",
    '" onfocus="alert(1)',
    "' x='",
    "{{ 7 * 7 }}",
]
BIDI = "\u202eevil"


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


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(CannotWrite):
        write_inspection(tmp_path / "file" / "page.html", make_inspection(RESNET20[:1]))
    assert (tmp_path / "file").read_text() == "old"


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
