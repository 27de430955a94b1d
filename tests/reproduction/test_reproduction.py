"""`reproduce counts` and `complexity`: the paper's numbers beside ours, verdicts, commands.

What is expected is `shared/paper/counting.md`, written down here or worked out by hand.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.reproduction import Check, Counts, counts
from accuracy_booster.reproduction.counting import verdict
from accuracy_booster.reproduction.paper import TABLES

EQUAL, TRUNCATED, DIFFERENT = "equal", "truncated", "not reproducible"


@pytest.fixture(scope="module")
def everything() -> Counts:
    return counts()


def find(found: Counts, table: int, row: str, column: str) -> list[Check]:
    return [c for c in found.checks if (c.table, c.row, c.column) == (table, row, column)]


MACS_2 = {
    "ResNet-50": ("3.858G", 3_857_973_248),
    "SE": ("3.860G", 3_860_488_192),
    "AB": ("3.858G", 3_857_988_352),
    "AB-Plus": ("3.878G", 3_878_092_800),
}
SUMS_152 = 3 * 256 * 56**2 + 8 * 512 * 28**2 + 36 * 1024 * 14**2 + 3 * 2048 * 7**2
# table, row, column, printed, ours, verdict, convention
NUMBERS: list[tuple[int, str, str, str, int, str, str]] = [
    (2, "ResNet-50", "Params", "25.56M", 25_557_032, EQUAL, "all parameters"),
    (2, "ResNet-152", "Params", "60.19M", 60_192_808, EQUAL, "all parameters"),
    (2, "ResNet-152", "FLOPS", "11.30G", 11_282_415_616 + SUMS_152, EQUAL, "mac+sum"),
    (2, "SE", "Params", "28.09M", 28_088_024, EQUAL, "all parameters"),
    (2, "CBAM", "Params", "28.09M", 28_089_624, EQUAL, "all parameters"),
    (2, "CBAM", "FLOPS", "3.864G", 3_864_362_102, EQUAL, "mac"),
    (2, "AB", "Params", "25.57M", 25_572_136, EQUAL, "block weights"),
    (2, "AB-Plus", "Params", "45.67M", 45_676_584, TRUNCATED, "block weights"),
    *(
        (table, row, "FLOPS", printed, ours, EQUAL, "mac")
        for table in (2, 3)
        for row, (printed, ours) in MACS_2.items()
    ),
    (4, "WRN-18-2", "Params", "45.62M", 45_618_216, EQUAL, "all parameters"),
    (4, "WRN-18-2", "FLOPS", "6.696G", 6_695_706_624, EQUAL, "mac"),
    (4, "SE", "Params", "45.97M", 45_970_456, EQUAL, "all parameters"),
    (4, "SE", "FLOPS", "6.696G", 6_696_054_784, EQUAL, "mac"),
    (4, "CBAM", "Params", "45.97M", 45_971_256, EQUAL, "all parameters"),
    (4, "CBAM", "FLOPS", "6.697G", 6_697_219_284, EQUAL, "mac"),
    (4, "AB", "Params", "45.62M", 45_622_056, EQUAL, "block weights"),
    (4, "AB", "FLOPS", "6.696G", 6_695_710_464, EQUAL, "mac"),
    (4, "AB-Plus", "Params", "48.40M", 48_403_496, EQUAL, "block weights"),
    (4, "AB-Plus", "FLOPS", "6.698G", 6_698_491_904, EQUAL, "mac"),
    (7, "ShuffleNet", "Params", "1.80M", 1_865_728, DIFFERENT, "all parameters"),
    (7, "ShuffleNet", "FLOPS", "140.0M", 140_459_472, DIFFERENT, "mac+norm"),
    (7, "SE", "Params", "2.40M", 2_410_416, DIFFERENT, "printed base + block weights"),
    (7, "SE", "FLOPS", "142.0M", 140_459_472 + 610_416, DIFFERENT, "mac+norm"),
    (7, "AB", "Params", "1.82M", 1_823_688, EQUAL, "printed base + all parameters of the blocks"),
    (7, "AB", "FLOPS", "140.5M", 140_467_368, EQUAL, "mac+norm"),
    (
        *(7, "AB-Plus", "Params", "6.70M", 6_700_848, EQUAL),
        "printed base + all parameters of the blocks",
    ),
    (7, "AB-Plus", "FLOPS", "145.3M", 145_344_528, EQUAL, "mac+norm"),
    (8, "ResNeXt-101", "Params", "44.18M", 44_177_704, EQUAL, "all parameters"),
    (8, "ResNeXt-101", "FLOPS", "7.99G", 7_991_221_248, EQUAL, "mac+norm"),
    (8, "SE", "Params", "48.96M", 48_955_416, EQUAL, "all parameters"),
    (8, "SE", "FLOPS", "8.00G", 7_995_964_416, EQUAL, "mac+norm"),
    (8, "GE-theta+", "Params", "57.92M", 57_919_256, EQUAL, "all parameters"),
    (8, "GE-theta+", "FLOPS", "8.02G", 8_004_895_744, DIFFERENT, "mac+norm"),
    (8, "GE-theta+ with AB", "Params", "53.23M", 53_239_080, TRUNCATED, "all parameters"),
    (8, "GE-theta+ with AB", "FLOPS", "8.00G", 8_000_185_088, EQUAL, "mac+norm"),
    (10, "ResNet-56", "Depth", "0", 0, EQUAL, "layers of a block"),
    (10, "SE", "Depth", "2", 2, EQUAL, "layers of a block"),
    (10, "AB", "Depth", "1", 1, EQUAL, "layers of a block"),
    (10, "AB-Plus", "Depth", "1", 1, EQUAL, "layers of a block"),
    (15, "ResNet-164", "Params", "1.734M", 1_734_452, EQUAL, "all parameters"),
]
# printed parameters, printed MACs, weights of the blocks, verdict on the MACs; sum C, sum C^2
C, C2 = 8_064, 1_548_288
TABLE_15 = {
    "AB": ("1.758M", "246.59M", C, TRUNCATED),
    "G = 16": ("1.847M", "246.68M", C2 // 16, TRUNCATED),
    "G = 8": ("1.944M", "246.78M", C2 // 8, EQUAL),
    "G = 4": ("2.137M", "246.97M", C2 // 4, TRUNCATED),
    "G = 2": ("2.524M", "247.36M", C2 // 2, EQUAL),
    "AB-Plus": ("3.298M", "248.14M", C2, EQUAL),
}


@pytest.mark.parametrize(("table", "row", "column", "paper", "ours", "result", "how"), NUMBERS)
def test_numbers_of_the_paper(everything, table, row, column, paper, ours, result, how):
    (check,) = find(everything, table, row, column)
    assert (check.paper, check.ours) == (paper, f"{ours:,}")
    assert (check.verdict, check.convention) == (result, how)
    assert bool(check.note) == (result == DIFFERENT)


@pytest.mark.parametrize("row", TABLE_15)
def test_table_15_is_the_printed_base_and_the_blocks(everything, row):
    params, flops, weights, result = TABLE_15[row]
    (check,) = find(everything, 15, row, "Params")
    assert (check.paper, check.verdict) == (params, EQUAL)
    assert check.ours == f"{1_734_000 + weights + 2 * C:,}"
    (base,) = find(everything, 15, "ResNet-164", "FLOPS")
    base_macs = int(base.ours.replace(",", ""))
    assert base_macs == pytest.approx(246.588e6, abs=0.001e6)
    assert (base.paper, base.verdict, base.convention) == ("246.58M", TRUNCATED, "mac+bias")
    (check,) = find(everything, 15, row, "FLOPS")
    assert (check.paper, check.verdict) == (flops, result)
    assert check.ours == f"{base_macs + weights:,}"


@pytest.mark.parametrize(
    ("row", "column", "paper", "ours", "results"),
    [
        ("AB", "Extra Params", "C", [256], [EQUAL]),
        ("AB", "Extra FLOPS", "C·B", [256 * 32], [EQUAL]),
        ("AB", "RTM", "4C(1 + B)", [4 * 256 * 33] * 2, [EQUAL] * 2),
        ("AB-Plus", "Extra Params", "C²", [256**2], [EQUAL]),
        ("AB-Plus", "Extra FLOPS", "C²·B", [256**2 * 32], [EQUAL]),
        ("AB-Plus", "RTM", "4C(C + B)", [4 * 256 * 288] * 2, [EQUAL] * 2),
        ("SE", "Extra Params", "2C² / r", [8_192], [EQUAL]),
        ("SE", "Extra FLOPS", "2C²·B / r", [8_192 * 32], [EQUAL]),
        ("SE", "RTM", "8C(C + B) / r", [36_864, 4 * (8_192 + 272 * 32)], [EQUAL, DIFFERENT]),
        ("CBAM", "Extra Params", "> 2C² / r", [8_192 + 98], ["holds"]),
        ("CBAM", "Extra FLOPS", "> 2C²·B / r", [32 * (2 * 8_192 + 98 * 49)], ["holds"]),
        (
            *("CBAM", "RTM", "> 8C(C + B) / r"),
            [4 * (8_290 + 32 * (2 * n + 49)) for n in (16 + 16, 16 + 256)],
            ["holds"] * 2,
        ),
    ],
)
def test_table_1(everything, row, column, paper, ours, results):
    """Shown at C = 256, B = 32: by the paper's outputs, then by the true ones."""
    checks = find(everything, 1, row, column)
    assert [check.paper for check in checks] == [paper] * len(ours)
    assert [check.ours for check in checks] == [f"{n:,} at C = 256, B = 32" for n in ours]
    assert [check.verdict for check in checks] == results
    assert all(("not in the table" in check.note) == (row == "AB-Plus") for check in checks)


