"""`ab.fuse` changes no number: fused networks against the same ones layer by layer, in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import warnings
from contextlib import nullcontext

import pytest
import timm
import torch
import torch.nn.functional as F
from support.processes import cannot_fork, ranks, said, wait
from torch import nn
from torch.nn.modules import module as global_hooks
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

import accuracy_booster as ab
from accuracy_booster.fastpath.fused_modules import Fused
from accuracy_booster.ops import affine, affine_reference, backend
from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.ops.deferred import Pending
from accuracy_booster.ops.pooled_conv import has_pooled_form, pooled_conv
from accuracy_booster.surgery import attached
from accuracy_booster.training.processes import synchronised

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:a norm that holds a gate was frozen"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]

RECIPES = ["ab", "ab_plus", "ab_g2", "se", "eca", "ge_theta_minus", "design_f", None]
NETWORKS = {  # the side of its images, how many places are fused with a gate, and without
    "resnet8": (12, 3, 3),
    "wrn10_1": (12, 3, 0),  # pre-activation: a branch ends in a convolution
    "torchvision/resnet18": (32, 8, 8),
    "timm/resnet26": (32, 8, 8),
    "timm/regnetx_002": (32, 13, 13),
}
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch._dynamo.reset()


def randomise(model):
    """Norms far from the identity, so that no mistake hides; the model, in float64."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.copy_(torch.randn_like(value) * 0.5 + (1 if name.endswith("weight") else 0))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model.double()


def network(name="resnet8", recipe="ab", **options):
    side = NETWORKS[name][0]
    size = (3, side, side)
    return randomise(ab.create_model(name, block=recipe, num_classes=5, input_size=size, **options))


def images(model_name="resnet8", n=4):
    side = NETWORKS[model_name][0]
    return torch.randn(n, 3, side, side, dtype=torch.float64)


def fuse(model, x):
    """A fused copy."""
    return ab.fuse(copy.deepcopy(model), example=x[:1].detach())


