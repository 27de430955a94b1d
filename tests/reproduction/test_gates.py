"""Tables of gates: channels zeroed in a trained network, and trained gates made constants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.files import unpack
from accuracy_booster.reproduction import TABLES, Places, Row, Table, plan
from accuracy_booster.reproduction.comparing import compare_table
from accuracy_booster.reproduction.merged_gates import constant_weights
from accuracy_booster.reproduction.own_tables import OWN
from accuracy_booster.reproduction.paper_tables import zeroing
from accuracy_booster.reproduction.performing import perform
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import read_records, write_record
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.specs import CODE_VERSION, Spec, spec_of
from accuracy_booster.reproduction.table import GATES, MERGED, TOP1, After
from accuracy_booster.training.run_directory import Run

CODE = {"version": CODE_VERSION}
MORE = {"epochs": 1, "lr": 0.01}
CONSTANTS = After("ab", merged=True)
ROWS = (
    Row("plain", "resnet8", "none"),
    Row("gated", "resnet8", "ab"),
    Row("plain, more", "resnet8", "none", settings=MORE, after=After("none")),
    Row("merged", "resnet8", "none", settings=MORE, after=CONSTANTS, cell=MERGED[0]),
    Row("merged, more", "resnet8", settings=MORE, after=CONSTANTS, against=("plain, more",)),
)
LUNCH = Table("lunch", "constants", "cifar10", ROWS, references=(), seeds=1)
ZEROING = Table("z", "zeroing", "cifar10", zeroing("resnet8"), references=(), measures=GATES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both tables, made on the digits."""
    folder = tmp_path_factory.mktemp("made")
    places = Places(results=folder / "results", work=folder / "work")
    for spec in plan([LUNCH, ZEROING], "smoke", 1):
        perform(spec, places)
    return places


def of(table: Table, label: str, budget: str = "smoke") -> Spec:
    row = next(row for row in table.rows if row.label == label)
    return spec_of(table, row, budget, 0)


def test_a_run_comes_after_the_one_whose_network_it_takes():
    alone = replace(LUNCH, rows=ROWS[4:])
    parent, merged = plan([alone], "short", 1)
    assert parent == of(LUNCH, "gated", "short") == merged.parent
    assert merged.config.epochs == 1
    assert merged.config.block == "none"
    (first, zeroed) = plan([ZEROING], "short", 1)
    assert first.hash == parent.hash == zeroed.parent.hash
    assert (first.measures, zeroed.measures) == (TOP1, GATES)


def test_what_a_run_goes_on_from_is_part_of_its_hash():
    hashes = {of(LUNCH, row.label, "short").hash for row in ROWS}
    assert len(hashes) == 4  # the two rows of merged gates share a run
    again = Spec.from_json(json.loads(json.dumps(of(LUNCH, "merged").to_json())))
    assert again.hash == of(LUNCH, "merged").hash
    assert again.parent.hash == of(LUNCH, "gated").hash


def test_the_tables_begin_with_the_runs_of_small():
    small = {spec.hash for spec in plan([t for t in OWN if t.name == "small"], "short", 1)}
    for table in OWN:
        if table.name in ("zeroing", "constants"):
            assert plan([table], "short", 1)[0].hash in small


def test_merged_gates_start_a_plain_network(made):
    spec = of(LUNCH, "merged, more")
    path, values = constant_weights(spec, made)
    network = ab.create_model("resnet8", num_classes=10, in_chans=1)
    network.load_state_dict(unpack(path).tensors)
    own = unpack(path).tensors
    gated = Run(made.run(spec.parent)).path / "model.safetensors"
    begun = unpack(gated).tensors
    scaled = own["layer1.0.bn2.weight"] / begun["layer1.0.bn2.weight"]
    assert ((scaled > 0) & (scaled < 1)).all()  # a mean weight
    assert torch.equal(own["layer1.0.bn1.weight"], begun["layer1.0.bn1.weight"])
    assert not torch.equal(own["bn1.running_mean"], begun["bn1.running_mean"])  # re-estimated
    run, config = Run.open(made.run(spec))
    assert config.weights == str(path)
    record = read_records(made.results).found[spec.key]
    assert {name: record.values[name] for name in MERGED} == values
    assert record.values["top1"] == run.info["test"]["top1"]