def test_the_claim_on_memory_fails_for_large_batches_by_the_papers_formula(everything):
    """Section 5.3: AB has the lowest extra RTM."""
    expected = [
        (1, "the paper's outputs", "AB 120,832", "SE 10,067,328", "holds"),
        (256, "the paper's outputs", "AB 15,526,912", "SE 11,993,088", "fails"),
        (1, "true outputs", "AB 120,832", "SE ", "holds"),
        (256, "true outputs", "AB 15,526,912", "SE 26,492,928", "holds"),
    ]
    claims = [check for check in everything.checks if check.row == "all"]
    for check, (batch, how, ours, rival, result) in zip(claims, expected, strict=True):
        assert (check.column, check.convention) == (f"RTM of ResNet-50, B = {batch}", how)
        assert check.ours.startswith(f"{ours}, ")
        assert rival in check.ours
        assert (check.verdict, check.note) == (
            (result, "") if result == "holds" else (result, "SE has the lowest")
        )


def test_every_printed_number_is_checked_and_counted_in_the_summary(everything):
    printed = sum(
        bool(text) for t in TABLES.values() for r in t.rows for text in (r.params, r.flops, r.depth)
    )
    verdicts = [check.verdict for check in everything.checks]
    assert len([check for check in everything.checks if check.table != 1]) == printed
    assert printed == len(NUMBERS) + 2 * len(TABLE_15) + 1
    summary = everything.summary()
    assert summary == {v: verdicts.count(v) for v in summary}
    assert sum(summary.values()) == len(verdicts)
    assert [check.table for check in everything.checks] == sorted(
        c.table for c in everything.checks
    )
    assert f"{summary[DIFFERENT]} not reproducible" in everything.summary_text()
    assert f"{summary['fails']} fail" in everything.summary_text()
    assert everything.to_dict()["summary"] == summary


