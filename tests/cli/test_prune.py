"""The command `prune` writes the program of a smaller network and measures it."""

# N batch, C channels, H W space

from __future__ import annotations

import json

import pytest
import torch
from support.pruned_networks import (
    parameters,
)
from support.strictness import WARNINGS_ARE_ERRORS

import accuracy_booster as ab
from accuracy_booster.inspection.opened_networks import inputs_of
from accuracy_booster.training.opening_to_measure import open_measured

pytestmark = WARNINGS_ARE_ERRORS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with AB on the digits."""
    folder = tmp_path_factory.mktemp("run") / "r"
    ab.train("resnet8", block="ab", epochs=2, device="cpu", output=str(folder), data="digits")
    return folder


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_the_command_writes_a_program(trained, tmp_path, capsys, of):
    from accuracy_booster.cli import main

    file = tmp_path / "small.pt2"
    words = ["prune", str(trained), "--keep", "0.5", "--of", of, "--output", str(file)]
    assert main([*words, "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    whole = open_measured(trained, device="cpu")
    gates = ab.gates(
        whole.network,
        [inputs.args[0] for inputs in inputs_of(open_measured(trained, split="train"))],
    )
    size = whole.data.input_size
    small = ab.prune(whole.network.eval(), 0.5, of=of, gates=gates, example=torch.zeros(1, *size))
    assert told["parameters"] == [parameters(whole.network), parameters(small)]
    counted = [ab.complexity(m, input_size=size).macs for m in (whole.network, small)]
    assert told["macs"] == counted
    assert counted[1] < counted[0]
    program = torch.export.load(file).module()
    hits = {"before": 0, "after": 0}
    for batch in inputs_of(whole):
        x, labels = batch.args[0], batch.labels
        torch.testing.assert_close(program(x), small(x), rtol=1e-4, atol=1e-5)
        hits["before"] += int((whole.network(x).argmax(1) == labels).sum())
        hits["after"] += int((program(x).argmax(1) == labels).sum())
    count = len(whole.loader.dataset)
    assert told["top1"] == pytest.approx([100 * hits[k] / count for k in hits])
    program(torch.zeros(1, *size))
    assert main([*words, "--device", "cpu", "--by", "magnitude"]) == 0
    assert "3 of 3 places are smaller, 56 channels are gone" in capsys.readouterr().out


def test_the_command_tells_what_is_wrong(trained, capsys):
    from accuracy_booster.cli import main

    for words, reason in (
        (["--output", "small.onnx"], "must end in .pt2"),
        (["--by", "gate"], "unknown criterion 'gate'; nearest: gates"),
        (["--keep", "2"], "keep=2.0 must be a share"),
        (["--images", "0"], "--images 0 must be a whole number >= 1"),
    ):
        assert main(["prune", str(trained), "--device", "cpu", *words]) == 2
        assert reason in capsys.readouterr().err
