"""The kernels' numbers against the reference in float64, and whether they compile for a GPU."""

# N batch, C channels, H W space

from __future__ import annotations

import inspect

import pytest
import torch
from support.triton_kernels import (
    DEVICE,
    FUNCTIONS,
    RUNS,
    assert_interpreted_tests_pass,
    compare,
    dtypes,
    feature_map,
    flags,
    layouts,
    shapes,
    values,
)

from accuracy_booster.ops import affine_reference

if RUNS:
    from accuracy_booster.ops import affine_triton


if not RUNS:

    def test_interpreted_in_a_process_of_its_own():
        assert_interpreted_tests_pass(__file__, least=255)

    @pytest.mark.parametrize("optional", [True, False])
    @layouts
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_compiles_for_a_gpu(name: str, layout, optional: bool):
        """The interpreter takes more than the compiler does; this needs no GPU."""
        from triton import compile
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from accuracy_booster.ops import affine_kernels, affine_triton

        if "constexprs" not in inspect.signature(ASTSource).parameters:
            pytest.skip("this Triton compiles ahead of time in another way")
        kernel = getattr(affine_kernels, f"{name}_kernel")
        tile_c, tile_s, warps = affine_triton.tile_shape(
            8, 64, 196, layout is torch.channels_last, name in ("sample_moments", "affine_grads")
        )
        fixed = {"RELU": True, "TILE_C": tile_c, "TILE_S": tile_s}
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
        compare("sample_moments", feature_map(shape, dtype, layout))

    @layouts
    def test_moments_far_from_zero(self, layout):
        generator = torch.Generator().manual_seed(0)
        z = 1000 + torch.randn((2, 18, 59, 61), generator=generator, dtype=torch.float64)
        z = z.float().to(DEVICE).contiguous(memory_format=layout)
        mean, var = affine_triton.sample_moments(z)
        want_mean, want_var = affine_reference.sample_moments(z.double())
        torch.testing.assert_close(mean.double(), want_mean, rtol=3e-7, atol=0)
        torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)

    @layouts
    def test_moments_of_a_constant(self, layout):
        z = torch.full((2, 18, 59, 61), 3.0, device=DEVICE).contiguous(memory_format=layout)
        mean, var = affine_triton.sample_moments(z)
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
        monkeypatch.setattr(
            affine_triton, "_new_sample_values", lambda z: framed(values(z.shape, 0))
        )
        grad, z, out, more = (framed(feature_map(shape, layout=layout, seed=i)) for i in range(4))
        a, b, c, d = (framed(values(shape, seed)) for seed in (3, 4, 5, 6))
        compare("sample_moments", z)
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
        out = affine_triton.affine(z, None, one, None, None, True)
        torch.testing.assert_close(out, z.relu(), equal_nan=True)
        grad[0, 0, 0, 1] = float("nan")  # where the ReLU gave zero
        found = affine_triton.affine_grads(grad, out, z.nan_to_num(), None)
        expected = affine_reference.affine_grads(grad, out, z.nan_to_num(), None)
        torch.testing.assert_close(found, expected)
        assert found[0][0, 0, 0, 0] == grad[0, 0, 0, 0]
        assert affine_triton.sample_moments(z)[0].isnan().tolist() == [[True, False, False]]

    @pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, of the interpreter
    def test_half_overflows_as_torch_does(self):
        z = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16, device=DEVICE)
        scale = torch.full((1, 1), 300.0, device=DEVICE)
        assert affine_triton.affine(z, None, scale, None, None, False).isinf().all()
        assert affine_triton.affine_grads(z, None, z, None)[1].item() == 4 * 300.0**2

    @layouts
    def test_twice_the_same_bits(self, layout):
        shape = (2, 18, 13, 17)
        grad, z, out = (feature_map(shape, layout=layout, seed=seed) for seed in range(3))
        a = values(shape, 3)
        for name, arguments in {
            "sample_moments": [z],
            "affine": [z, a, a, a, out, True],
            "affine_grads": [grad, out, z, a],
            "input_grad": [grad, a, z, a, a, a],
        }.items():
            first, second = (getattr(affine_triton, name)(*arguments) for _ in range(2))
            torch.testing.assert_close(first, second, rtol=0, atol=0)