def test_a_note_names_the_convention_that_would_give_a_number(everything):
    (check,) = find(everything, 8, "GE-theta+", "FLOPS")
    name = re.match(r"(mac[+\w]*) gives it", check.note)[1]
    with torch.device("meta"):
        size = (3, 224, 224)
        model = ab.create_model("resnext101_32x4d", block="ge_theta_plus", input_size=size)
        assert verdict("8.02G", ab.complexity(model, size, convention=name).macs) != DIFFERENT


# verdicts


@pytest.mark.parametrize(
    ("printed", "ours", "expected"),
    [
        ("25.57M", 25_570_000, EQUAL),
        ("25.57M", 25_565_000, EQUAL),  # half rounds up
        ("25.57M", 25_564_999, DIFFERENT),
        ("25.57M", 25_574_999, EQUAL),
        ("25.57M", 25_575_000, TRUNCATED),
        ("25.57M", 25_579_999, TRUNCATED),
        ("25.57M", 25_580_000, DIFFERENT),
        ("25.57M", 25_560_000, DIFFERENT),
        ("25.57M", 25_557, DIFFERENT),
        ("3.858G", 3_857_500_000, EQUAL),
        ("3.858G", 3_858_999_999, TRUNCATED),
        ("3.858G", 3_857_499_999, DIFFERENT),
        ("11.30G", 11_304_999_999, EQUAL),
        ("11.30G", 11_310_000_000, DIFFERENT),  # the zero is a printed digit
        ("140.0M", 140_049_999, EQUAL),
        ("140.0M", 140_099_999, TRUNCATED),
        ("12K", 12_499, EQUAL),
        ("12K", 12_999, TRUNCATED),
        ("12K", 13_000, DIFFERENT),
        ("7", 7, EQUAL),
        ("7", 8, DIFFERENT),
        ("0", 0, EQUAL),
    ],
)
def test_verdicts(printed, ours, expected):
    assert verdict(printed, ours) == expected


