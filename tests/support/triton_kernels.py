"""For tests of Triton's kernels: they run on a GPU, or interpreted on the CPU.

Triton chooses its interpreter when it is first imported, and torch's compiler, which other tests
run, imports it. Without a GPU such a test file therefore runs itself in a process of its own.
"""

# N batch, C channels, H W space

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from accuracy_booster.ops import affine_reference, backend

if not backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = INTERPRETED or torch.cuda.is_available()  # whether kernels run in this process
DEVICE = "cpu" if INTERPRETED else "cuda"
if RUNS:
    from accuracy_booster.ops import affine_triton

FUNCTIONS = ["sample_moments", "affine", "affine_grads", "input_grad"]
SHAPES = [
    (2, 3, 7, 5),
    (1, 1, 1, 1),
    (3, 70, 1, 1),
    (1, 1, 7, 5),
    (2, 70, 7, 7),
    (1, 5, 1, 9),
    (1, 18, 13, 17),  # channels_last: two tiles of channels, two of space
    (1, 2, 53, 61),  # NCHW: two tiles of space
]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# relative errors of storing a value; Triton's interpreter cuts bfloat16 off instead of rounding
ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
dtypes = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: str(dtype).split(".")[1])


def flags(*names: str):
    """Every combination of them."""
    return pytest.mark.parametrize(names, list(product([False, True], repeat=len(names))))


def feature_map(shape, dtype=torch.float32, layout=torch.contiguous_format, seed: int = 0):
    """Normal values of mean 1 and standard deviation 2, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (2 * x + 1).to(DEVICE, dtype).contiguous(memory_format=layout)


def values(shape, seed: int):
    """[N, C], float32."""
    return feature_map((*shape[:2], 1, 1), seed=seed)[:, :, 0, 0]


def double(arguments):
    """The same arguments in float64."""
    return [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]


def compare(name: str, *arguments):
    """Run a kernel, compare all that it gives with the reference in float64, and return it."""
    found = getattr(affine_triton, name)(*arguments)
    expected = getattr(affine_reference, name)(*double(arguments))
    dtype = next(a.dtype for a in arguments if a is not None and a.ndim > 2)
    together = [found] if isinstance(found, torch.Tensor) else found
    for got, want in zip(together, [expected] if together[0] is found else expected, strict=True):
        assert got.shape == want.shape
        assert got.dtype == (dtype if got.ndim > 2 else torch.float32)
        # what cancels in a sum errs by as much as its parts
        error = 2e-6 * want.abs().max().item() * max(1, want[0, 0].numel()) ** 0.5
        torch.testing.assert_close(got.double(), want, rtol=ROUNDING[got.dtype], atol=error + 2e-6)
    return found


def assert_interpreted_tests_pass(file: str | Path, least: int) -> None:
    """Run the tests of a file in a process with Triton's interpreter: at least so many."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", str(file)]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    summary = output.strip().splitlines()[-1]
    passed = re.search(r"(\d+) passed", summary)
    assert passed, output
    assert int(passed[1]) >= least, output
    assert "skipped" not in summary, output
