"""Fused norms and convolutions: statistics, precision, gradients and memory, as before fusing."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from support.fused_networks import (
    CLOSE,
    MODES,
    ResidualBlock,
    ResidualNet,
    assert_same_buffers,
    assert_same_pass,
    fused_copy,
    pair,
    run,
)
from support.networks import randomise
from support.processes import cannot_fork, ranks, said, wait
from support.ranks import Block, Last, boosted
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torchvision.models import video

import accuracy_booster as ab
from accuracy_booster.fastpath.class_swapping import to_fused_class
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.fused_modules import Fused
from accuracy_booster.ops import backend, native
from accuracy_booster.ops.pooled_conv import has_pooled_form
from accuracy_booster.surgery.attaching import attach
from accuracy_booster.surgery.sites import Site
from accuracy_booster.training.processes import synchronised

pytestmark = [
    *WARNINGS_ARE_ERRORS,
    pytest.mark.parametrize("fused_by", ["reference", "native"], indirect=True),
]


NORMS = {
    "momentum_none": lambda: nn.BatchNorm2d(6, momentum=None),
    "momentum_1": lambda: nn.BatchNorm2d(6, momentum=1.0, eps=0.1),
    "no_running_statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "no_affine": lambda: nn.BatchNorm2d(6, affine=False),
    "neither": lambda: nn.BatchNorm2d(6, affine=False, track_running_stats=False),
    "sync": lambda: nn.SyncBatchNorm(6),
    "sync_momentum_none": lambda: nn.SyncBatchNorm(6, momentum=None),
}


@pytest.mark.parametrize("recipe", ["ab", "se", None])
@pytest.mark.parametrize("norm", NORMS)
def test_every_kind_of_batch_norm(norm, recipe):
    unfused, other, x = pair(ResidualNet(ResidualBlock(norm=NORMS[norm]())), recipe)
    assert ab.fast_path(other).taken == 1
    for training in (True, True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


def test_statistics_that_are_no_longer_tracked_stay():
    unfused, other, x = pair(ResidualNet(ResidualBlock()))
    for model in (unfused, other):
        model.blocks[0].bn2.track_running_stats = False
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


@pytest.mark.parametrize("gate_too", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_a_frozen_norm_in_a_network_that_trains(gate_too, learns):
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    for model in (unfused.train(), other.train()):
        norm = model.blocks[1].bn2
        norm.eval()
        norm.recalibrate.train(not gate_too)
        norm.requires_grad_(learns)
    assert_same_pass(unfused, other, x)
    assert unfused.blocks[1].bn2.num_batches_tracked == 0


@pytest.mark.parametrize("frozen", ["stem", "blocks.0.conv2", "blocks.0.bn2", "blocks.1.bn2"])
def test_parts_without_gradients(frozen):
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    for model in (unfused, other):
        model.get_submodule(frozen).requires_grad_(False)
        model(x).sum().backward()  # no gradient for the images
    for a, b in zip(unfused.parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **CLOSE)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_small_and_odd_maps(side):
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()), side=side, n=3)
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


def test_a_single_value_per_channel_is_an_error_as_before():
    for recipe in ("se", None):
        unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()), recipe, side=1, n=1)
        for model in (unfused, other):
            with pytest.raises(ValueError, match=r"[Ee]xpected more than 1 value per channel"):
                model.train()(x)
            assert model.eval()(x).isfinite().all()


def test_an_empty_batch():
    unfused, other, x = pair(ResidualNet(ResidualBlock()), None)
    for model in (unfused.eval(), other.eval()):
        assert model(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_of_16_bits_keeps_its_statistics_in_float32(dtype):
    """Output and gradient against batch norm in float64 on the same rounded map."""
    other = randomise(nn.BatchNorm2d(5))
    exact = copy.deepcopy(other).double()
    to_fused_class(other, Epilogue())
    z = (3 + torch.randn(4, 5, 6, 6)).to(dtype)
    mine, truth = z.clone().requires_grad_(), z.double().requires_grad_()
    y, expected = other(mine), exact(truth)
    assert y.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)
    grad = torch.randn(z.shape).to(dtype)
    y.backward(grad)
    expected.backward(grad.double())
    torch.testing.assert_close(mine.grad.double(), truth.grad, rtol=2 * rounding, atol=2 * rounding)
    torch.testing.assert_close(other.running_var.double(), exact.running_var, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.weight.grad.double(), exact.weight.grad, rtol=1e-3, atol=1e-3)


def test_a_mean_far_from_zero_loses_nothing():
    """mean 1000, spread 1 in float32: as near to float64 as torch's own batch norm, or nearer."""
    z = 1000 + torch.randn(4, 6, 9, 9)
    weight, bias, grad = torch.randn(6), torch.randn(6), torch.randn(4, 6, 9, 9)
    found = {}
    for name, dtype in (("truth", torch.float64), ("torch", torch.float32), ("fused", None)):
        kind = dtype or torch.float32
        norm = nn.BatchNorm2d(6).to(kind)
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
        if dtype is None:
            to_fused_class(norm, Epilogue())
        leaf = z.to(kind).requires_grad_()
        y = norm(leaf)
        y.backward(grad.to(kind))
        found[name] = [y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_var]
    for truth, theirs, ours in zip(*found.values(), strict=True):
        error = float((ours.double() - truth).abs().max())
        other = float((theirs.double() - truth).abs().max())
        assert error <= max(3 * other, 1e-4 * float(truth.abs().max())), (error, other)


