"""Inference of folded networks on a GPU: eager, compiled, replayed as a CUDA graph."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import torch
from support.gpu_networks import (
    CUDA,
    FLOOR,
    SIXTEEN,
    assert_no_worse,
    cast,
    error,
    images,
    needs_gpu,
    network,
    networks,
)

import accuracy_booster as ab

pytestmark = [
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]


def folded_case(name, precision, layout, n, how):
    """The exact output [n, 10], the model, the folded model, the images."""
    model, x = network(name, layout).eval(), images(name, layout, n)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
    if how == "converted":
        model, x = model.to(SIXTEEN[precision]), x.to(SIXTEEN[precision])
    folded = ab.fold(model, example=x)
    assert ab.fast_path(folded).taken > 0
    return exact, model, folded, x


HOWS = [("fp32", "as it is")]
if CUDA:
    HOWS += [(p, how) for p in SIXTEEN for how in ("autocast", "converted")]
hows = pytest.mark.parametrize(("precision", "how"), HOWS)


@hows
@pytest.mark.parametrize(("n", "layout"), [(1, "nhwc"), (5, "nchw")])
@networks
def test_folded_inference(name, n, layout, precision, how):
    def case():
        exact, model, folded, x = folded_case(name, precision, layout, n, how)
        with torch.no_grad(), cast(precision if how == "autocast" else "fp32"):
            found, unfused = folded(x), model(x)
            assert folded(x[:0]).shape == (0, 10)
        assert found.dtype == unfused.dtype
        return {"logits": found}, {"logits": unfused}, {"logits": exact}

    assert_no_worse(case, precision)


@needs_gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(("precision", "how"), [("fp32", "as it is"), ("bf16", "converted")])
@pytest.mark.parametrize("name", ["resnet20", "torchvision/resnet50"])
def test_compiled_inference(name, precision, how, graphs):
    exact, model, folded, x = folded_case(name, precision, "nhwc", 2, how)
    run = ab.compile_for_inference(folded, x, graphs=graphs)
    off = error(model(x).detach(), exact)
    for _ in range(3):
        found = run(x).clone()
        assert error(found, exact) <= 3 * off + FLOOR[precision]
    torch.testing.assert_close(run(x.flip(0)).clone(), found.flip(0), rtol=1e-2, atol=1e-2)


@needs_gpu
@pytest.mark.parametrize("kind", ["fused", "folded"])
def test_a_captured_graph_replays(kind):
    """`torch.cuda.graph` around an eager call, Triton's kernels inside."""
    model, x = network("resnet20").eval(), images("resnet20")
    fast = ab.fuse(copy.deepcopy(model)) if kind == "fused" else ab.fold(model, example=x)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            fast(x)
        torch.cuda.current_stream().wait_stream(side)
        graph, fixed = torch.cuda.CUDAGraph(), x.clone()
        with torch.cuda.graph(graph):
            out = fast(fixed)
        for _ in range(2):
            fixed.copy_(torch.randn_like(x))
            graph.replay()
            torch.testing.assert_close(out, model(fixed), rtol=1e-4, atol=1e-4)