class Block(nn.Module):
    """A residual block with all that a test may want to change."""

    def __init__(self, channels=6, norm=None, act=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm or nn.BatchNorm2d(channels)
        self.act = act or nn.ReLU()

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return self.act(self.branch(x) + x)


class Net(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, *blocks, channels=6):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def pair(model, recipe="ab", side=7, n=4, where="residual"):
    """(boosted layer by layer, fused, images), in float64."""
    x = torch.randn(n, 3, side, side, dtype=torch.float64)
    model.double()
    if recipe is not None:
        ab.boost(model, recipe, example=x[:1], where=where)
    randomise(model)
    return model, fuse(model, x), x


def run(model, x, grad=None):
    """(output, gradients of the input and of every parameter) of one pass."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) if grad is None else grad)
    return y.detach(), {"input": x.grad} | {n: p.grad for n, p in model.named_parameters()}


def assert_close(found, expected, what=""):
    """Relative to the largest value: what cancels errs by as much as its parts."""
    largest = max(float(expected.abs().max()), 1e-6) if expected.numel() else 1.0
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-10 * largest, msg=lambda m: f"{what}: {m}"
    )


def assert_same_pass(plain, other, x):
    y, grads = run(plain, x)
    again, others = run(other, x)
    assert_close(again, y, "output")
    assert grads.keys() == others.keys()
    scale = max(float(g.abs().max()) for g in grads.values() if g is not None)
    for name, grad in grads.items():
        if grad is None:
            assert others[name] is None or not others[name].any(), name
            continue
        torch.testing.assert_close(
            others[name], grad, rtol=1e-9, atol=1e-11 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert_same_buffers(plain, other)


def assert_same_buffers(plain, other):
    for (name, a), (again, b) in zip(plain.named_buffers(), other.named_buffers(), strict=True):
        assert name == again
        assert_close(b, a, name) if a.is_floating_point() else torch.testing.assert_close(b, a)


# --- the same numbers -----------------------------------------------------------------------------


LARGE = ["ab", "eca", None]  # recipes for networks of millions of parameters
PAIRS = [
    (n, r) for n in NETWORKS for r in (LARGE if n.startswith(("torchv", "timm/res")) else RECIPES)
]


@pytest.mark.parametrize(("name", "recipe"), PAIRS)
def test_outputs_gradients_and_buffers_are_the_same(name, recipe):
    plain, x = network(name, recipe), images(name)
    other = fuse(plain, x)
    assert ab.fast_path(other).taken == NETWORKS[name][1 if recipe else 2]
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1", "timm/regnetx_002"])
@MODES
def test_channels_last_is_the_same_and_stays_channels_last(name, training):
    plain, x = network(name), images(name).contiguous(memory_format=torch.channels_last)
    plain.to(memory_format=torch.channels_last)
    other = fuse(plain, x)
    assert_same_pass(plain.train(training), other.train(training), x)
    seen = {}
    for model in (plain, other):
        block = model.layer2 if hasattr(model, "layer2") else model.s2
        handle = block.register_forward_hook(lambda m, a, y, k=model: seen.update({k: y.stride()}))
        model(x)
        handle.remove()
    assert seen[other] == seen[plain]


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_training_goes_the_same_way(name, recipe):
    plain, x = network(name, recipe), images(name)
    other = fuse(plain, x)
    for model in (plain, other):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn_like(x)), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
    for (key, value), again in zip(
        plain.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(again, value, rtol=1e-7, atol=1e-8, msg=key)


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
    plain, other, x = pair(Net(Block(norm=NORMS[norm]())), recipe)
    assert ab.fast_path(other).taken == 1
    for training in (True, True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


def test_statistics_that_are_no_longer_tracked_stay():
    plain, other, x = pair(Net(Block()))
    for model in (plain, other):
        model.blocks[0].bn2.track_running_stats = False
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


@pytest.mark.parametrize("gate_too", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_a_frozen_norm_in_a_network_that_trains(gate_too, learns):
    plain, other, x = pair(Net(Block(), Block()))
    for model in (plain.train(), other.train()):
        norm = model.blocks[1].bn2
        norm.eval()
        norm.recalibrate.train(not gate_too)
        norm.requires_grad_(learns)
    assert_same_pass(plain, other, x)
    assert plain.blocks[1].bn2.num_batches_tracked == 0


@pytest.mark.parametrize("frozen", ["stem", "blocks.0.conv2", "blocks.0.bn2", "blocks.1.bn2"])
def test_parts_without_gradients(frozen):
    plain, other, x = pair(Net(Block(), Block()))
    for model in (plain, other):
        model.get_submodule(frozen).requires_grad_(False)
        model(x).sum().backward()  # no gradient for the images
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **CLOSE)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_small_and_odd_maps(side):
    plain, other, x = pair(Net(Block(), Block()), side=side, n=3)
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


def test_a_single_value_per_channel_is_an_error_as_before():
    for recipe in ("se", None):
        plain, other, x = pair(Net(Block(), Block()), recipe, side=1, n=1)
        for model in (plain, other):
            with pytest.raises(ValueError, match=r"[Ee]xpected more than 1 value per channel"):
                model.train()(x)
            assert model.eval()(x).isfinite().all()


def test_an_empty_batch():
    plain, other, x = pair(Net(Block()), None)
    for model in (plain.eval(), other.eval()):
        assert model(x[:0]).shape == (0, 4)


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.forks
@cannot_fork
@pytest.mark.parametrize("how", ["scope", "sync"])
def test_two_processes_of_unequal_shares_are_one_with_all(how, tmp_path):
    """The norms' statistics and running statistics, gates' norms included, and the gradients."""
    plain, other, x = pair(Net(Block(), Block()), None if how == "sync" else "ab", n=5)
    if how == "sync":  # torch's refuses CPU tensors, so the norm inside stays plain: only sites
        for model in (plain, other):
            model.blocks[0].bn1.eval()
            model.blocks[1].bn1.eval()
        other = ab.unfuse(other)
        for block in other.blocks:
            block.bn2 = nn.SyncBatchNorm.convert_sync_batchnorm(block.bn2)
        other = fuse(other.double(), x)
        other.blocks[0].bn1.eval()
        other.blocks[1].bn1.eval()
        assert ab.fast_path(other).taken == 2
    else:
        plain.train()
        other.train()
    for block in (*plain.blocks, *other.blocks):
        block.bn2.train()
    y, grads = run(plain, x, torch.ones(5, 4, dtype=torch.float64))

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
        assert_same_buffers(plain, other)
        torch.distributed.destroy_process_group()

    codes = [wait(pid) for pid in ranks(work, tmp_path)]
    assert codes == [0, 0], said(tmp_path)


# --- precision ------------------------------------------------------------------------------------


def parts(shape=(3, 5, 6, 7)):
    """z, mean, scale, shift, residual, in float64."""
    n, c, *_ = shape
    z, residual = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(n, c, dtype=torch.float64) for _ in range(3))
    return z, mean, scale, shift, residual


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_pointwise_pass_and_its_gradient(dtype, relu):
    """Against ordinary torch in float64, whatever the map's type."""
    z, mean, scale, shift, residual = parts()
    z, residual = z.to(dtype), residual.to(dtype)
    values = dtype if dtype == torch.float64 else torch.float32
    mine = [z, mean.to(values), scale.to(values), shift.to(values), residual]
    mine = [v.clone().requires_grad_() for v in mine]
    truth = [v.detach().double().requires_grad_() for v in mine]
    out = affine.affine(*mine[:4], residual=mine[4], relu=relu)
    z, mean, scale, shift, residual = truth
    exact = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    exact = exact + residual
    exact = exact.relu() if relu else exact
    rounding = torch.finfo(dtype).eps
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=2 * rounding, atol=4 * rounding)
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    exact.backward(grad.double())
    for got, want in zip(mine, truth, strict=True):
        assert got.grad.dtype == got.dtype
        allowed = 8 * max(rounding if got.ndim == 4 else torch.finfo(values).eps, 2e-16)
        torch.testing.assert_close(
            got.grad.double(), want.grad, rtol=allowed, atol=allowed * float(want.grad.abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_of_16_bits_keeps_its_statistics_in_float32(dtype):
    """Output and gradient against batch norm in float64 on the same rounded map."""
    norm = nn.BatchNorm2d(5)
    model = nn.Module()
    model.norm = norm
    other = randomise(norm).float()
    exact = copy.deepcopy(other).double()
    from accuracy_booster.fastpath.fused_modules import FusedBatchNorm2d

    other.__class__ = FusedBatchNorm2d
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
            from accuracy_booster.fastpath.fused_modules import FusedBatchNorm2d

            norm.__class__ = FusedBatchNorm2d
        leaf = z.to(kind).requires_grad_()
        y = norm(leaf)
        y.backward(grad.to(kind))
        found[name] = [y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_var]
    for truth, theirs, ours in zip(*found.values(), strict=True):
        error = float((ours.double() - truth).abs().max())
        other = float((theirs.double() - truth).abs().max())
        assert error <= max(3 * other, 1e-4 * float(truth.abs().max())), (error, other)


# --- compilers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "norms"), [("resnet8", nullcontext), ("wrn10_1", BatchNorms)])
def test_a_compiled_fused_network_is_the_same(name, norms):
    plain, x = network(name), images(name)
    other = fuse(plain, x)
    compiled = torch.compile(other, backend="aot_eager", dynamic=False)
    for training in (True, False):
        plain.train(training)
        other.train(training)
        with norms():
            y, grads = run(compiled, x)
        expected, others = run(plain, x)
        assert_close(y, expected)
        for name, grad in others.items():
            got = grads["input" if name == "input" else f"_orig_mod.{name}"]
            torch.testing.assert_close(got, grad, rtol=1e-8, atol=1e-9, msg=name)
        assert_same_buffers(plain, other)


def test_a_fused_network_is_one_graph():
    other = fuse(network(), images()).train()
    y = torch.compile(other, backend="aot_eager", fullgraph=True)(images())
    assert y.isfinite().all()


@pytest.mark.parametrize("fused_first", [False, True])
def test_compiling_plain_boosted_and_fused_ones_keeps_them_apart(fused_first):
    x = images()
    boosted = network().eval()
    bare = ab.unboost(copy.deepcopy(boosted))
    models = [bare, fuse(bare, x), boosted, fuse(boosted, x)]
    assert not torch.allclose(bare(x), boosted(x), rtol=1e-2)
    order = models[::-1] if fused_first else models
    with torch.no_grad():
        for _ in range(2):
            for model in order:
                got = torch.compile(model, backend="eager")(x)
                expected = bare(x) if model in models[:2] else boosted(x)
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_compiled_network_follows_fuse_and_unfuse():
    model, x = network().eval(), images()
    expected = model(x)
    compiled = torch.compile(model, backend="eager")
    for step in (lambda: None, lambda: ab.fuse(model, example=x[:1]), lambda: ab.unfuse(model)):
        model.__dict__.pop("_compiled_call_impl", None)
        step()
        torch.testing.assert_close(compiled(x), expected, **CLOSE)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_export_and_trace(name, recipe):
    plain, x = network(name, recipe).eval(), images(name)
    other = fuse(plain, x)
    expected = plain(x).detach()
    program = torch.export.export(other, (x,))
    torch.testing.assert_close(program.module()(x).detach(), expected, **CLOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(other, (x,))
    torch.testing.assert_close(traced(x).detach(), expected, **CLOSE)
    torch.testing.assert_close(traced(x[:2]).detach(), expected[:2], **CLOSE)


# --- memory ---------------------------------------------------------------------------------------


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
    bare = Block(act=nn.ReLU(inplace=True))
    boosted = ab.boost(copy.deepcopy(bare), "ab", example=x[:1], where=["bn2"])
    counts = {
        "bare": saved_maps(bare, x),
        "boosted": saved_maps(boosted, x),
        "fused": saved_maps(fuse(boosted, x), x),
        "fused bare": saved_maps(fuse(bare, x), x),
    }
    assert counts["fused"] <= counts["bare"] < counts["boosted"], counts
    assert counts["fused bare"] <= counts["bare"], counts


# --- fuse and unfuse ------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_unfuse_gives_back_every_class_and_attribute(name, recipe):
    model, x = network(name, recipe).eval(), images(name)
    before = [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()]
    keys, values = list(model.state_dict()), copy.deepcopy(model.state_dict())
    y = model(x)
    assert ab.fuse(model, example=x[:1]) is model
    assert list(model.state_dict()) == keys
    assert [n for n, _ in model.named_modules()] == [n for n, _, _ in before]
    changed = [n for n, m in model.named_modules() if isinstance(m, Fused)]
    assert changed == [p.name for p in ab.fast_path(model).places if p.fast]
    assert ab.unfuse(model) is model
    assert [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values.values()))  # noqa: B905
    assert torch.equal(model(x), y)
    with pytest.raises(ValueError, match="neither fused nor folded"):
        ab.fast_path(model)


def test_flags_and_gradients_stay_when_fusing():
    model, x = network().train(), images()
    run(model, x)
    model.layer1[0].bn1.eval()
    flags = {n: m.training for n, m in model.named_modules()}
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    buffers = copy.deepcopy(dict(model.named_buffers()))
    ab.fuse(model, example=x[:1])
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters())
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_checkpoints_load_across():
    plain, x = network().eval(), images()
    other, fresh = fuse(network(), x).eval(), network().eval()
    other.load_state_dict(plain.state_dict())
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(x), plain(x), **CLOSE)
    assert torch.equal(fresh(x), plain(x))


