"""What an operator computes inside counts: the same on the CPU and without memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accuracy_booster.analysis.counter import OperationCounter

pytestmark = pytest.mark.filterwarnings("ignore")


class Of(nn.Module):
    """`work(layer, x)` as a network."""

    def __init__(self, layer: nn.Module, work):
        super().__init__()
        self.layer, self.work = layer, work

    def forward(self, x):
        return self.work(self.layer, x)


def attention(layer, x):
    return layer(x, x, x)[0]


def products(layer, x):
    return F.scaled_dot_product_attention(x, x, x)


def causal(layer, x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def masked(layer, x):
    return F.scaled_dot_product_attention(x, x, x, torch.ones(9, 9, device=x.device))


def run(layer, x):
    return layer(x)


# batch first: 49 tokens of 64 in 1 sample; else 49 samples of 1 token
PROJECTIONS = 4 * 49 * 64 * 64
ENCODER = 2 * (4 * 9 * 32 * 32 + 2 * 9 * 9 * 32 + 2 * 9 * 32 * 48)
# make, work, input, multiply-adds by hand
CASES = {
    "attention": (
        *(lambda: nn.MultiheadAttention(64, 4), attention, (1, 49, 64)),
        PROJECTIONS + 49 * 2 * 64,
    ),
    "attention, batch first": (
        *(lambda: nn.MultiheadAttention(64, 4, batch_first=True), attention, (1, 49, 64)),
        PROJECTIONS + 2 * 49 * 49 * 64,
    ),
    "attention without weights": (
        lambda: nn.MultiheadAttention(64, 4, batch_first=True),
        lambda layer, x: layer(x, x, x, need_weights=False)[0],
        (1, 49, 64),
        PROJECTIONS + 2 * 49 * 49 * 64,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True),
        *(run, (2, 9, 32), ENCODER),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 3, enable_nested_tensor=False
        ),
        *(run, (2, 9, 32), 3 * ENCODER),
    ),
    "scaled products": (nn.Identity, products, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "causal products": (nn.Identity, causal, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "masked products": (nn.Identity, masked, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "LSTM": (lambda: nn.LSTM(16, 8), run, (5, 2, 16), 5 * 2 * 4 * 8 * (16 + 8)),
    "LSTM both ways": (
        lambda: nn.LSTM(16, 8, 2, bidirectional=True, batch_first=True),
        *(run, (2, 5, 16), 5 * 2 * 2 * 4 * 8 * (16 + 8 + 16 + 8)),
    ),
    "LSTM with projection": (
        lambda: nn.LSTM(16, 8, proj_size=4),
        *(run, (5, 2, 16), 5 * 2 * (4 * 8 * (16 + 4) + 8 * 4)),
    ),
    "GRU": (lambda: nn.GRU(16, 8), run, (5, 2, 16), 5 * 2 * 3 * 8 * (16 + 8)),
    "RNN": (lambda: nn.RNN(16, 8), run, (5, 2, 16), 5 * 2 * 8 * (16 + 8)),
    "cell": (lambda: nn.LSTMCell(16, 8), run, (2, 16), 2 * 4 * 8 * (16 + 8)),
    "matrix and vector": (nn.Identity, lambda layer, x: x @ x[0], (9, 16), 9 * 16),
    "two vectors": (nn.Identity, lambda layer, x: x[0] @ x[1], (9, 16), 16),
    "a sum and a vector": (
        *(nn.Identity, lambda layer, x: torch.addmv(x[:, 0], x, x[0]), (9, 16), 9 * 16),
    ),
    "products summed": (
        nn.Identity,
        lambda layer, x: torch.addbmm(x[0, :, :9], x, x.transpose(1, 2)),
        (2, 9, 16),
        2 * 9 * 9 * 16,
    ),
    "1-D": (lambda: nn.Conv1d(4, 6, 3), run, (2, 4, 7), 2 * 6 * 5 * 4 * 3),
    "3-D": (lambda: nn.Conv3d(4, 6, 3), run, (2, 4, 5, 5, 5), 2 * 6 * 27 * 4 * 27),
}


def counted(make, work, shape, device, training):
    with torch.device(device):
        model, x = Of(make(), work).train(training), torch.ones(shape)
    counter = OperationCounter({})
    with torch.no_grad(), counter:
        model(x)
    assert not counter.uncounted
    return counter.total


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_multiply_adds_are_those_by_hand_on_every_device(case, training):
    make, work, shape, expected = CASES[case]
    for device in ("cpu", "meta"):
        assert counted(make, work, shape, device, training).macs == expected, device


@pytest.mark.parametrize("case", CASES)
def test_everything_counts_the_same_on_both(case):
    make, work, shape, _ = CASES[case]
    cpu, meta = (counted(make, work, shape, device, False) for device in ("cpu", "meta"))
    assert (cpu.flops, cpu.outputs) == (meta.flops, meta.outputs)


@pytest.mark.parametrize("case", ["attention, batch first", "encoder layer", "GRU", "3-D"])
def test_multiply_adds_are_half_of_torchs_count(case):
    make, work, shape, expected = CASES[case]
    with torch.device("meta"):
        model, x = Of(make(), work).train(), torch.ones(shape)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * expected


def test_torchs_own_way_is_put_back():
    before = torch.backends.mha.get_fastpath_enabled()
    layer = nn.LSTM(4, 4)
    counter = OperationCounter({})
    with counter:
        assert not torch.backends.mha.get_fastpath_enabled()
        with pytest.raises(RuntimeError):
            layer(torch.ones(3, 2, 5))
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert torch.backends.mkldnn.enabled
