"""Training steps of fused networks on a GPU: eager, compiled, captured, in a process group."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import torch
from support.gpu_networks import (
    CUDA,
    assert_no_worse,
    error,
    images,
    layouts,
    needs_gpu,
    network,
    networks,
    precisions,
    step,
    training_cases,
)

import accuracy_booster as ab
from accuracy_booster.ops import backend

pytestmark = [
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]


@layouts
@precisions
@networks
def test_fused_training(name, precision, layout):
    for case in training_cases(name, precision, layout):
        assert_no_worse(case, precision)


@precisions
@pytest.mark.parametrize("name", ["resnet20", "preact20"] if CUDA else ["wrn10_1"])
def test_fused_training_with_checkpoints(name, precision):
    for case in training_cases(name, precision, "nhwc", recompute=True):
        assert_no_worse(case, precision)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet20", "timm/regnety_002", "torchvision/mobilenet_v2"])
def test_compiled_training(name, precision):
    case, _ = training_cases(name, precision, "nhwc", compile={})
    assert_no_worse(case, precision)


@needs_gpu
@pytest.mark.parametrize("name", ["resnet8", "preact20"])
def test_training_with_compiled_graphs(name):
    """CUDA graphs: the first calls record, later ones replay; running statistics move on."""

    def case(steps):
        unfused, x = network(name), images(name)
        fused = ab.fuse(copy.deepcopy(unfused), example=x[:1]).train()
        forward = torch.compile(fused, dynamic=False, mode="reduce-overhead")
        exact, unfused = copy.deepcopy(unfused).double().train(), unfused.train()
        for _ in range(steps):
            torch.compiler.cudagraph_mark_step_begin()
            found = {k: v.clone() for k, v in step(fused, x, "bf16", forward).items()}
            truth, own = step(exact, x.double()), step(unfused, x, "bf16")
        return found, own, truth

    assert_no_worse(lambda: case(4), "bf16")


@needs_gpu
def test_a_training_step_is_captured():
    """`torch.cuda.make_graphed_callables` on a fused network: forward and backward passes."""
    model, x = network("resnet20").train(), images("resnet20")
    fused = ab.fuse(copy.deepcopy(model)).train()
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(fused), (x.clone(),))
    y = torch.randn_like(x)
    for net in (fused, graphed):
        net.zero_grad()
        net(y).square().sum().backward()
    for (name, a), b in zip(fused.named_parameters(), graphed.parameters(), strict=True):
        scale = float(a.grad.abs().max())
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


@needs_gpu
def test_a_side_stream_gives_the_same():
    model, x = network("resnet20").train(), images("resnet20")
    fused = ab.fuse(model).train()
    expected = {k: v.clone() for k, v in step(fused, x).items() if k.startswith("grad")}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = step(fused, x)
    torch.cuda.synchronize()
    for name, value in expected.items():
        assert error(found[name], value.double(), 1e-3) < 1e-4, name


@precisions
@pytest.mark.parametrize("how", ["auto", "reference", "unfused"])
def test_every_backend_gives_the_same(how, precision):
    """Triton's kernels, the reference and layer by layer, on the same device."""
    case, _ = training_cases("resnet20" if CUDA else "resnet8", precision, "nhwc")
    with backend.using(how):
        assert_no_worse(case, precision)


@needs_gpu
def test_one_process_of_nccl(tmp_path):
    """DDP over a fused network with synchronised norms: the gradients are the network's own."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    unfused, x = network("resnet20").train(), images("resnet20")
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(unfused))
    fused = ab.fuse(model, example=x[:1]).train()
    assert ab.fast_path(fused).taken == 9
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/f", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(fused, device_ids=[0])
        found = step(fused, x, "fp32", wrapped)
    finally:
        distributed.destroy_process_group()
    alone = step(ab.fuse(copy.deepcopy(unfused), example=x[:1]).train(), x)
    for name, value in alone.items():
        assert error(found[name], value.double(), 1e-3) < 1e-4, name