def test_copies_stay_fused():
    other, x = fuse(network(), images()).eval(), images()
    y = other(x)
    file = io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    copies = [
        copy.deepcopy(other),
        pickle.loads(pickle.dumps(other)),
        torch.load(file, weights_only=False),
    ]
    for again in copies:
        assert torch.equal(again(x), y)
        assert ab.fast_path(again) == ab.fast_path(other)
        with torch.no_grad():
            for value in again.parameters():
                value.zero_()
        assert not again(x).any()
        ab.unfuse(again)
        assert not any(isinstance(m, Fused) for m in again.modules())
    assert torch.equal(other(x), y)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_gates_come_off_and_go_on_again(name):
    model, x = network(name).eval(), images(name)
    bare = ab.unboost(copy.deepcopy(model))
    other = fuse(model, x)
    with ab.disabled(other):
        torch.testing.assert_close(other(x), bare(x), **CLOSE)
    torch.testing.assert_close(other(x), model(x), **CLOSE)
    ab.unboost(other)
    assert attached(other) == {}
    assert_same_pass(bare.train(), other.train(), x)
    ab.boost(other, "ab", example=x[:1])
    ab.boost(bare, "ab", example=x[:1])
    bare.load_state_dict(other.state_dict())
    assert_same_pass(bare, other, x)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_a_fused_network_can_be_boosted(name):
    bare, x = network(name, None), images(name)
    other = fuse(bare, x)
    ab.boost(other, "ab", example=x[:1])
    ab.boost(bare, "ab", example=x[:1])
    bare.load_state_dict(other.state_dict())
    assert_same_pass(bare.train(), other.train(), x)


