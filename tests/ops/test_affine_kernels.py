"""Triton's kernels against the reference in float64, on a GPU or interpreted on the CPU.

Triton chooses its interpreter when it is first imported, and torch's compiler, which other tests
run, imports it. Without a GPU this file therefore runs itself in a process of its own.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import inspect
import os
import re
import subprocess
import sys
from itertools import product

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.fastpath import fast_path, fuse
from accuracy_booster.ops import affine_reference, backend

if not backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = INTERPRETED or torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
if RUNS:
    from accuracy_booster.ops import affine_kernels as kernels

TESTS = 293  # how many the process of its own has to run

FUNCTIONS = ["moments", "affine", "affine_grads", "input_grad"]
SHAPES = [
    (2, 3, 7, 5),
    (1, 1, 1, 1),
    (3, 70, 1, 1),
    (1, 1, 7, 5),
    (2, 70, 7, 7),
    (1, 5, 1, 9),
    (1, 18, 13, 17),  # channels_last: two blocks of channels, two of space
    (1, 2, 53, 61),  # NCHW: two blocks of space
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
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (2 * x + 1).to(DEVICE, dtype).contiguous(memory_format=layout)


def values(shape, seed: int):
    """[N, C], float32."""
    return feature_map((*shape[:2], 1, 1), seed=seed)[:, :, 0, 0]


def double(arguments):
    return [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]


def compare(name: str, *arguments):
    """Run a kernel, compare all that it gives with the reference in float64, and return it."""
    found = getattr(kernels, name)(*arguments)
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


if not RUNS:

    def test_interpreted_in_a_process_of_its_own():
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
        env = os.environ | {"TRITON_INTERPRET": "1"}
        run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        output = run.stdout + run.stderr
        assert run.returncode == 0, output
        summary = output.strip().splitlines()[-1]
        passed = re.search(r"(\d+) passed", summary)
        assert passed, output
        assert int(passed[1]) >= TESTS, output
        assert "skipped" not in summary, output

    @pytest.mark.parametrize("optional", [True, False])
    @layouts
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_compiles_for_a_gpu(name: str, layout, optional: bool):
        """The interpreter takes more than the compiler does; this needs no GPU."""
        from triton import compile
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from accuracy_booster.ops import affine_kernels

        if "constexprs" not in inspect.signature(ASTSource).parameters:
            pytest.skip("this Triton compiles ahead of time in another way")
        kernel = getattr(affine_kernels, f"_{name}_kernel")
        block_c, block_s, warps = affine_kernels.blocks(
            8, 64, 196, layout is torch.channels_last, name in ("moments", "affine_grads")
        )
        fixed = {"RELU": True, "BLOCK_C": block_c, "BLOCK_S": block_s}
        fixed["stride_c" if layout is torch.channels_last else "stride_s"] = 1
        if not optional:
            left_out = {
                "affine": ["mean", "shift", "residual"],
                "affine_grads": ["out", "mean", "masked"],
                "input_grad": ["grad", "scale"],
            }
            fixed |= dict.fromkeys(left_out.get(name, []))
        maps = {"z", "grad", "residual", "out", "masked"}
        types = dict.fromkeys(["C", "S", "stride_c", "stride_s"], "i32")
        types |= dict.fromkeys(maps, "*bf16") | dict.fromkeys(fixed, "constexpr")
        source = ASTSource(
            kernel,
            {argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
            constexprs={k: v for k, v in fixed.items() if k in kernel.arg_names},
        )
        options = {"num_warps": warps, "enable_fp_fusion": True}
        assert "st.global" in compile(source, GPUTarget("cuda", 90, 32), options).asm["ptx"]


class TestKernels:
    __test__ = RUNS

    @dtypes
    @layouts
    @shapes
    def test_moments(self, shape, layout, dtype):
        compare("moments", feature_map(shape, dtype, layout))

    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize(
        ("space", "layout"),
        [
            ((371,), torch.contiguous_format),
            ((7, 5, 11), torch.contiguous_format),
            ((7, 5, 11), torch.channels_last_3d),
        ],
    )
    def test_one_and_three_dimensions_of_space(self, space, layout, name):
        shape = (2, 18, *space)
        z, grad, out = (feature_map(shape, layout=layout, seed=seed) for seed in (0, 1, 2))
        a, b, c = (values(shape, seed) for seed in (3, 4, 5))
        arguments = {
            "moments": (z,),
            "affine": (z, a, b, c, grad, False),
            "affine_grads": (grad, out, z, a),
            "input_grad": (grad, a, z, b, c, a),
        }[name]
        found = compare(name, *arguments)
        if isinstance(found, torch.Tensor):
            assert found.stride() == z.stride()

    @layouts
    def test_moments_far_from_zero(self, layout):
        generator = torch.Generator().manual_seed(0)
        z = 1000 + torch.randn((2, 18, 59, 61), generator=generator, dtype=torch.float64)
        z = z.float().to(DEVICE).contiguous(memory_format=layout)
        mean, var = kernels.moments(z)
        want_mean, want_var = affine_reference.moments(z.double())
        torch.testing.assert_close(mean.double(), want_mean, rtol=3e-7, atol=0)
        torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)

    @layouts
    def test_moments_of_a_constant(self, layout):
        z = torch.full((2, 18, 59, 61), 3.0, device=DEVICE).contiguous(memory_format=layout)
        mean, var = kernels.moments(z)
        torch.testing.assert_close(mean, torch.full_like(mean, 3.0), rtol=3e-7, atol=0)
        assert (var < 1e-10).all()

    @dtypes
    @layouts
    @shapes
    def test_affine(self, shape, layout, dtype):
        z, residual = (feature_map(shape, dtype, layout, seed) for seed in (0, 1))
        out = compare("affine", z, *(values(shape, seed) for seed in (2, 3, 4)), residual, True)
        assert out.stride() == z.stride()

    @flags("mean", "shift", "residual", "relu")
    @layouts
    def test_terms_of_affine(self, layout, mean, shift, residual, relu):
        shape = (2, 18, 5, 3)
        compare(
            "affine",
            feature_map(shape, layout=layout),
            values(shape, 1) if mean else None,
            values(shape, 2),
            values(shape, 3) if shift else None,
            feature_map(shape, layout=layout, seed=4) if residual else None,
            relu,
        )

    @dtypes
    def test_residual_of_another_type(self, dtype):
        shape = (2, 3, 7, 5)
        for other in {torch.float64, torch.float32, torch.bfloat16} - {dtype}:
            residual = feature_map(shape, other, seed=1)
            z, scale = feature_map(shape, dtype), values(shape, 2)
            compare("affine", z, None, scale, None, residual, True)

    @dtypes
    @layouts
    @shapes
    def test_affine_grads(self, shape, layout, dtype):
        grad, out, z = (feature_map(shape, dtype, layout, seed) for seed in (0, 1, 2))
        found = compare("affine_grads", grad, out.relu(), z, values(shape, 3))
        assert found[0].stride() == z.stride()

    @flags("out", "mean")
    @layouts
    def test_terms_of_affine_grads(self, layout, out, mean):
        shape = (2, 18, 5, 3)
        grad, y, z = (feature_map(shape, layout=layout, seed=seed) for seed in (0, 1, 2))
        mean = values(shape, 3) if mean else None
        found = compare("affine_grads", grad, y.relu() if out else None, z, mean)
        assert (found[0] is grad) == (not out)

    @dtypes
    @layouts
    @shapes
    def test_input_grad(self, shape, layout, dtype):
        grad, z = (feature_map(shape, dtype, layout, seed) for seed in (0, 1))
        scale, mean, slope, offset = (values(shape, seed) for seed in (3, 4, 5, 6))
        found = compare("input_grad", grad, scale, z, mean, slope, offset)
        assert found.stride() == z.stride()

    @flags("grad", "scale")
    @layouts
    def test_terms_of_input_grad(self, layout, grad, scale):
        shape = (2, 18, 5, 3)
        z = feature_map(shape, layout=layout)
        mean, slope, offset = (values(shape, seed) for seed in (1, 2, 3))
        compare(
            "input_grad",
            feature_map(shape, layout=layout, seed=4) if grad else None,
            values(shape, 5) if scale else None,
            *(z, mean, slope, offset),
        )

    @layouts
    @pytest.mark.parametrize("other", LAYOUTS.values(), ids=lambda layout: str(layout)[6:])
    def test_mixed_layouts(self, layout, other):
        shape = (2, 18, 5, 3)
        z, grad = feature_map(shape, layout=layout), feature_map(shape, layout=other, seed=1)
        more = feature_map(shape, seed=2).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        a, b, c, d = (values(shape, seed) for seed in (3, 4, 5, 6))
        out = compare("affine", z, a, b, c, grad, True)
        found = compare("affine_grads", more, out.contiguous(memory_format=other), z, a)
        assert out.stride() == found[0].stride() == z.stride()
        assert compare("input_grad", grad, a, z, b, c, d).stride() == z.stride()

    @layouts
    def test_maps_with_gaps(self, layout):
        wide = feature_map((2, 9, 8, 7), layout=layout)
        one = values((2, 4), 1)
        for z in (wide[:, 2:6], wide[:, :4, ::2, 1:], wide[:, :4, :1, :1], wide[::2, 5:]):
            compare("moments", z)
            compare("affine", z, None, one[: len(z)], None, z, True)
            compare("affine_grads", z, z, z, None)
            a = one[: len(z)]
            compare("input_grad", z, a, z, a, a, a)

    def test_values_that_are_expanded_or_of_another_type(self):
        shape = (3, 5, 2, 3)
        z, per_channel = feature_map(shape), values((1, 5), 1)
        compare("affine", z, per_channel.expand(3, -1), per_channel.double(), None, None, False)
        compare("affine", z, values((5, 3), 1).t(), values(shape, 2).half(), None, None, False)
        one = torch.ones((), device=DEVICE)  # what `sum().backward()` gives
        compare("affine_grads", one.expand(shape), z, z, per_channel.bfloat16())

    @pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 1, 5, 3), (1, 1, 5, 3), (4, 3, 1, 1)])
    @layouts
    def test_layouts_that_sizes_of_one_leave_open(self, shape, layout):
        z = feature_map(shape).to(memory_format=layout)
        a = values(shape, 1)
        assert compare("affine", z, a, a, a, z, False).stride() == z.stride()
        strides = zip(shape, z.stride(), strict=True)
        odd = z.as_strided(shape, [99 if size == 1 else stride for size, stride in strides])
        compare("moments", odd)
        compare("affine", odd, a, a, a, z, False)
        compare("affine_grads", z, odd, odd, a)
        compare("input_grad", odd, a, z, a, a, a)

    # the interpreter warns of 0 * inf, where what is masked meets a value from outside
    @pytest.mark.filterwarnings("error::RuntimeWarning")
    @layouts
    @pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 70, 3, 3), (1, 18, 13, 17)])
    def test_nothing_outside_is_read_or_written(self, shape, layout, monkeypatch):
        frames, width = [], 16384

        def framed(x: torch.Tensor) -> torch.Tensor:
            """x amid infinity."""
            flat = x.new_full([x.numel() + 2 * width], float("inf"))
            inside = flat.as_strided(x.shape, x.stride(), width).copy_(x)
            frames.append((flat, x.numel()))
            return inside

        monkeypatch.setattr(torch, "empty_like", lambda x, dtype=None: framed(x.to(dtype)))
        monkeypatch.setattr(kernels, "_new_nc", lambda z: framed(values(z.shape, 0)))
        grad, z, out, more = (framed(feature_map(shape, layout=layout, seed=i)) for i in range(4))
        a, b, c, d = (framed(values(shape, seed)) for seed in (3, 4, 5, 6))
        compare("moments", z)
        compare("affine", z, a, b, c, more, True)
        compare("affine_grads", grad, out, z, a)
        compare("input_grad", grad, a, z, b, c, d)
        assert len(frames) == 8 + 2 + 1 + 3 + 1
        for flat, size in frames:
            assert flat[:width].isposinf().all()
            assert flat[width + size :].isposinf().all()
            assert flat[width : width + size].isfinite().all()

    @layouts
    def test_nan_goes_where_the_reference_lets_it(self, layout):
        shape = (1, 3, 2, 2)
        z, grad = feature_map(shape, layout=layout), feature_map(shape, layout=layout, seed=1)
        one = torch.ones(1, 3, device=DEVICE)
        nan = torch.tensor([float("nan"), -1.0, 1.0, 0.0], device=DEVICE).view(2, 2)
        z[0, 0] = nan
        out = kernels.affine(z, None, one, None, None, True)
        torch.testing.assert_close(out, z.relu(), equal_nan=True)
        grad[0, 0, 0, 1] = float("nan")  # where the ReLU gave zero
        found = kernels.affine_grads(grad, out, z.nan_to_num(), None)
        expected = affine_reference.affine_grads(grad, out, z.nan_to_num(), None)
        torch.testing.assert_close(found, expected)
        assert found[0][0, 0, 0, 0] == grad[0, 0, 0, 0]
        assert kernels.moments(z)[0].isnan().tolist() == [[True, False, False]]

    @pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, of the interpreter
    def test_half_overflows_as_torch_does(self):
        z = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16, device=DEVICE)
        scale = torch.full((1, 1), 300.0, device=DEVICE)
        assert kernels.affine(z, None, scale, None, None, False).isinf().all()
        assert kernels.affine_grads(z, None, z, None)[1].item() == 4 * 300.0**2

    @pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)])
    def test_empty_maps_launch_nothing(self, shape, monkeypatch):
        monkeypatch.setattr(kernels, "_launch", lambda *_, **__: pytest.fail("launched"))
        z, a = feature_map(shape), torch.ones(shape[:2], device=DEVICE)
        assert [v.shape for v in kernels.moments(z)] == [a.shape, a.shape]
        assert kernels.affine(z, a, a, a, z, True).shape == z.shape
        assert [v.shape for v in kernels.affine_grads(z, z, z, a)] == [z.shape, a.shape, a.shape]
        assert kernels.input_grad(z, a, z, a, a, a).shape == z.shape

    @layouts
    def test_twice_the_same_bits(self, layout):
        shape = (2, 18, 13, 17)
        grad, z, out = (feature_map(shape, layout=layout, seed=seed) for seed in range(3))
        a = values(shape, 3)
        for name, arguments in {
            "moments": [z],
            "affine": [z, a, a, a, out, True],
            "affine_grads": [grad, out, z, a],
            "input_grad": [grad, a, z, a, a, a],
        }.items():
            first, second = (getattr(kernels, name)(*arguments) for _ in range(2))
            torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_blocks(self):
        powers = {2**i for i in range(12)}
        sizes = product([1, 256], [1, 3, 64, 2048], [1, 49, 3136], *[[False, True]] * 2)
        for n, c, area, channels_last, reduces in sizes:
            block_c, block_s, warps = kernels.blocks(n, c, area, channels_last, reduces)
            assert {block_c, block_s, warps} <= powers
            assert block_c * block_s <= kernels.TILE
            assert block_c < 2 * c
            assert block_s < 2 * area
            if channels_last:  # whole sectors of memory
                assert block_c >= min(c, 16)
            else:
                assert block_s >= min(area, kernels.TILE)

    @pytest.mark.filterwarnings("ignore:the batch norm of the gate")  # sees few values
    @pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
    @layouts
    def test_a_fused_network(self, name, layout, monkeypatch):
        calls = dict.fromkeys(FUNCTIONS, 0)

        def counted(name: str, function):
            def call(*arguments):
                calls[name] += 1
                return function(*arguments)

            return call

        for function in FUNCTIONS:
            monkeypatch.setattr(kernels, function, counted(function, getattr(kernels, function)))
        if DEVICE == "cuda":
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        torch.manual_seed(0)
        fused = ab.create_model(name, recipe="ab")
        for module in fused.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.running_var):
                    torch.nn.init.uniform_(tensor, 0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    torch.nn.init.normal_(tensor, std=0.3)
        fused = fused.to(DEVICE, memory_format=layout).train()
        plain = copy.deepcopy(fused).double()
        images = feature_map((4, 3, 8, 8), layout=layout)
        places = fast_path(fuse(fused)).taken
        assert places
        with backend.using("triton"):
            logits = fused(images)
            weight = values(logits.shape, 1)
            (logits * weight).sum().backward()
        norms = places if name == "resnet8" else 0  # in a pre-activation network it is a conv
        affine = places + places - norms  # its gradient is one too, where no moments have it
        assert calls == {
            "moments": norms, "affine": affine, "affine_grads": places, "input_grad": norms,
        }  # fmt: skip
        expected = plain(images.double())
        (expected * weight).sum().backward()
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
        for (key, got), want in zip(fused.named_parameters(), plain.parameters(), strict=True):
            error = 1e-4 * want.grad.abs().max().item() + 1e-5
            torch.testing.assert_close(
                got.grad.double(),
                want.grad,
                rtol=1e-4,
                atol=error,
                msg=lambda m, k=key: f"{k}: {m}",
            )
        state, expected_state = fused.state_dict(), plain.state_dict()
        for key, want in expected_state.items():
            torch.testing.assert_close(state[key].to(want.dtype), want, rtol=1e-4, atol=1e-4)
        with backend.using("triton"), torch.no_grad():
            logits = fused.eval()(images)
        assert calls["affine"] == affine + places
        expected = plain.eval()(images.double())
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
