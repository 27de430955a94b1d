"""A pointwise convolution with the scale in its weights."""

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from accuracy_booster.ops.scaled_conv import scaled_conv, scales_weights


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
def test_a_scale_in_the_weights(layout, bias):
    """Output and all gradients; the map of unscaled outputs is not kept."""
    conv = nn.Conv2d(3, 5, 1, bias=bias).double()
    h = torch.randn(4, 3, 6, 2, dtype=torch.float64).contiguous(memory_format=layout)
    p = torch.rand(4, 5, dtype=torch.float64)
    weight = torch.randn(4, 5, 6, 2, dtype=torch.float64)
    found = []
    kept = []
    for ours in (True, False):
        leaves = [h.clone().requires_grad_(), p.clone().requires_grad_(), *conv.parameters()]

        def pack(tensor, ours=ours):
            if ours and tensor.numel() >= 4 * 5 * 12:
                kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            a, b = leaves[:2]
            y = scaled_conv(a, conv, b) if ours else conv(a) * b[:, :, None, None]
        found.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    torch.testing.assert_close(*found)
    assert found[0][0].is_contiguous(memory_format=layout)
    assert not kept


def test_compiled_it_is_the_same():
    conv = nn.Conv2d(3, 5, 1).double()
    h, p = torch.randn(4, 3, 6, 2).double().requires_grad_(), torch.rand(4, 5).double()
    compiled = torch.compile(lambda h, p: scaled_conv(h, conv, p), backend="aot_eager")
    expected, found = scaled_conv(h, conv, p), compiled(h, p)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(y.square().sum(), [h, conv.weight]) for y in (found, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_the_gradient(layout):
    conv = nn.Conv2d(2, 3, 1).double()
    h = torch.randn(2, 2, 3, 2).double().contiguous(memory_format=layout).requires_grad_()
    p = torch.rand(2, 3).double().requires_grad_()

    def run(h, p, *_):
        return scaled_conv(h, conv, p)

    assert torch.autograd.gradgradcheck(run, [h, p, *conv.parameters()])


def test_transforms_of_torch_func_take_it():
    conv = nn.Conv2d(2, 3, 1).double()
    h, p = torch.randn(2, 2, 3, 2).double(), torch.rand(2, 3).double()
    found, expected = (
        torch.func.hessian(lambda p, f=f: f(p).square().sum())(p)
        for f in (lambda p: scaled_conv(h, conv, p), lambda p: conv(h) * p[:, :, None, None])
    )
    torch.testing.assert_close(found, expected)


def test_a_compiler_computes_no_product_again_and_keeps_the_map():
    """Backward there are the two products of the gradients; no scaled weights or masks are kept."""
    conv = nn.Conv2d(3, 5, 1, bias=False)
    x = torch.randn(4, 3, 6, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    p = torch.rand(4, 5).requires_grad_()
    backward = []

    def keep(graph, inputs):
        backward.append((graph, inputs))
        return make_boxed_func(graph.forward)

    how = {"fw_compiler": lambda g, _: make_boxed_func(g.forward), "bw_compiler": keep}
    by = aot_autograd(**how, partition_fn=min_cut_rematerialization_partition)
    compiled = torch.compile(lambda x, p: scaled_conv(x.relu(), conv, p).square().sum(), backend=by)
    compiled(x, p).backward()
    ((graph, inputs),) = backward
    products = [n for n in graph.graph.nodes if n.target is torch.ops.aten.bmm.default]
    assert len(products) == 2
    assert not any(v.shape == (4, 3, 5) or v.dtype == torch.bool for v in inputs)


def test_which_convolutions_take_it():
    h = torch.zeros(2, 8, 4, 8)
    assert scales_weights(h, nn.Conv2d(8, 9, 1))
    assert not scales_weights(torch.zeros(2, 8, 5, 6), nn.Conv2d(8, 9, 1)), "weights over a quarter"
    for other in ({"stride": 2}, {"padding": 1}, {"groups": 2}):
        assert not scales_weights(h, nn.Conv2d(8, 8, 1, **other))
    assert not scales_weights(h, nn.Conv2d(8, 8, 3))
