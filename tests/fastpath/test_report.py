"""The report of a fused or folded network: its table, its summary, its JSON."""

import json
from dataclasses import replace

import pytest
from support.gated_networks import network

import accuracy_booster as ab
from accuracy_booster.fastpath.report import ConvolutionReport, FastPath, SiteReport
from accuracy_booster.ops import native

REPORT = FastPath("fused", [SiteReport("a.bn2", True, "norm + sum"), SiteReport("b", False, "no")])
FOLDED = FastPath("folded", [*REPORT.places, SiteReport("c", True, "here", extra_reduction=True)])


def test_the_table_and_the_summary():
    header, rows = REPORT.table()
    assert header == ["module", "path", "how, or why not"]
    assert rows == [["a.bn2", "fast", "norm + sum"], ["b", "as before", "no"]]
    assert REPORT.summary() == "fused: 1 of 2 places take the fast path"
    assert REPORT.summary() in str(REPORT)


def test_a_fused_report_says_how_eager_mode_runs_on_the_cpu(monkeypatch):
    folded = FastPath("folded", REPORT.places)
    assert str(folded).splitlines()[-1] == folded.summary()
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "why_no_library", lambda: "there is no g++")
    last = str(REPORT).splitlines()[-1]
    assert last == (
        "in eager mode on the CPU: layer by layer, as before fusing, because there is no g++"
    )
    monkeypatch.setattr(native, "library", object)
    last = str(REPORT).splitlines()[-1]
    assert last == "in eager mode on the CPU: compiled C++ (float32, float64)"


def test_the_summary_says_how_convolutions_run():
    place = [SiteReport("a", True, "how")]
    kernel, other = (
        ConvolutionReport("c", on, "by panels" if on else "no g++", {}) for on in (1, 0)
    )
    for convs, words in (
        (
            [kernel, other],
            "; 1 of 2 convolutions run in our kernel where no gradients are needed",
        ),
        ([other], "; 0 of 1 convolutions run in our kernel: no g++"),
        (
            [other, other, replace(other, how="it is float64")],
            "; 0 of 3 convolutions run in our kernel: no g++ (2); it is float64 (1)",
        ),
    ):
        report = FastPath("folded", place, convs)
        assert report.summary() == f"folded: 1 of 1 places take the fast path{words}"


def test_places_that_read_the_map_once_more_are_told_apart():
    assert [row[1] for row in FOLDED.table()[1]] == [
        "fast",
        "as before",
        "fast, one more reduction",
    ]
    assert (FOLDED.taken, FOLDED.extra_reductions) == (2, 1)
    assert FOLDED.summary() == (
        "folded: 2 of 3 places take the fast path, 1 of them with one more reduction"
    )


def test_the_overview_has_a_row_for_all_places_that_are_alike():
    places = [
        *(SiteReport(name, True, "in one pass") for name in ("a", "b", "c")),
        *(SiteReport("d", False, "no"), SiteReport("e", True, "in one pass")),
        *(SiteReport("f", True, "in one pass"), SiteReport("g", True, "here", True)),
    ]
    header, rows = FastPath("fused", places).overview()
    assert header == ["places", "modules", "path", "how, or why not"]
    assert rows == [
        ["5", "a to c, e, f", "fast", "in one pass"],
        ["1", "d", "as before", "no"],
        ["1", "g", "fast, one more reduction", "here"],
    ]
    assert FastPath("folded", []).overview().rows == []


def test_json():
    assert json.loads(json.dumps(REPORT.to_dict())) == {
        "kind": "fused",
        "places": [
            {"name": "a.bn2", "fast": True, "how": "norm + sum", "extra_reduction": False},
            {"name": "b", "fast": False, "how": "no", "extra_reduction": False},
        ],
        "convolutions": [],
        "taken": 1,
        "extra_reductions": 0,
    }


def test_what_has_no_report():
    with pytest.raises(ValueError, match="ResNetCifar is neither fused nor folded"):
        ab.fast_path(network())
    with pytest.raises(ValueError, match=r"expected an nn\.Module, got int"):
        ab.fast_path(3)
