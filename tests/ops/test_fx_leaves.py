"""What `torch.fx` records of leaf functions and leaf modules."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.ops.fx_leaves import is_proxy, leaf, leaf_module


@leaf
def halves(x: torch.Tensor, times: int = 1) -> torch.Tensor:
    """Asks for a shape, which a proxy does not have."""
    return x[:, : x.shape[1] // 2] * times if x.shape[1] % 2 == 0 else x


class Doubled(nn.Module):
    @leaf_module(times=2)
    def forward(self, x: torch.Tensor, times: int = 1) -> torch.Tensor:
        if is_proxy(x):
            return x * 5  # as the root of the trace
        return x * times if x.shape[1] else x


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.doubled = Doubled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return halves(self.doubled(x), times=3)


def test_each_is_one_node_and_computes_with_real_shapes():
    graph = torch.fx.symbolic_trace(Network())
    called = [node for node in graph.graph.nodes if node.op.startswith("call")]
    assert [node.op for node in called] == ["call_module", "call_function"]
    assert called[0].target == "doubled"
    assert called[1].target is halves
    for channels in (4, 3):  # both sides of the condition, in one graph
        x = torch.randn(2, channels)
        torch.testing.assert_close(graph(x), halves(x * 2, times=3))


def test_without_a_trace_nothing_is_changed():
    x = torch.randn(2, 4)
    assert torch.equal(Doubled()(x), x)
    assert torch.equal(halves(x), x[:, :2])
    assert halves.__name__ == "halves"


def test_a_module_that_is_the_root_is_traced():
    graph = torch.fx.symbolic_trace(Doubled())
    x = torch.randn(2, 4)
    assert torch.equal(graph(x), x * 5)
