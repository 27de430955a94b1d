"""What a benchmark runs for one batch: the precision, and that a training step trains."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch

from accuracy_booster.analysis.benchmark_results import Case, Variant
from accuracy_booster.analysis.benchmark_steps import make_network, make_step
from accuracy_booster.ops import bf16_works

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("path", ["naive", "ours"])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("precision", DTYPES)
def test_convolutions_compute_in_the_precision(precision, mode, path):
    if precision == "bf16" and not bf16_works("cpu"):
        pytest.skip("this CPU refuses bfloat16")
    torch.manual_seed(0)
    network, seen = make_network("resnet8", "ab", (3, 16, 16)), []
    weights = [p.clone() for p in network.parameters()]
    network.layer1[0].conv1.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    x = torch.randn(4, 3, 16, 16)
    step = make_step(Case(mode, 4, False, precision), Variant(path, "ab"), network, x)
    # a folded network is a copy, to which hooks are copied
    seen.clear()
    step.run()
    assert set(seen) == {DTYPES[precision]}
    assert x.dtype == torch.float32
    if mode == "train":
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        changed = [
            not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True)
        ]
        assert all(changed)