@MODES
@pytest.mark.parametrize("how", ["unfused", "auto, no compiler", "auto, float16"])
def test_what_has_no_kernel_runs_layer_by_layer(how, training, monkeypatch):
    """Bit for bit as before fusing: output, gradients, running statistics, and with a hook."""
    if how == "auto, no compiler":
        monkeypatch.setattr(native, "library", lambda: None)
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    for model in (unfused, other):
        model.to(torch.float16 if how == "auto, float16" else torch.float32).train(training)
    x = x.to(next(unfused.parameters()).dtype)
    seen = []
    for model in (unfused, other):
        model.blocks[0].bn2.register_forward_hook(lambda m, args, y: seen.append(y.detach()))
    with backend.using(how.partition(",")[0]):
        (y, grads), (again, others) = (run(model, x) for model in (unfused, other))
    assert torch.equal(again, y)
    assert torch.equal(*seen)
    assert all(torch.equal(others[name], grad) for name, grad in grads.items())
    for a, b in zip(unfused.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)


@MODES
def test_a_network_that_is_compiled_is_fused_whatever_runs_in_eager_mode(training, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    unfused, other, x = pair(ResidualNet(ResidualBlock()))
    calls = []
    monkeypatch.setattr(Fused, "_unfused", lambda self, x: calls.append(self))
    with backend.using("auto"):
        compiled = torch.compile(other.train(training), backend="aot_eager")
        torch.testing.assert_close(compiled(x), unfused.train(training)(x), **CLOSE)
    assert not calls


def test_the_backends_that_there_are():
    with pytest.raises(ValueError, match="backend"), backend.using("fast"):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1, "stride": 2},
        {"kernel_size": (1, 3), "stride": (2, 1)},
    ],
)
def test_convolutions_without_a_pooled_form(options):
    """They are not claimed, and a gate after one is right."""
    conv = nn.Conv2d(6, 6, **options)
    assert not has_pooled_form(conv)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), conv, nn.ReLU())
    unfused, other, x = pair(model, where=["1"])
    assert ab.fast_path(other).taken == 1
    assert_same_pass(unfused, other, x)