def test_saved_gates_are_those_of_the_plain_network(tmp_path):
    torch.manual_seed(1)
    base = network(recipe=None)
    x = images()
    plain = ab.boost(copy.deepcopy(base), "ab", example=x[:1]).eval()
    other = fuse(plain, x).eval()
    ab.save(other, tmp_path / "fused")
    ab.save(plain, tmp_path / "plain")
    names = ["booster.json", "booster.safetensors"]
    for name in names:
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    again = ab.load(copy.deepcopy(base), tmp_path / "fused").eval()
    assert torch.equal(again(x), plain(x))
    onto = ab.load(fuse(base, x), tmp_path / "fused").eval()
    torch.testing.assert_close(onto(x), plain(x), **CLOSE)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_plan_and_complexity_see_the_same(name):
    side = NETWORKS[name][0]
    bare = ab.create_model(name, input_size=(3, side, side)).eval()
    example = torch.zeros(1, 3, side, side)
    other = ab.fuse(copy.deepcopy(bare), example=example)
    assert str(ab.plan(other, example=example)) == str(ab.plan(bare, example=example))
    boosted = ab.boost(copy.deepcopy(bare), "ab", example=example)
    other = ab.fuse(copy.deepcopy(boosted), example=example)
    size = (3, side, side)
    found, expected = (ab.complexity(m, input_size=size) for m in (other, boosted))
    assert found.to_dict() == expected.to_dict()


def test_converted_to_synchronised_norms_it_still_gates():
    plain, x = network().eval(), images()
    other = fuse(plain, x)
    for _ in range(2):
        other = nn.SyncBatchNorm.convert_sync_batchnorm(other)
        torch.testing.assert_close(other(x), plain(x), **CLOSE)
        assert_same_pass(plain.train(), other.train(), x)
        plain.eval()
        other.eval()
    ab.unfuse(other)
    torch.testing.assert_close(other(x), plain(x), **CLOSE)
    ab.fuse(other, example=x[:1])
    assert ab.fast_path(other).taken == 3
    torch.testing.assert_close(other(x), plain(x), **CLOSE)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda m, x: fuse(m, x), "fused already; ab.unfuse"),
        (lambda m, x: ab.fold(m.eval(), example=x), "folded already"),
        (lambda m, x: torch.compile(m, backend="eager"), "compile.* first"),
        (lambda m, x: nn.DataParallel(m), r"model\.module"),
        (lambda m, x: 3, "expected an nn.Module"),
    ],
)
def test_what_cannot_be_fused_is_refused(wrap, words):
    x = images()
    with pytest.raises(ValueError, match=words):
        ab.fuse(wrap(network(), x), example=x[:1])


def test_what_is_not_fused_cannot_be_unfused():
    x = images()
    model = network().eval()
    for other in (model, ab.fold(model, example=x)):
        with pytest.raises(ValueError, match="not fused"):
            ab.unfuse(other)
    with pytest.raises(ValueError, match=r"cannot take an image \[1, 4, 12, 12\]"):
        ab.fuse(model, example=torch.zeros(1, 4, 12, 12))
    assert not any(isinstance(m, Fused) for m in model.modules())


class ByLayerNorm(Block):
    def __init__(self):
        super().__init__(norm=nn.GroupNorm(2, 6))


class Twice(Block):
    """Its last norm runs twice in a pass."""

    def branch(self, x):
        return self.bn2(F.relu(self.bn2(self.conv2(x))))


