"""From rows to runs: their options, hashes and order."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from support.detector_runs import TABLE_9, detector_spec
from support.gate_runs import MERGED_ROWS, MERGING, ZEROING, gates_spec
from support.runs import small

import accuracy_booster as ab
from accuracy_booster.detection import DetectConfig
from accuracy_booster.reproduction import TABLES, Row, Spec, plan
from accuracy_booster.reproduction.budgets import BUDGETS, STANDARD
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.table import AP, GATES, TIME, TOP1


@pytest.mark.parametrize("budget", ["paper", "short"])
def test_each_detector_starts_from_the_network_of_table_2_with_its_block(budget):
    table_2 = {spec.block: spec for spec in plan([TABLES["2"]], budget, 1) if spec.block != "cbam"}
    table_2["none"] = detector_spec("no block", TABLES["2"], budget)
    runs = plan([TABLE_9], budget, 1)
    assert [spec.measures for spec in runs] == [TOP1, AP] * 3
    for parent, detector in zip(runs[::2], runs[1::2], strict=True):
        assert parent.key == detector.parent.key == table_2[detector.block].key
        assert isinstance(detector.config, DetectConfig)
        assert (detector.config.backbone, detector.config.head) == ("resnet50v1", "c4")
        again = Spec.from_json(json.loads(json.dumps(detector.to_json())))
        assert (again.key, again.config, again.name) == (
            *(detector.key, detector.config, detector.name),
        )


def test_the_hash_of_a_detector_is_also_of_what_it_starts_from(monkeypatch):
    row = TABLE_9.rows[-1]

    def hash_of(**more) -> str:
        return spec_of(replace(TABLE_9, **more), row, "short", 0).hash

    first = hash_of()
    assert hash_of(settings={**TABLE_9.settings, "workers": 0}) == first
    assert hash_of(settings={**TABLE_9.settings, "head": "fpn", "anchor_sizes": None}) != first
    changed = {**STANDARD["imagenet"]["short"], "epochs": 17}
    monkeypatch.setitem(STANDARD["imagenet"], "short", changed)
    assert hash_of() != first
    assert len({spec_of(TABLE_9, row, budget, 0).hash for budget in BUDGETS}) == 3


def test_smoke_starts_from_random_weights_on_a_small_data_set():
    for spec in plan([TABLE_9], "smoke", 1):
        assert spec.parent is None
        assert spec.config.data == "coco_tiny"
        assert spec.config.epochs == 1
        assert spec.config.norms == "normal"


def test_a_run_comes_after_the_one_whose_network_it_takes():
    alone = replace(MERGING, rows=MERGED_ROWS[4:])
    parent, merged = plan([alone], "short", 1)
    assert parent == gates_spec(MERGING, "gated", "short") == merged.parent
    assert merged.config.epochs == 1
    assert merged.config.block == "none"
    (first, zeroed) = plan([ZEROING], "short", 1)
    assert first.hash == parent.hash == zeroed.parent.hash
    assert (first.measures, zeroed.measures) == (TOP1, GATES)


def test_what_a_run_starts_from_is_part_of_its_hash():
    hashes = {gates_spec(MERGING, row.label, "short").hash for row in MERGED_ROWS}
    assert len(hashes) == 4  # the two rows of merged gates share a run
    again = Spec.from_json(json.loads(json.dumps(gates_spec(MERGING, "merged").to_json())))
    assert again.hash == gates_spec(MERGING, "merged").hash
    assert again.parent.hash == gates_spec(MERGING, "gated").hash


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
        (data, seed, block)
        for data in ("cifar10", "cifar100")
        for seed in (0, 1)
        for block in ("none", "se", "ab")
    ]
    assert len(plan([first], "short", 5)) == 15


def test_unknown_budgets_and_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match=r"unknown budget 'long'; known: paper, short, smoke"):
        plan([small()], "long")
    for seeds in (0, -1, 1001):
        with pytest.raises(ValueError, match=f"seeds={seeds} must be from 1 to"):
            plan([small()], "short", seeds)


def test_tables_share_runs():
    ids = [(s.hash, s.seed) for s in plan([small("a"), small("b")], "short")]
    assert len(ids) == len(set(ids)) == 6
    shared = {s.hash for s in plan([TABLES["small"]], "short", 1)}
    both = {s.hash for s in plan([TABLES["small"], TABLES["redundancy"]], "short", 1)}
    assert len(both) == len(shared) + 3  # none and ab are there


def test_the_hash_is_of_the_settings_that_change_the_result():
    def hash_of(row: Row, **more) -> str:
        return spec_of(replace(small(), rows=(row,), **more), row, "short", 0).hash

    first = hash_of(Row("x", "resnet8", "ab"))
    assert first == hash_of(Row("y", "resnet8", "gap | dense(groups=C) | bn | sigmoid"))
    assert first == hash_of(Row("x", "resnet8", "ab"), settings={"workers": 2, "compile": "off"})
    others = [
        hash_of(Row("x", "resnet8", "gap | dense(groups=C) | bn(eps=0.1) | sigmoid")),
        hash_of(Row("x", "resnet8", "ab", settings={"gate_weight_decay": 0.0})),
        hash_of(Row("x", "resnet8", "ab"), settings={"epochs": 3}),
        hash_of(Row("x", "resnet8", "ab"), data="cifar100"),
        hash_of(Row("x", "resnet14", "ab")),
    ]
    assert len({first, *others}) == 6


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


def test_tables_from_trained_weights_keep_the_settings_of_random_ones():
    """They name what differs; the preset of trained weights must not reach them."""
    specs = [s for s in plan([TABLES["finetune"]], "paper", 1) if s.config.weights]
    assert specs
    for spec in specs:
        config = spec.config
        assert (config.preset, config.optimizer) == ("cifar_resnet", "sgd")
        assert (config.lr, config.batch_size, config.norm_weight_decay) == (0.01, 128, None)