def test_verdicts_come_from_the_network(monkeypatch):
    """With the stride in the 3x3 it has 4.089G."""
    rows = tuple(replace(row, model="resnet50") for row in TABLES[2].rows if row.block == "none")
    monkeypatch.setitem(TABLES, 2, replace(TABLES[2], rows=rows))
    found = counts([2])
    (params,), (flops,) = (find(found, 2, "ResNet-50", column) for column in ("Params", "FLOPS"))
    assert (params.verdict, flops.verdict) == (EQUAL, DIFFERENT)
    assert flops.ours.startswith("4,089,")
    assert flops.note == "no convention gives it"


def test_verdicts_come_from_what_is_printed(monkeypatch):
    base = replace(TABLES[10].rows[1], depth="1")
    monkeypatch.setitem(TABLES, 10, replace(TABLES[10], rows=(base,)))
    assert [check.verdict for check in counts([10]).checks] == [DIFFERENT]


def test_tables_are_chosen_once_each_and_in_order():
    assert {check.table for check in counts([4]).checks} == {4}
    assert [check.table for check in counts([10, 3, 10]).checks] == [3] * 4 + [10] * 4


@pytest.mark.parametrize("tables", [[9], [4, 5], [0]])
def test_a_table_without_counts_is_refused(tables):
    with pytest.raises(ValueError, match=f"table {tables[-1]} prints no counts") as caught:
        counts(tables)
    assert "\n" not in str(caught.value)


# commands


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("tables", ["4", "3,4"])
def test_reproduce_as_json(tables, capsys):
    code, out, err = run(capsys, "reproduce", "counts", "--tables", tables, "--json")
    assert code == 0, err
    assert json.loads(out) == counts([int(n) for n in tables.split(",")]).to_dict()


def test_reproduce_shows_tables_and_writes_a_page(capsys, tmp_path):
    page = tmp_path / "page.html"
    words = ("reproduce", "counts", "--tables", "2,4,8", "--output", page)
    code, out, err = run(capsys, *words)
    assert code == 0, err
    found, html = counts([2, 4, 8]), page.read_text(encoding="utf-8")
    assert str(page) in out
    for text in (out, html):
        assert found.summary_text() in " ".join(text.split())
        assert "Table 4: WRN-18-2, ImageNet" in text
        for check in found.checks:
            assert check.ours in text
        assert text.count(TRUNCATED) >= 3
        assert DIFFERENT in text
    assert "<script" not in html
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert "https:" not in html


