"""Tables as declarations: what the paper prints, the runs they come to, and their order."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.data.images import TensorImages
from accuracy_booster.reproduction import TABLES, Places, Row, Spec, Table, find_tables, plan
from accuracy_booster.reproduction.budgets import BUDGETS
from accuracy_booster.reproduction.datasets import digest
from accuracy_booster.reproduction.own_tables import OWN
from accuracy_booster.reproduction.paper_tables import PAPER
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.table import TIME, TOP1

ROWS = ("none", "se", "ab")


def small(name: str = "t", **more) -> Table:
    rows = tuple(Row(block, "resnet8", block) for block in ROWS)
    return replace(Table(name, "small networks", "cifar10", rows, seeds=2), **more)


# --- the paper


def numbers_of(shared, table: int) -> list[list[str]]:
    """The cells of a table of the paper, from its text."""
    text = (shared / "paper" / "accuracy_booster.md").read_text()
    part = text[text.index(f"\nTable {table}. ") :]
    lines = part.split("\n\n")[1].splitlines()[1:]
    return [re.sub(r"</?b>|\*\*", "", line).split("\t") for line in lines]


@pytest.mark.parametrize(
    ("name", "column", "is_error"),
    [
        *((table, 1, True) for table in (2, 4, 7, 8)),
        *((table, 1, False) for table in (10, 11, 12, 13, 14, 15)),
        (3, 2, False),
    ],
)
def test_printed_numbers_are_the_papers(shared, name, column, is_error):
    printed = [float(cells[column]) for cells in numbers_of(shared, name)]
    wanted = sorted(round(100 - p, 2) if is_error else p for p in printed)
    table = TABLES[str(name)]
    rows = list(table.rows)
    if name == 12:  # its reference rows are Table 11's
        rows = [row for row in rows if row.block not in ("none", "ab")]
    assert sorted(row.printed for row in rows) == wanted


@pytest.mark.parametrize("name", [2, 4, 7, 8])
def test_printed_top5_is_the_papers(shared, name):
    wanted = sorted(round(100 - float(cells[2]), 2) for cells in numbers_of(shared, name))
    assert sorted(row.printed_top5 for row in TABLES[str(name)].rows) == wanted


@pytest.mark.parametrize("name", [5, 6])
def test_printed_errors_of_cifar_are_the_papers(shared, name):
    models = ("resnet56", "resnet164", "wrn22_10")
    found = {(row.model, row.block): row.printed for row in TABLES[str(name)].rows}
    for model, cells in zip(models, numbers_of(shared, name), strict=True):
        for block, error in zip(("none", "se", "ab", "ab_plus"), cells[1:], strict=True):
            assert found.pop((model, block)) == round(100 - float(error), 2)
    assert not found


def test_the_loss_without_bn_is_the_papers(shared):
    text = (shared / "paper" / "accuracy_booster.md").read_text()
    assert "we observe 0.3%, 0.2%, and 0.2% reduction in the accuracy reported in Table 6" in text
    rows = TABLES["6.1"].rows
    printed = {(row.model, row.block): row.printed for row in rows}
    of_6 = {row.model: row.printed for row in TABLES["6"].rows if row.block == "ab"}
    for model, loss in (("resnet56", 0.3), ("resnet164", 0.2), ("wrn22_10", 0.2)):
        assert printed[model, "ab"] == of_6[model]
        assert printed[model, "ab"] - printed[model, "ab_nobn"] == pytest.approx(loss)


def test_own_tables_show_what_the_paper_prints_for_another_network():
    of_56 = {r.block: r.printed for n in ("10", "11", "12", "14") for r in TABLES[n].rows}
    of_56["ab_nobn"] = next(r.printed for r in TABLES["6.1"].rows if r.block == "ab_nobn")
    for table in (table for table in OWN if table.measures == TOP1):
        printed = {row.block: row.printed for row in table.rows if row.printed is not None}
        assert printed.items() <= of_56.items()
        assert bool(printed) == (table.printed_for == "ResNet-56")


@pytest.mark.parametrize("name", ["16", "zeroing"])
def test_zeroed_channels_are_the_papers(shared, name):
    rows = {row.label: row for row in TABLES[name].rows}
    printed = {label: row.printed for label, row in rows.items() if row.printed is not None}
    for percent, highest, lowest in numbers_of(shared, 16):
        if percent.startswith("0"):
            assert float(highest) == float(lowest) == printed.pop("all channels")
            continue
        assert printed.pop(f"highest {percent} %") == float(highest)
        assert printed.pop(f"lowest {percent} %") == float(lowest)
        control = [rows["all channels"], rows[f"random {percent} %"]]
        assert TABLES[name].references_of(rows[f"lowest {percent} %"]) == control
    assert not printed


# --- runs


@pytest.mark.parametrize("table", [t for t in TABLES.values() if t.rows], ids=lambda t: t.name)
def test_every_row_is_a_network_and_a_configuration(table):
    labels = [(row.model, row.label) for row in table.rows]
    assert len(set(labels)) == len(labels)
    for row in table.rows:
        assert row.model in ab.list_models()
        if table.measures == TOP1 and row.block != "none":
            for budget in BUDGETS:
                assert spec_of(table, row, budget, 0).config.block == row.block
            assert has_parameters(row.model, row.block, table.data[:5]) or row.block == "design_e"


@cache
def has_parameters(model: str, block: str, data: str) -> bool:
    """Whether a block adds parameters to a network, which is built without allocating weights."""
    size = (3, 32, 32) if data.startswith("cifar") else (3, 224, 224)
    with torch.device("meta"):
        network = ab.create_model(model, block=block, input_size=size)
    return any(True for _ in ab.added_parameters(network))


def test_runs_come_seed_after_seed_and_table_after_table():
    first, second = small("a"), small("b", data="cifar100")
    order = [(s.options["data"], s.seed, s.block) for s in plan([first, second], "short")]
    assert order == [
        (data, seed, block) for data in ("cifar10", "cifar100") for seed in (0, 1) for block in ROWS
    ]
    assert len(list(plan([first], "short", 5))) == 15


def test_tables_share_runs():
    ids = [(s.hash, s.seed) for s in plan([small("a"), small("b")], "short")]
    assert len(ids) == len(set(ids)) == 6
    shared = {s.hash for s in plan([TABLES["small"]], "short", 1)}
    both = {s.hash for s in plan([TABLES["small"], TABLES["redundancy"]], "short", 1)}
    assert len(both) == len(shared) + 3  # none and ab are there


def test_the_hash_is_of_what_is_trained():
    def hash_of(row: Row, **more) -> str:
        return spec_of(replace(small(), rows=(row,), **more), row, "short", 0).hash

    plain = hash_of(Row("x", "resnet8", "ab"))
    assert plain == hash_of(Row("y", "resnet8", "gap | dense(groups=C) | bn | sigmoid"))
    assert plain == hash_of(Row("x", "resnet8", "ab"), settings={"workers": 2, "compile": "off"})
    others = [
        hash_of(Row("x", "resnet8", "gap | dense(groups=C) | bn(eps=0.1) | sigmoid")),
        hash_of(Row("x", "resnet8", "ab", settings={"gate_weight_decay": 0.0})),
        hash_of(Row("x", "resnet8", "ab"), settings={"epochs": 3}),
        hash_of(Row("x", "resnet8", "ab"), data="cifar100"),
        hash_of(Row("x", "resnet14", "ab")),
    ]
    assert len({plain, *others}) == 6


def test_the_seed_is_not_in_the_hash_and_a_spec_comes_back_from_json():
    for table in (TABLES["finetune"], TABLES["3"]):
        specs = list(plan([table], "short", 2))
        assert len({s.hash for s in specs}) * 2 == len(specs)
        for spec in specs:
            again = Spec.from_json(spec.to_json())
            assert (again.hash, again.name, again.seed) == (spec.hash, spec.name, spec.seed)


def test_a_table_of_times_is_one_run_in_which_all_take_turns():
    (spec,) = plan([TABLES["3"]], "paper", 1)
    assert spec.measures == TIME
    assert spec.options["blocks"] == ("none", "se", "ab", "ab_plus")
    assert spec.options["batch_size"] == 256


def test_budgets_differ_in_their_schedule_alone():
    table = TABLES["10"]
    paper, short, smoke = (spec_of(table, table.rows[2], b, 0).config for b in BUDGETS)
    assert paper.epochs == 200
    assert paper.schedule == "step"
    differing = {n for n in vars(paper) if getattr(paper, n) != getattr(short, n)}
    assert differing == {"epochs", "schedule"}
    assert smoke.data == "digits"
    assert smoke.epochs == 1


def test_references_are_those_of_the_same_network():
    labels = {
        row.label: [other.label for other in TABLES["5"].references_of(row)]
        for row in TABLES["5"].rows[:4]
    }
    both = ["no block", "SE"]
    assert labels == {"no block": [], "SE": ["no block"], "AB": both, "AB-Plus": both}
    table = TABLES["finetune"]
    frozen = next(row for row in table.rows if row.settings)
    assert [row.label for row in table.references_of(frozen)] == ["no block"]


def test_what_is_wrong_is_one_line_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"unknown table 'finetun'; nearest: finetune"):
        find_tables(["finetun"])
    assert [t.name for t in find_tables(["Table 6", "small", "6"])] == ["6", "small"]
    with pytest.raises(ValueError, match=r"unknown budget 'long'; known: paper, short, smoke"):
        list(plan([small()], "long"))
    for seeds in (0, -1, 1001):
        with pytest.raises(ValueError, match=f"seeds={seeds} must be from 1 to"):
            list(plan([small()], "short", seeds))
    with pytest.raises(ValueError, match=r"imagenet is not at hand .*train/ and val/"):
        Places().data_of("imagenet")
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(ValueError, match=r"imagenet is not at hand"):  # an empty folder is none
        Places(data=tmp_path).data_of("imagenet")
    assert Places(data=tmp_path).data_of("digits") == {"data": "digits", "data_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="there is no folder"):
        Places(data=tmp_path / "nowhere").data_of("cifar10")


def test_a_folder_of_other_images_is_no_cifar(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    with pytest.raises(ValueError, match=r"2 classes, 8 training and 4 test images, and cifar10"):
        Places(data=tmp_path).data_of("cifar10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_real_cifar_is_known_and_another_is_not(shared, name, tmp_path):
    assert Places(data=shared / "data").data_of(name) == {"data": str(shared / "data" / name)}
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    (tmp_path / name).symlink_to(shared / "data" / other)
    with pytest.raises(ValueError, match=f"{name} is not at hand"):
        Places(data=tmp_path).data_of(name)


def test_the_digest_is_of_images_and_labels_whatever_their_order():
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    first = digest(TensorImages(images, labels))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert digest(TensorImages(images[order], labels[order])) == first
    assert digest(TensorImages(images, labels.flip(0))) != first
    images[2, 0, 0, 0] ^= 1
    assert digest(TensorImages(images, labels)) != first


def test_cifar_that_cannot_be_downloaded_is_told_once(tmp_path, monkeypatch):
    from torchvision import datasets

    tried = []

    def refuse(*_, **options):
        tried.append(options)
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "CIFAR100", refuse)
    places = Places(data=tmp_path)
    for spec in plan([small(data="cifar100")], "short"):
        told = places.missing_for(spec)
        assert "cifar100 is not at hand" in told
        assert "Parquet" in told
        assert "--data-dir" in told
    assert len(tried) <= 2  # once as it is there, once to download it


def test_weights_are_the_public_file_or_refused(tmp_path):
    spec = plan([TABLES["finetune"]], "short", 1)[0]
    assert "not at hand" in Places().missing_for(spec)
    (tmp_path / "resnet20_cifar10.th").write_bytes(b"another file")
    assert "is not the public file" in Places(weights=tmp_path).missing_for(spec)


def test_what_the_paper_compares_is_all_here():
    assert [t.name for t in PAPER] == [
        *("2", "3", "4", "5", "6", "6.1", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16")
    ]
