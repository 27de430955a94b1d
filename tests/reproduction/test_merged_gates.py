"""The weights of a network whose gates were made constants."""

from __future__ import annotations

import torch
from support.gate_runs import MERGING, gates_spec

import accuracy_booster as ab
from accuracy_booster.files import unpack
from accuracy_booster.reproduction.merged_gates import weights_of_merged
from accuracy_booster.reproduction.result_files import read_records
from accuracy_booster.reproduction.table import MERGED
from accuracy_booster.training.run_directory import Run


def test_merged_gates_start_a_network_without_gates(made_gates):
    spec = gates_spec(MERGING, "merged, more")
    path, values = weights_of_merged(spec, made_gates)
    network = ab.create_model("resnet8", num_classes=10, in_chans=1)
    network.load_state_dict(unpack(path).tensors)
    own = unpack(path).tensors
    gated = Run(made_gates.run(spec.parent)).path / "model.safetensors"
    begun = unpack(gated).tensors
    ratio = own["layer1.0.bn2.weight"] / begun["layer1.0.bn2.weight"]
    assert ((ratio > 0) & (ratio < 1)).all()  # the mean weight
    assert torch.equal(own["layer1.0.bn1.weight"], begun["layer1.0.bn1.weight"])
    assert not torch.equal(own["bn1.running_mean"], begun["bn1.running_mean"])  # re-estimated
    run, config = Run.open(made_gates.run(spec))
    assert config.weights == str(path)
    record = read_records(made_gates.results).found[spec.key]
    assert {name: record.values[name] for name in MERGED} == values
    assert record.values["top1"] == run.info["test"]["top1"]


def test_start_weights_that_are_cut_off_are_made_again(made_gates, tmp_path):
    spec = gates_spec(MERGING, "merged")
    path, values = weights_of_merged(spec, made_gates)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert weights_of_merged(spec, made_gates) == (path, values)
    assert path.read_bytes() == whole