OTHERS = {  # what is not fused: how it is built, its recipe, the reason
    "cbam": (lambda: Net(Block()), "cbam", "more than each channel's mean"),
    "dw3": (lambda: Net(Block()), "dw3_bn", "more than each channel's mean"),
    "group_norm": (lambda: Net(ByLayerNorm()), "ab", "GroupNorm is no batch norm"),
    "group_norm_plain": (lambda: Net(ByLayerNorm()), None, "GroupNorm is no batch norm"),
    "twice": (lambda: Net(Twice()), ["blocks.0.bn2"], "several times"),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=4, conv_mlp=False),
        "ab",
        "NHWC|no BatchNorm2d",
    ),
    "conv": (lambda: Net(Block(norm=nn.Conv2d(6, 6, 1))), None, "nothing to fuse"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_fused_is_reported_and_right(name):
    build, recipe, reason = OTHERS[name]
    places = {"where": recipe} if isinstance(recipe, list) else {}
    recipe = "ab" if places else recipe
    plain, other, x = pair(build(), recipe, side=32 if name == "convnext" else 7, **places)
    report = ab.fast_path(other)
    slow = [p for p in report.places if not p.fast]
    assert slow
    for place in slow:
        assert re.search(reason, place.how), place
        assert place.name in str(report)
    assert f"{report.taken} of {len(report.places)} places" in report.summary()
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


def test_the_backend_unfused_is_layer_by_layer():
    plain, other, x = pair(Net(Block()))
    with backend.using("unfused"):
        assert torch.equal(other.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="backend"), backend.using("fast"):
        pass


# --- what users do with a network -----------------------------------------------------------------


def sees(seen, key):
    def hook(module, args, output, *_):
        seen.setdefault(key, []).append((type(output), output))

    return hook


HOOKED = ["blocks.0.bn2", "blocks.0.conv2", "blocks.0"]


@pytest.mark.parametrize("where", HOOKED)
@MODES
def test_forward_and_backward_hooks_see_tensors(where, training):
    plain, other, x = pair(Net(Block()))
    found = []
    for model in (plain.train(training), other.train(training)):
        seen = []
        module = model.get_submodule(where)
        module.register_forward_hook(lambda m, a, y, seen=seen: seen.extend([*a, y]))
        module.register_full_backward_hook(lambda m, i, o, seen=seen: seen.extend([*i, *o]))
        module.register_full_backward_pre_hook(lambda m, o, seen=seen: seen.extend(o))
        run(model, x)
        found.append(seen)
    assert len(found[0]) == len(found[1]) == 5
    for one, another in zip(*found, strict=True):
        assert isinstance(another, torch.Tensor)
        torch.testing.assert_close(another, one, **CLOSE)
    assert_same_pass(plain, other, x)


@MODES
def test_hooks_on_every_module_see_tensors(training):
    plain, other, x = pair(Net(Block()))
    found = []
    for model in (plain.train(training), other.train(training)):
        seen = []
        handle = global_hooks.register_module_forward_hook(
            lambda m, a, y, seen=seen: seen.append(y)
        )
        model(x)
        handle.remove()
        found.append([y for y in seen if not isinstance(y, list)])
    assert all(isinstance(y, torch.Tensor) for y in found[1])


class Branch(nn.Module):
    """x + branch(x), the branch a module of its own whose output is its last norm's."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        self.branch = nn.Sequential(*layers, nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.path = nn.Identity()

    def forward(self, x):
        return F.relu(self.path(self.branch(x)) + x)


@pytest.mark.parametrize("where", ["blocks.0.branch", "blocks.0.path", "blocks.0.branch.4"])
def test_hooks_on_what_hands_the_norm_on_see_tensors(where):
    plain, other, x = pair(Net(Branch()))
    assert ab.fast_path(other).taken == 1
    found = []
    for model in (plain, other):
        seen = []
        module = model.get_submodule(where)
        module.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y))
        module.register_full_backward_hook(lambda m, i, o, seen=seen: seen.extend(o))
        run(model, x)
        found.append(seen)
    assert len(found[0]) == len(found[1]) == 2
    for one, another in zip(*found, strict=True):
        assert isinstance(another, torch.Tensor)
        torch.testing.assert_close(another, one, **CLOSE)


def test_a_hook_may_change_the_output():
    plain, other, x = pair(Net(Branch()))
    for model in (plain, other):
        model.blocks[0].branch[4].register_forward_hook(lambda m, a, y: 2 * y)
    assert_same_pass(plain, other, x)


class Deep(Block):
    """Stochastic depth: in training mode something stands between the norm and the sum."""

    def __init__(self):
        super().__init__()
        self.drop = StochasticDepth(0.5, "row")

    def branch(self, x):
        return self.drop(super().branch(x))


def seeded(model):
    def forward(x):
        torch.manual_seed(7)
        return model(x)

    forward.named_parameters, forward.zero_grad = model.named_parameters, model.zero_grad
    forward.named_buffers = model.named_buffers
    return forward


def test_stochastic_depth_of_torchvision():
    plain, other, x = pair(Net(Deep(), Deep()), n=8)
    assert ab.fast_path(other).taken == 2
    for training in (True, False):
        assert_same_pass(seeded(plain.train(training)), seeded(other.train(training)), x)


def test_drop_path_of_timm():
    plain = network("timm/resnet26", drop_path_rate=0.5)
    x = images("timm/resnet26", 8)
    other = fuse(plain, x)
    assert_same_pass(seeded(plain.train()), seeded(other.train()), x)


class Checkpointed(Block):
    def __init__(self, what, reentrant):
        super().__init__()
        self.what, self.reentrant = what, reentrant

    def forward(self, x):
        step = self.branch if self.what == "branch" else super().forward
        y = checkpoint(step, x, use_reentrant=self.reentrant)
        return self.act(y + x) if self.what == "branch" else y


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("what", ["branch", "block"])
def test_activation_checkpointing(what, reentrant, frozen):
    plain, other, x = pair(Net(Checkpointed(what, reentrant), Checkpointed(what, reentrant)))
    for model in (plain, other):
        for block in model.blocks:
            block.bn2.train(not frozen)
    assert_same_pass(plain, other, x)


def test_a_graph_that_is_kept():
    plain, other, x = pair(Net(Block(), Block()))
    grads = []
    for model in (plain, other):
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
    plain, other, x = pair(Net(Block(), Block()))
    grads = []
    for model in (plain, other):
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


def test_the_second_derivative_is_the_same_or_refused():
    plain, other, x = pair(Net(Block()))
    x.requires_grad_()
    (grad,) = torch.autograd.grad(plain(x).square().sum(), x, create_graph=True)
    grad.square().sum().backward()
    (grad,) = torch.autograd.grad(other(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|twice"):
        grad.square().sum().backward()


def test_functional_calls_and_function_transforms():
    plain, other, x = pair(Net(Block()))
    plain.eval()
    other.eval()
    found = []
    for model in (plain, other):
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
    plain, other, x = pair(Net(Block(), Block()))
    with mode():
        torch.testing.assert_close(other.train(training)(x), plain.train(training)(x), **CLOSE)
    assert_same_buffers(plain, other)
    assert_same_pass(plain, other, x)


class Watched(Block):
    """Looks at the branch without gradients, in training mode alone."""

    def __init__(self, look="before"):
        super().__init__()
        self.look = look

    def forward(self, x):
        y = self.branch(x)
        if self.training and self.look == "before":
            with torch.no_grad():
                self.seen = y.abs().mean()
        y = y + x
        if self.training and self.look == "after":
            with torch.no_grad():
                self.seen = (y * 2).mean()
        if self.training and self.look == "relu":
            with torch.no_grad():
                self.seen = F.relu(y).mean()
        return self.act(y)


@pytest.mark.parametrize("look", ["before", "after", "relu"])
def test_looking_without_gradients_does_not_lose_them(look):
    plain, other, x = pair(Net(Watched(look)))
    assert_same_pass(plain, other, x)
    torch.testing.assert_close(other.blocks[0].seen, plain.blocks[0].seen)


class Detached(Block):
    """The branch runs without gradients and the sum with them, or the other way round."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        if self.what == "norm":
            z = self.conv2(F.relu(self.bn1(self.conv1(x))))
            with torch.no_grad():
                y = self.bn2(z)
            return self.act(y + x)
        y = self.branch(x)
        if self.what == "sum":
            with torch.no_grad():
                y = y + x
            return self.act(y) + x
        y = y + x
        with torch.no_grad():
            y = self.act(y)
        return y + x


@pytest.mark.parametrize("what", ["norm", "sum", "relu"])
def test_a_part_without_gradients(what):
    plain, other, x = pair(Net(Detached(what)))
    assert_same_pass(plain, other, x)


class TwoUses(Block):
    def __init__(self, when="always"):
        super().__init__()
        self.when = when

    def forward(self, x):
        y = self.branch(x)
        total = F.relu(y + x)
        return total + y.sigmoid() if self.training or self.when == "always" else total


class Returned(Net):
    """Returns the branch, or the sum before its ReLU, beside the logits."""

    def __init__(self, what):
        super().__init__(Block())
        self.what = what

    def forward(self, x):
        x = self.stem(x)
        block = self.blocks[0]
        y = block.branch(x)
        total = y + x
        out = self.head(block.act(total).mean((2, 3)))
        return out, (y if self.what == "branch" else total)


@pytest.mark.parametrize("when", ["always", "training"])
def test_a_branch_that_is_used_twice(when):
    plain, other, x = pair(Net(TwoUses(when)), where=["blocks.0.bn2"])
    assert ab.fast_path(other).taken == 1
    if when == "always":
        assert other.blocks[0].bn2.then == ""
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


@pytest.mark.parametrize("what", ["branch", "sum"])
def test_a_map_that_is_returned_is_a_tensor(what):
    plain, other, x = pair(Returned(what), where=["blocks.0.bn2"])
    for model in (plain, other):
        assert isinstance(model(x)[1], torch.Tensor)
    torch.testing.assert_close(other(x), plain(x), **CLOSE)


class InPlace(Block):
    """out = branch; out += x; relu_(out), each way that networks write it."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        y = self.branch(x)
        if self.way == "iadd":
            y += x
            return self.act(y)
        if self.way == "iadd onto x":
            x = x.clone()
            x += y
            return F.relu(x, inplace=True)
        if self.way == "add_":
            return y.add_(x).relu_()
        if self.way == "torch.add":
            return torch.relu_(torch.add(x, y))
        if self.way == "alpha":
            return torch.relu(torch.add(y, x, alpha=2))
        if self.way == "kept":
            total = y + x
            return F.relu(total) + total
        if self.way == "relu twice":
            total = y + x
            return F.relu(total) + F.relu(total)
        total = y + x
        F.relu(total, inplace=True)
        return total


WAYS = ["iadd", "iadd onto x", "add_", "torch.add", "alpha", "kept", "relu twice", "dropped result"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_the_sum(way):
    plain, other, x = pair(Net(InPlace(way), InPlace(way)), where=["blocks.0.bn2", "blocks.1.bn2"])
    assert ab.fast_path(other).taken == 2
    for training in (True, False):
        assert_same_pass(plain.train(training), other.train(training), x)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.ReLU6()])
def test_every_activation(act):
    plain, other, x = pair(Net(Block(act=act), Block(act=act)))
    assert other.blocks[0].bn2.then == ("relu" if isinstance(act, nn.ReLU) else "sum")
    assert_same_pass(plain, other, x)


# --- a pending map --------------------------------------------------------------------------------


def pending(last="relu", dtype=torch.float64):
    z, mean, scale, shift, other = parts((3, 4, 5, 6))
    leaves = [v.to(dtype).requires_grad_() for v in (z, mean, scale, shift)]
    exact = [v.detach().clone().requires_grad_() for v in leaves]
    z, mean, scale, shift = exact
    value = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    return Pending(*leaves, last=last), value, other.to(dtype), leaves, exact


def twice_added(p, x):
    p += x
    p += 2 * x
    return p


def added_and_read(p, x):
    q = p
    p += x
    return q * p


def added_then_relu(p, x):
    p += x
    return F.relu(p, inplace=True) * p


def sum_read_twice(p, x):
    total = p + x
    return total.relu() * total + total.sum() * p


def changed(p, x):
    p = p * 1
    p[0] = 0
    return p


OPERATIONS = {
    "+": lambda p, x: p + x,
    "x+": lambda p, x: x + p,
    "-": lambda p, x: p - x,
    "x-": lambda p, x: x - p,
    "*": lambda p, x: p * x,
    "x*": lambda p, x: x * p,
    "/": lambda p, x: p / (x.abs() + 1),
    "x/": lambda p, x: x / (p.abs() + 1),
    "2-": lambda p, x: 2 - p,
    "2/": lambda p, x: 2 / (p.abs() + 1),
    "**": lambda p, x: p**2,
    "2**": lambda p, x: 2**p,
    "@": lambda p, x: p @ x.transpose(2, 3),
    "x@": lambda p, x: x.transpose(2, 3) @ p,
    "//": lambda p, x: p.detach() // 0.5 * p,
    "%": lambda p, x: p % 0.5,
    "neg": lambda p, x: -p,
    "pos": lambda p, x: +p,
    "abs": lambda p, x: abs(p),
    "==": lambda p, x: (p == x) * p,
    "!=": lambda p, x: (p != x) * p,
    "== 0": lambda p, x: (p == 0) * p,
    "!= 0": lambda p, x: (p != 0) * p,
    ">": lambda p, x: (p > 0) * p,
    "x>": lambda p, x: (x > p) * p,
    "<=": lambda p, x: (p <= x) * p,
    "number": lambda p, x: p + 3,
    "0+": lambda p, x: sum([p, x]),
    "broadcast": lambda p, x: p + x[:, :, :1, :1],
    "larger": lambda p, x: p + x[None],
    "float32": lambda p, x: p + x.float(),
    "integer": lambda p, x: p + torch.ones(3, 4, 5, 6, dtype=torch.int64),
    "pending": lambda p, x: p + p,
    "alpha": lambda p, x: torch.add(p, x, alpha=2),
    "x alpha": lambda p, x: torch.add(x, p, alpha=2),
    "torch.add": lambda p, x: torch.add(p, x),
    "torch.add named": lambda p, x: torch.add(input=p, other=x),
    ".add": lambda p, x: p.add(x),
    "x.add": lambda p, x: x.add(p),
    "x.add alpha": lambda p, x: x.add(p, alpha=3),
    "torch.sub": lambda p, x: torch.sub(p, x),
    "+=": lambda p, x: twice_added(p, x),
    "+= read": added_and_read,
    "+= relu_": added_then_relu,
    "x+=": lambda p, x: x.clone().add_(p),
    "-=": lambda p, x: p.__isub__(x),
    "sum read twice": sum_read_twice,
    "sum of three": lambda p, x: F.relu(p + x + x),
    "relu": lambda p, x: torch.relu(p),
    "relu named": lambda p, x: torch.relu(input=p),
    "F.relu named": lambda p, x: F.relu(input=p, inplace=False),
    ".relu": lambda p, x: (p + x).relu(),
    ".relu_": lambda p, x: (p + x).relu_(),
    "F.relu": lambda p, x: F.relu(p + x) + x,
    "F.relu in place": lambda p, x: F.relu(p + x, True),
    "nn.ReLU": lambda p, x: nn.ReLU(inplace=True)(p + x),
    "relu then use": lambda p, x: F.relu(p) * p,
    "silu": lambda p, x: F.silu(p + x),
    "cat": lambda p, x: torch.cat([p, x], 1),
    "cat of sums": lambda p, x: torch.cat((x, p + x), dim=1),
    "stack": lambda p, x: torch.stack([x, p, p]),
    "index": lambda p, x: p[:, 1:, ..., ::2],
    "mask": lambda p, x: p[x > 0],
    "setitem": changed,
    "iter": lambda p, x: torch.stack(list(p)),
    "chunk": lambda p, x: p.chunk(2, 1)[1],
    "shape": lambda p, x: p.view(p.shape[0], -1) * len(p) + p.size(1) + p.ndim + p.dim(),
    "mean": lambda p, x: p.mean((2, 3)) * 2,
    "flatten": lambda p, x: torch.flatten(p, 1),
    "T": lambda p, x: p.mT,
    "dropout": lambda p, x: F.dropout(p, 0.5, training=True),
    "dropout eval": lambda p, x: F.dropout(p, 0.5, training=False),
    "pool": lambda p, x: F.adaptive_avg_pool2d(p, 1),
    "conv": lambda p, x: F.conv2d(p, x[:, :, :3, :3]),
    "where": lambda p, x: torch.where(x > 0, p, x),
    "einsum": lambda p, x: torch.einsum("nchw,nchw->nc", p, x),
    "detach": lambda p, x: p.detach() * p,
    "clone": lambda p, x: p.clone(),
    "float": lambda p, x: p.float().double(),
    "to": lambda p, x: p.to(torch.float64) + x,
    "new": lambda p, x: p * p.new_ones(1) + torch.zeros_like(p),
    "item": lambda p, x: p * p.sum().item(),
    "float of one": lambda p, x: p * float(p.detach()[0, 0, 0, 0]),
}


@pytest.mark.parametrize("last", ["relu", "sum"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_is_done_with_a_pending_map(operation, last):
    p, value, x, leaves, exact = pending(last)
    work = OPERATIONS[operation]
    torch.manual_seed(3)
    expected = work(value, x)
    torch.manual_seed(3)
    found = work(p, x)
    if isinstance(found, Pending):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert found.device == expected.device
        assert found.ndim == expected.ndim
        found = found.compute()
    torch.testing.assert_close(found, expected, **CLOSE)
    grad = torch.randn(expected.shape, dtype=expected.dtype)
    expected.backward(grad)
    found.backward(grad)
    for a, b in zip(leaves, exact, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def test_a_sum_waits_and_its_relu_ends_it():
    p, _, x, *_ = pending()
    assert isinstance(p + x, Pending)
    assert isinstance(x + p, Pending)
    assert isinstance(torch.relu(p + x), torch.Tensor)
    assert not isinstance(p + 1, Pending)
    assert not isinstance((p + x) + x, Pending)
    p, _, x, *_ = pending("sum")
    assert isinstance(p + x, torch.Tensor)


@pytest.mark.parametrize("work", [bool, float, int, hash, repr, str], ids=lambda f: f.__name__)
def test_python_functions_of_a_pending_map(work):
    """They do what they do with the tensor: errors too."""
    p, value, *_ = pending()
    try:
        work(value)
    except (RuntimeError, ValueError, TypeError) as e:
        with pytest.raises(type(e)):
            work(p)
    else:
        assert work in (hash, repr, str)
        assert work is hash or work(p)


def test_a_pending_map_of_one_value():
    one = torch.full((1, 1, 1, 1), 2.0)
    p = Pending(one, None, torch.full((1, 1), 3.0), None)
    assert (bool(p), float(p), int(p), p.item(), p.tolist()) == (True, 6.0, 6, 6.0, [[[[6.0]]]])
    zero = Pending(one, None, torch.zeros(1, 1), None)
    assert not zero


def test_a_pending_map_of_16_bits_adds_in_16_bits_as_torch_does():
    p, _, x, *_ = pending(dtype=torch.bfloat16)
    with torch.no_grad():
        found = p + x
    assert found.dtype == torch.bfloat16
    assert (p + x.float()).dtype == torch.float32


# --- pooling before a convolution -----------------------------------------------------------------

CONVS = [
    (kernel, padding, dilation, groups, bias)
    for kernel in (1, 3, 5, (3, 1), (1, 7))
    for padding in (0, 1, 2, 3)
    for dilation in (1, 2)
    for groups in (1, 2, 4)
    for bias in (False, True)
]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 1), (1, 7), (4, 3)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2, 3, (0, 2), (3, 1)], ids=str)
def test_the_mean_of_a_convolution_from_its_input(kernel, padding):
    """Against the convolution itself, over dilations, groups, biases and sizes of the map."""
    ran = 0
    for dilation in (1, 2, (1, 3)):
        for groups, bias in ((1, False), (2, True), (4, False), (4, True)):
            conv = nn.Conv2d(
                *(4, 8, kernel),
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=bias,
                dtype=torch.float64,
            )
            assert has_pooled_form(conv)
            for side in ((1, 1), (2, 3), (7, 5), (4, 9)):
                h = torch.randn(2, 4, *side, dtype=torch.float64, requires_grad=True)
                reach = [
                    side[i] + 2 * conv.padding[i] - conv.dilation[i] * (conv.kernel_size[i] - 1)
                    for i in (0, 1)
                ]
                if min(reach) < 1:
                    continue
                ran += 1
                expected, found = conv(h).mean((2, 3)), pooled_conv(h, conv)
                torch.testing.assert_close(found, expected, **CLOSE)
                grad = torch.randn_like(found)
                leaves = [h, *conv.parameters()]
                for a, b in zip(
                    torch.autograd.grad(found, leaves, grad),
                    torch.autograd.grad(expected, leaves, grad),
                    strict=True,
                ):
                    torch.testing.assert_close(a, b, **CLOSE)
    assert ran


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_of_a_strided_pointwise_convolution(stride, groups):
    conv = nn.Conv2d(4, 6, 1, stride=stride, groups=groups, dtype=torch.float64)
    assert has_pooled_form(conv)
    for side in ((1, 1), (5, 4), (2, 7)):
        h = torch.randn(3, 4, *side, dtype=torch.float64)
        torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3)), **CLOSE)


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
    plain, other, x = pair(model, where=["1"])
    assert ab.fast_path(other).taken == 1
    assert_same_pass(plain, other, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_pooled_mean_of_16_bits_is_float32(dtype):
    conv = nn.Conv2d(4, 6, 3, padding=1)
    h = torch.randn(2, 4, 9, 9).to(dtype)
    found = pooled_conv(h, conv)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, conv(h.float()).mean((2, 3)), rtol=1e-5, atol=1e-5)


# --- the reductions -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_each_sample_and_channel(dtype):
    z = (50 + torch.randn(3, 4, 7, 5)).to(dtype)
    mean, var = affine_reference.moments(z)
    assert mean.dtype == var.dtype == torch.float32
    exact = z.double()
    torch.testing.assert_close(mean.double(), exact.mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        var.double(), exact.var((2, 3), correction=0), rtol=1e-5, atol=1e-6 * math.sqrt(35)
    )