def test_complexity_as_json(capsys):
    words = ("complexity", "--model", "resnet20", "--block", "ab,se", "--json")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["block"] for row in rows] == ["none", "ab", "se"]
    for row in rows:
        cost = ab.complexity(ab.create_model("resnet20", block=row.pop("block")))
        assert row == json.loads(json.dumps(cost.to_dict()))
    assert rows[0]["depth"] == 0
    assert rows[1]["block_weights"] == 3 * (16 + 32 + 64)
    assert rows[2]["base"]["parameters"] == rows[0]["parameters"]


def test_complexity_shows_networks_and_blocks(capsys):
    words = ("complexity", "resnet50v1", "--block", "ab", "--batch-size", "2")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "resnet50v1, 2 images of 3x224x224, convention mac" in out
    assert "25,557,032" in out
    assert "7.716 G" in out
    assert "Each block of ab" in out


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--block", "none", "--convention", "mac+norm"], {"convention": "mac+norm"}),
        (["--block", "none", "--input_size", "1,20,24"], {"input_size": [1, 20, 24]}),
        (["--block", "none", "--batch_size", "3"], {"batch_size": 3}),
    ],
)
def test_options_of_complexity(words, flags, capsys):
    code, out, err = run(capsys, "complexity", "resnet8", *words, "--json")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert {name: row[name] for name in flags} == flags


def test_complexity_builds_blocks_of_one_size_for_the_networks_own(capsys):
    code, out, err = run(capsys, "complexity", "resnet8", "--block", "ge_theta", "--json")
    assert code == 0, err
    weights = 16 * 32**2 + 32 * 16**2 + 64 * 8**2
    assert json.loads(out)["rows"][1]["block_weights"] == weights


def test_complexity_takes_a_recipes_text(capsys):
    text = "gap | dense(groups=4, init=ones) | bn | sigmoid"
    code, out, err = run(capsys, "complexity", "resnet8", "--block", f"{text},ab_g4", "--json")
    assert code == 0, err
    _, first, second = json.loads(out)["rows"]
    assert first["block"] == text
    assert first["macs"] == second["macs"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["reproduce", "nothing"], ["unknown reproduce command 'nothing'", "reproduce --help"]),
        (["reproduce", "counts", "--tables", "9"], ["table 9 prints no counts"]),
        (["reproduce", "counts", "--tables", "x"], ["--tables", "x"]),
        (["reproduce", "counts", "--table", "4"], ["'--table'", "nearest: --tables"]),
        (["complexity"], ["--model NAME"]),
        (["complexity", "resnet8", "--model", "resnet20"], ["resnet8 and resnet20"]),
        (["complexity", "resnet81"], ["unknown model 'resnet81'", "resnet8"]),
        (["complexity", "resnet8", "--block", "abb"], ["unknown block 'abb'", "ab"]),
        (["complexity", "resnet8", "--block", "ab_g3"], ["groups=3"]),
        (["complexity", "resnet8", "--convention", "mac+nrom"], ["'mac+nrom'", "mac+norm"]),
        (["complexity", "resnet8", "--batch_size", "0"], ["batch_size=0"]),
        (["complexity", "resnet8", "--batch_size", "x"], ["--batch_size", "x"]),
        (["complexity", "resnet8", "--input_size", "3,0,8"], ["input_size"]),
        (["complexity", "torchvision/inception_v3", "--input_size", "3,9,9"], ["cannot take"]),
    ],
    ids=lambda value: " ".join(value) if "/" not in value else None,
)
def test_bad_input_is_one_line_and_exit_code_2(words, parts, capsys):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    lines = [line for line in err.strip().splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("accuracy-booster: error: ")
    for part in parts:
        assert part in lines[0]