@pytest.mark.forks
@cannot_fork
@pytest.mark.parametrize("how", ["scope", "sync"])
def test_two_processes_of_unequal_shares_are_one_with_all(how, tmp_path):
    """The norms' statistics and running statistics, gates' norms included, and the gradients."""
    unfused, other, x = pair(
        ResidualNet(ResidualBlock(), ResidualBlock()), None if how == "sync" else "ab", n=5
    )
    if how == "sync":  # torch's refuses CPU tensors, so the norm inside stays unfused: only sites
        for model in (unfused, other):
            model.blocks[0].bn1.eval()
            model.blocks[1].bn1.eval()
        other = ab.unfuse(other)
        for block in other.blocks:
            block.bn2 = nn.SyncBatchNorm.convert_sync_batchnorm(block.bn2)
        other = fused_copy(other.double(), x)
        other.blocks[0].bn1.eval()
        other.blocks[1].bn1.eval()
        assert ab.fast_path(other).taken == 2
    else:
        unfused.train()
        other.train()
    for block in (*unfused.blocks, *other.blocks):
        block.bn2.train()
    y, grads = run(unfused, x, torch.ones(5, 4, dtype=torch.float64))

    def work(rank):
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        share = x[:3] if rank == 0 else x[3:]
        with synchronised() if how == "scope" else nullcontext():
            out, mine = run(other, share, torch.ones(len(share), 4, dtype=torch.float64))
        torch.testing.assert_close(out, y[:3] if rank == 0 else y[3:], **CLOSE)
        for name, grad in mine.items():
            if name == "input":
                grad, expected = grad, grads[name][:3] if rank == 0 else grads[name][3:]
            else:
                expected = grads[name]
                torch.distributed.all_reduce(grad)
            torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-9, msg=name)
        assert_same_buffers(unfused, other)
        torch.distributed.destroy_process_group()

    codes = [wait(pid) for pid in ranks(work, tmp_path)]
    assert codes == [0, 0], said(tmp_path)


def saved_maps(model, x):
    """How many distinct maps as large as x a pass keeps for the gradient."""
    kept = {}

    def pack(tensor):
        if tensor.numel() >= x.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    assert y.requires_grad
    return len(kept)


def test_a_gate_keeps_no_further_map():
    x = torch.randn(4, 6, 8, 8, requires_grad=True)
    bare = ResidualBlock(act=nn.ReLU(inplace=True))
    boosted = ab.boost(copy.deepcopy(bare), "ab", example=x[:1], where=["bn2"])
    counts = {
        "bare": saved_maps(bare, x),
        "boosted": saved_maps(boosted, x),
        "fused": saved_maps(fused_copy(boosted, x), x),
        "fused bare": saved_maps(fused_copy(bare, x), x),
    }
    assert counts["fused"] <= counts["bare"] < counts["boosted"], counts
    assert counts["fused bare"] <= counts["bare"], counts


