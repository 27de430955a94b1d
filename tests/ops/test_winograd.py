"""What the convolution kernel keeps, and what it does with infinite numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import BY_POSITIONS, Schedule

OP = torch.ops.accuracy_booster.packed_conv
reason = packed_conv.why_not(nn.Conv2d(1, 1, 1))
needs_kernel = pytest.mark.skipif(reason is not None, reason=f"no kernel here: {reason}")

GROWTH = """
import resource, torch
from torch import nn
from accuracy_booster.ops import packed_conv
from accuracy_booster.ops.packed_conv import Schedule

torch.set_num_threads(1)
conv = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
assert packed_conv.why_not(conv) is None
op = torch.ops.accuracy_booster.packed_conv
weights = packed_conv.pack(conv.weight, 1, 2)

def run(side):
    x = torch.ones(1, 8, side, side).contiguous(memory_format=torch.channels_last)
    rest = conv.kernel_size, conv.stride, conv.padding, conv.dilation, 1
    op(x, weights, None, 8, *rest, *[None] * 6, Schedule(1 << 30, 4, 2).as_list())

run(16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(1024)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@needs_kernel
def test_a_large_map_takes_little_memory_beside_itself():
    """Input and output take 64 MiB, and the points of all tiles would take 0.8 GiB."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 160


@pytest.mark.parametrize("outputs", [2, 4])
@needs_kernel
def test_blocks_of_a_large_map_compute_the_convolution(outputs):
    """One block cannot hold the tiles of this map."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 3, 353, 351, generator=generator)
    schedule = Schedule(1 << 30, 4, outputs).as_list()
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, 1
    packed = packed_conv.pack(conv.weight, 1, outputs)
    found = OP(x, packed, conv.bias, 5, *geometry, *[None] * 6, schedule)
    truth = conv.double()(x.double())
    assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()


@needs_kernel
def test_a_shut_gate_does_not_hide_an_infinite_number():
    x = torch.ones(1, 1, 2, 2)
    x[0, 0, 0, 0] = torch.inf
    packed = packed_conv.pack(torch.ones(1, 1, 1, 1), 1)
    geometry = (1, 1), (1, 1), (0, 0), (1, 1), 1
    gate = torch.tensor([[-1.0], [0.0], [1.0]])  # sigmoid(-infinity) = 0
    given = x, packed, None, 1, *geometry, None, gate, None, None, 0.0, None
    found = OP(*given, BY_POSITIONS.as_list())
    torch.testing.assert_close(
        found, packed_conv.reference(*given, BY_POSITIONS.as_list()), equal_nan=True
    )
    assert found[0, 0, 0, 0].isnan()