def test_a_network_that_goes_on_starts_where_the_other_ended(made):
    spec = of(LUNCH, "plain, more")
    _, config = Run.open(made.run(spec))
    assert config.weights == str(made.run(of(LUNCH, "plain")))


def test_start_weights_that_are_cut_off_are_made_anew(made, tmp_path):
    spec = of(LUNCH, "merged")
    path, values = constant_weights(spec, made)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert constant_weights(spec, made) == (path, values)
    assert path.read_bytes() == whole


def test_zeroed_channels_are_as_an_inspection_tells(made):
    spec = of(ZEROING, "lowest 25 %")
    record = read_records(made.results).found[spec.key]
    found = ab.inspect(made.run(spec.parent), percents=(25,))
    cells = {cell.which: cell.outcome.top1 for cell in found.zeroed}
    for which in ("highest", "lowest", "random"):
        assert record.values[f"{which} 25"] == cells[which]
    assert record.values["frozen"] == found.all_frozen.top1
    assert record.values["top1"] == found.top1
    layer = found.gates[found.layer]
    assert record.about["figure_3"]["mean_weights"] == [round(float(w), 4) for w in layer.mean]


def test_rows_of_one_run_are_told_apart(made):
    result = compare_table(ZEROING, "smoke", read_records(made.results))
    record = read_records(made.results).found[of(ZEROING, "all channels").key]
    by_label = {row.row.label: row for row in result.rows}
    for percent in (5, 25):
        row = by_label[f"highest {percent} %"]
        assert row.by_seed == {0: record.values[f"highest {percent}"]}
        whole, control = row.pairs
        assert whole.difference.by_seed[0] == pytest.approx(
            record.values[f"highest {percent}"] - record.values["top1"]
        )
        assert control.reference.label == f"random {percent} %"
    assert len({pair.key for pair in result.pairs}) == len(result.pairs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frozen": 101.0}, "not from 0 to 100"),
        ({"other": 1.0}, "does not hold the accuracy with each change"),
    ],
)
def test_a_result_that_cannot_be_is_left_out(made, tmp_path, change, reason):
    spec = of(ZEROING, "all channels")
    record = read_records(made.results).found[spec.key]
    changed = Record(spec, {**record.values, **change}, about=record.about)
    write_record(tmp_path, changed)
    (told,) = read_records(tmp_path).left_out.values()
    assert reason in told


def test_a_diverged_network_has_no_gates_to_look_at(tmp_path):
    table = replace(ZEROING, settings={"lr": 1e30})
    spec = plan([table], "smoke", 1)[1]
    places = Places(results=Path(tmp_path, "results"), work=Path(tmp_path, "work"))
    perform(spec, places)
    record = read_records(places.results).found[spec.key]
    assert record.diverged
    assert not record.values


def test_the_report_draws_the_weights_of_a_layer(tmp_path, made):
    table = TABLES["zeroing"]
    spec = spec_of(table, table.rows[0], "short", 0)
    values = read_records(made.results).found[of(ZEROING, "all channels").key].values
    figure = {"layer": "layer3.0.bn2", "mean_weights": [0.4, 0.5, 0.7, 0.5]}
    write_record(
        tmp_path / "results", Record(spec, values, about={"code": CODE, "figure_3": figure})
    )
    report = write_report(
        read_records(tmp_path / "results"), tmp_path / "page.md", html=tmp_path / "page.html"
    )
    picture = tmp_path / "weights-zeroing-short.svg"
    assert picture in report.written
    assert picture.read_text().count("<svg") == 1
    text = (tmp_path / "page.md").read_text()
    said = "the mean weights of the 4 channels of layer3.0.bn2 in resnet20 with ab (seed 0)"
    assert f"Figure 3: {said} go from 0.40 to 0.70, with the median 0.50." in text
    assert f"]({picture.name})" in text
    # beside the picture of the differences
    assert (tmp_path / "page.html").read_text().count("<svg") == 2
