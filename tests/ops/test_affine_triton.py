"""Any memory layout, type and size of the arguments is taken; whole networks run on the kernels."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from support.triton_kernels import (
    DEVICE,
    FUNCTIONS,
    LAYOUTS,
    RUNS,
    assert_interpreted_tests_pass,
    compare,
    dtypes,
    feature_map,
    layouts,
    values,
)

import accuracy_booster as ab
from accuracy_booster.fastpath import fast_path, fuse
from accuracy_booster.ops import backend

if RUNS:
    from accuracy_booster.ops import affine_triton


if not RUNS:

    def test_interpreted_in_a_process_of_its_own():
        assert_interpreted_tests_pass(__file__, least=38)


class TestKernels:
    __test__ = RUNS

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
            "sample_moments": (z,),
            "affine": (z, a, b, c, grad, False),
            "affine_grads": (grad, out, z, a),
            "input_grad": (grad, a, z, b, c, a),
        }[name]
        found = compare(name, *arguments)
        if isinstance(found, torch.Tensor):
            assert found.stride() == z.stride()

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
            compare("sample_moments", z)
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
        compare("sample_moments", odd)
        compare("affine", odd, a, a, a, z, False)
        compare("affine_grads", z, odd, odd, a)
        compare("input_grad", odd, a, z, a, a, a)

    @dtypes
    def test_residual_of_another_type(self, dtype):
        shape = (2, 3, 7, 5)
        for other in {torch.float64, torch.float32, torch.bfloat16} - {dtype}:
            residual = feature_map(shape, other, seed=1)
            z, scale = feature_map(shape, dtype), values(shape, 2)
            compare("affine", z, None, scale, None, residual, True)

    @pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)])
    def test_empty_maps_launch_nothing(self, shape, monkeypatch):
        monkeypatch.setattr(affine_triton, "_launch", lambda *_, **__: pytest.fail("launched"))
        z, a = feature_map(shape), torch.ones(shape[:2], device=DEVICE)
        assert [v.shape for v in affine_triton.sample_moments(z)] == [a.shape, a.shape]
        assert affine_triton.affine(z, a, a, a, z, True).shape == z.shape
        shapes = [v.shape for v in affine_triton.affine_grads(z, z, z, a)]
        assert shapes == [z.shape, a.shape, a.shape]
        assert affine_triton.input_grad(z, a, z, a, a, a).shape == z.shape

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
            monkeypatch.setattr(
                affine_triton, function, counted(function, getattr(affine_triton, function))
            )
        if DEVICE == "cuda":
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        torch.manual_seed(0)
        fused = ab.create_model(name, block="ab")
        for module in fused.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.running_var):
                    torch.nn.init.uniform_(tensor, 0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    torch.nn.init.normal_(tensor, std=0.3)
        fused = fused.to(DEVICE, memory_format=layout).train()
        unfused = copy.deepcopy(fused).double()
        images = feature_map((4, 3, 8, 8), layout=layout)
        sites = fast_path(fuse(fused)).taken
        assert sites
        with backend.using("triton"):
            logits = fused(images)
            weight = values(logits.shape, 1)
            (logits * weight).sum().backward()
        # a pre-activation network has convolutions at its sites: their input's gradient is computed
        # by an affine pass, and that of a norm's input by `input_grad`
        norms = sites if name == "resnet8" else 0
        affine = sites + sites - norms
        assert calls == {
            "sample_moments": norms, "affine": affine, "affine_grads": sites, "input_grad": norms,
        }  # fmt: skip
        expected = unfused(images.double())
        (expected * weight).sum().backward()
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
        for (key, got), want in zip(fused.named_parameters(), unfused.parameters(), strict=True):
            # a gate's linear layer has gradients that the norm after it makes cancel
            error = 1e-4 * want.grad.abs().max().item() + 5e-5
            torch.testing.assert_close(
                got.grad.double(),
                want.grad,
                rtol=1e-4,
                atol=error,
                msg=lambda m, k=key: f"{k}: {m}",
            )
        state, expected_state = fused.state_dict(), unfused.state_dict()
        for key, want in expected_state.items():
            torch.testing.assert_close(state[key].to(want.dtype), want, rtol=1e-4, atol=1e-4)
        with backend.using("triton"), torch.no_grad():
            logits = fused.eval()(images)
        assert calls["affine"] == affine + sites
        expected = unfused.eval()(images.double())
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)

    def test_tile_shapes(self):
        powers = {2**i for i in range(12)}
        sizes = product([1, 256], [1, 3, 64, 2048], [1, 49, 3136], *[[False, True]] * 2)
        for n, c, area, channels_last, reduces in sizes:
            tile_c, tile_s, warps = affine_triton.tile_shape(n, c, area, channels_last, reduces)
            assert {tile_c, tile_s, warps} <= powers
            assert tile_c * tile_s <= affine_triton.TILE_SIZE
            assert tile_c < 2 * c
            assert tile_s < 2 * area
            if channels_last:  # whole sectors of memory
                assert tile_c >= min(c, 16)
            else:
                assert tile_s >= min(area, affine_triton.TILE_SIZE)
