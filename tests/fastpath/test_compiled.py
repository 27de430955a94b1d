"""Inference compiled with frozen weights: what the profile shows, and what is refused."""

import contextlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster import cli
from accuracy_booster.fastpath import compiled
from accuracy_booster.fastpath.compiled import Frozen, check, profile

ROOT = Path(ab.__file__).parent.parent
BENCH = "bench resnet8 --blocks se --modes infer --batch-sizes 2 --compile on --rounds 3"
BENCH += " --input_size 3,16,16 --device cpu --json"


class Residual(nn.Module):
    """Two convolutions, the second one's output added to the first one's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])

    def forward(self, x):
        x = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(x)) + x)


@pytest.fixture
def network():
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = Residual()
    for norm in network.norms:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.running_mean)
    return network.eval().to(memory_format=torch.channels_last)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)


def test_it_freezes_and_the_option_of_torch_compile_does_not(network, x):
    run = ab.compile_for_inference(network, x, sums=True)
    assert run.frozen == Frozen(packed=2, plain=0, sums=1)
    torch.testing.assert_close(run(x), network(x).detach(), rtol=1e-4, atol=1e-5)
    assert not run(x).requires_grad
    larger = torch.randn(3, 3, 20, 20).to(memory_format=torch.channels_last)
    assert profile(run, larger) == run.frozen, "another shape is frozen too"
    torch._dynamo.reset()
    option = torch.compile(network, dynamic=False, options={"freezing": True})
    with torch.no_grad():
        found = profile(option, x)
    if found.packed:
        pytest.skip(f"torch {torch.__version__} freezes with the option")
    assert found == Frozen(packed=0, plain=2, sums=0)
    with pytest.raises(ValueError, match="not frozen: none of 2 convolutions has constant weights"):
        check(found)


def test_what_is_not_frozen_is_refused(network, x, monkeypatch):
    monkeypatch.setattr(compiled, "_freezing", contextlib.nullcontext)
    with pytest.raises(ValueError, match=r"not frozen: none of 2 .*a ratio to it would flatter"):
        ab.compile_for_inference(network, x)
    check(Frozen(packed=2, plain=1, sums=1), sums=True)  # one that nobody can freeze
    check(Frozen(packed=2, plain=0, sums=0))
    with pytest.raises(ValueError, match="convolution and residual sum stay apart: none of 2"):
        check(Frozen(packed=2, plain=0, sums=0), sums=True)


def test_what_cannot_be_compiled_is_refused(network, x):
    with pytest.raises(ValueError, match=r"training mode; call network\.eval\(\)"):
        ab.compile_for_inference(network.train(), x)
    with pytest.raises(ValueError, match="compiled already"):
        ab.compile_for_inference(torch.compile(network.eval(), backend="eager"), x)
    with pytest.raises(ValueError, match="example"):
        ab.compile_for_inference(network)


def test_bench_freezes_the_network_without_a_block_and_with_one_alike(capsys):
    torch._dynamo.reset()
    assert cli.main([*BENCH.split(), "--paths", "ours"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    frozen = {r["block"]: r["frozen"] for r in rows}
    # 7 convolutions; between the branch's last one and the sum there is a gate
    assert frozen == {
        "none": {"packed": 7, "plain": 0, "sums": 3},
        "se": {"packed": 7, "plain": 0, "sums": 0},
    }


def test_bench_prints_no_ratio_to_an_unfrozen_network(capsys, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_freezing", contextlib.nullcontext)
    assert cli.main(BENCH.split()) == 2
    out, err = capsys.readouterr()
    assert "ratio" not in out
    assert "not frozen: none of 7 convolutions" in err
    assert "--compile off" in err
    assert err.count("\n") == 1


def test_the_time_for_rounds_is_bounded():
    given = {"modes": ["infer"], "batch_sizes": [1], "compile": [False], "blocks": ["none"]}
    given |= {"input_size": (3, 8, 8), "device": "cpu"}
    assert {r.rounds for r in ab.bench("resnet8", rounds=50, seconds=1e-9, **given).rows} == {3}
    assert {r.rounds for r in ab.bench("resnet8", rounds=2, seconds=60, **given).rows} == {2}
    with pytest.raises(ValueError, match="seconds=0 must be > 0"):
        ab.bench("resnet8", seconds=0, **given)


@pytest.fixture(scope="module")
def fast_path():
    file = ROOT / "benchmarks" / "fast_path.py"
    if not file.is_file():
        pytest.skip("the repository's benchmarks are not here")
    spec = importlib.util.spec_from_file_location("benchmark_fast_path", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(block, path, ratio, **changes):
    return {
        **{"mode": "infer", "batch_size": 1, "compile": True, "block": block, "path": path},
        **{"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "rounds": 9, "fast": 16},
        **{"places": 16, "paper": None, "memory_ratio": 1.0},
        "frozen": {"packed": 53, "plain": 0, "sums": 16},
        **changes,
    }


RESULT = {
    **{"model": "resnet50", "input_size": [3, 224, 224], "device": "A processor", "threads": 2},
    **{"torch": "2.15.0", "rounds": 15},
    "rows": [row("none", "naive", 1.0), row("ab", "naive", 1.2), row("ab", "ours", 1.04)],
}


def test_the_benchmark_keeps_what_it_has_and_mixes_no_machines(fast_path):
    new = {**RESULT, "rows": [row("ab", "ours", 1.05), row("ab", "ours", 1.03, batch_size=16)]}
    both = fast_path.merged(RESULT, new)
    found = {(r["block"], r["path"], r["batch_size"]): r["ratio"] for r in both["rows"]}
    assert found == {
        ("none", "naive", 1): 1.0,
        ("ab", "naive", 1): 1.2,
        ("ab", "ours", 1): 1.05,
        ("ab", "ours", 16): 1.03,
    }
    other = {**new, "device": "another"}
    assert fast_path.merged(RESULT, other) == other


def test_the_documents_get_the_figures_from_the_json(fast_path):
    text = "a\n<!-- measured x -->\nold\n<!-- end -->\nb\n<!-- measured x:line -->\n<!-- end -->\n"
    text = text.replace("-->\n<!-- end", "-->\nold\n<!-- end")
    assert fast_path.filled(text, {}) == text
    new = fast_path.filled(text, {"x": RESULT})
    assert "| ab | 1.200 (1.190 to 1.210) | 1.040 (1.030 to 1.050) | 16 of 16 |" in new
    assert "A processor, 2 threads, torch 2.15.0, 9 rounds" in new
    assert "53 convolutions are frozen; 16 of them add a shortcut." in new
    assert " takes 1.04 times at batch 1\n" in new
    assert "\nold\n" not in new
    assert fast_path.filled(new, {"x": RESULT}) == new


def test_the_documents_hold_what_the_json_holds(fast_path):
    done = json.loads((ROOT / "benchmarks" / "fast_path.json").read_text())
    for document in fast_path.DOCUMENTS:
        text = document.read_text()
        assert fast_path.MARKS.search(text), f"{document.name} has no place for figures"
        assert fast_path.filled(text, done) == text, "run benchmarks/fast_path.py --write"