def test_a_graph_that_is_kept():
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    grads = []
    for model in (unfused, other):
        loss = model(x).square().sum()
        weight = model.blocks[0].bn2.weight
        (first,) = torch.autograd.grad(loss, [weight], retain_graph=True)
        (bias,) = torch.autograd.grad(loss, [model.blocks[1].bn2.bias], retain_graph=True)
        loss.backward(retain_graph=True)
        loss.backward()
        torch.testing.assert_close(weight.grad, 2 * first)
        grads.append([first, bias, *(p.grad for p in model.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def test_gradients_of_two_losses_and_of_a_map():
    """Passes that reach the network in part leave nothing behind for the next."""
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    grads = []
    for model in (unfused, other):
        y = model(x)
        kept = [
            torch.autograd.grad(y[:, i].sum(), x_, retain_graph=True)
            for i in (0, 1)
            for x_ in [
                list(model.head.parameters()),
                [model.blocks[1].bn2.bias],
                [model.blocks[0].conv1.weight],
                list(model.parameters()),
            ]
        ]
        grads.append([g for group in kept for g in group])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


class PreActivationBlock(nn.Module):
    """x + conv2(relu(bn(conv1(x)))): it ends in a convolution."""

    def __init__(self, kernel):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, kernel, padding=kernel // 2)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.bn(self.conv1(x))))


@MODES
@pytest.mark.parametrize("recipe", ["ab", "se", None])
@pytest.mark.parametrize(
    "block", [ResidualBlock, lambda: PreActivationBlock(1), lambda: PreActivationBlock(3)]
)
@pytest.mark.parametrize("headless", [True, False])
def test_a_gradient_penalty(block, recipe, training, headless):
    """The gradient of the squared gradients of everything; at `headless` the first starts at 1."""
    unfused, other, x = pair(ResidualNet(block(), block()), recipe)
    found = []
    for model in (unfused.train(training), other.train(training)):
        leaves = [x.clone().requires_grad_(), *model.parameters()]
        y = model.blocks(model.stem(leaves[0])) if headless else model(leaves[0]).square()
        how = {"allow_unused": True, "materialize_grads": True}
        grads = torch.autograd.grad(y.sum(), leaves, create_graph=True, **how)
        penalty = sum(g.square().sum() for g in grads)
        found.append(torch.autograd.grad(penalty, leaves, **how))
    largest = max(float(g.abs().max()) for g in found[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9 * largest)


def test_a_penalty_and_a_loss_in_one_backward_pass():
    """Each adds to the gradients of the parameters, as in training; twice, for what was left."""
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    for model in (unfused, other):
        for _ in range(2):
            images = x.clone().requires_grad_()
            loss = model(images).square().sum()
            (grad,) = torch.autograd.grad(loss, images, create_graph=True)
            (loss + grad.square().sum()).backward()
    for a, b in zip(unfused.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-8)


def test_the_second_derivative_of_a_compiled_network_is_refused():
    """torch has none of what its compilers made, and says so."""
    _, other, x = pair(ResidualNet(ResidualBlock()))
    x.requires_grad_()
    compiled = torch.compile(other, backend="aot_eager")
    (grad,) = torch.autograd.grad(compiled(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(grad.square().sum(), x)


def test_functional_calls_and_function_transforms():
    unfused, other, x = pair(ResidualNet(ResidualBlock()))
    unfused.eval()
    other.eval()
    found = []
    for model in (unfused, other):
        values = {k: v.detach() for k, v in model.named_parameters()}

        def loss(values, x, model=model):
            return torch.func.functional_call(model, values, (x,)).square().sum()

        grads = torch.func.grad(loss)(values, x)
        every = torch.func.grad(loss, argnums=1)
        each = torch.func.vmap(every, in_dims=(None, 0))(values, x[:, None])
        found.append([*grads.values(), each])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@MODES
def test_without_gradients(mode, training):
    unfused, other, x = pair(ResidualNet(ResidualBlock(), ResidualBlock()))
    with mode():
        torch.testing.assert_close(other.train(training)(x), unfused.train(training)(x), **CLOSE)
    assert_same_buffers(unfused, other)
    assert_same_pass(unfused, other, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [1, 3])
def test_fused_networks_compute_the_same(dims, kind, kernel, recipe, training):
    net, x = boosted(dims, kernel, recipe, kind)
    other = ab.fuse(copy.deepcopy(net), example=x[:1])
    assert ab.fast_path(other).taken == 2, str(ab.fast_path(other))
    assert_same_pass(net.train(training), other.train(training), x)
    ab.unfuse(other)
    assert {type(m) for m in other.modules()} == {type(m) for m in net.modules()}


def test_vectors_are_not_fused_and_the_reason_is_true():
    net, x = boosted(0)
    expected = net.train()(x)
    other = ab.fuse(copy.deepcopy(net), example=x[:2])
    path = ab.fast_path(other)
    assert path.taken == 0
    assert "its output is [N, C]: there is no space to take means over" in str(path)
    assert torch.equal(other.train()(x), expected)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_video_networks_are_fused_and_folded(name):
    net = getattr(video, name)(num_classes=5)
    sites = [
        Site(f"{module}.conv2.1", block.conv2[1].num_features, (1, 1, 1))
        for module, block in net.named_modules()
        if isinstance(block, video.resnet.BasicBlock)
    ]
    assert len(sites) == 8
    attach(net, "ab", sites)
    randomise(net).double()
    x = torch.randn(4, 3, 4, 16, 16, dtype=torch.float64)
    folded = ab.fold(net.eval(), example=x, verify=True)
    fused = ab.fuse(copy.deepcopy(net), example=x[:1])
    for model in (folded, fused):
        assert ab.fast_path(model).taken == 8, str(ab.fast_path(model))
        torch.testing.assert_close(model(x), net(x), rtol=1e-8, atol=1e-9)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm3d)]
    other = copy.deepcopy(net).train()
    # of two samples a norm amplifies rounding
    torch.testing.assert_close(fused.train()(x), other(x), rtol=1e-5, atol=1e-6)
    for (key, a), b in zip(other.state_dict().items(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7, msg=key)
