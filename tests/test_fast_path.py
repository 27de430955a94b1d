"""Fusing and folding against the plain networks, torchvision, timm and torch's own layers.

The norms are randomised first: fresh ones are nearly the identity and hide every mistake.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.deploy import folding
from accuracy_booster.models.preact_cifar import PreActResNet
from accuracy_booster.ops import backend, fused
from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.ops.pending import Pending
from accuracy_booster.ops.pooled import has_pooled_form, pooled_conv
from accuracy_booster.ops.scaled import scaled_conv

FROM_MEANS = ["ab", "ab_plus", "ab_g2", "se", "eca", "ge_theta_minus", "design_f", "ab_nobn"]
NETWORKS = {
    "resnet8": 12,
    "wrn10_1": 12,
    "torchvision/resnet18": 32,
    "torchvision/mobilenet_v2": 32,
    "timm/resnet26": 32,
    "timm/regnetx_002": 32,
    "shufflenet_g3": 32,
}


def randomise(model):
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                *((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)),
                *((module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0)),
            ):
                if tensor is not None:
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=generator)
    return model


def make(name, recipe, **given):
    torch.manual_seed(0)
    if name == "preact":
        model = PreActResNet(20, variant="v1")
        if recipe:
            ab.boost(model, recipe, example=torch.zeros(1, 3, 12, 12))
    else:
        model = ab.create_model(name, recipe=recipe, **given)
    return randomise(model)


def images(count, side, dtype=torch.float64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2)).to(dtype)


def passed(model, x):
    """Output, and gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    (y * weight).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


def close(found, expected, tolerance=1e-9):
    largest = max(float(e.abs().max()) for e in expected[2:]) if len(expected) > 2 else 1.0
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        scale = float(b.abs().max()) if i < 2 else max(float(b.abs().max()), 1e-3 * largest)
        assert float((a - b).abs().max()) <= tolerance * max(scale, 1e-6), i


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", [*NETWORKS, "preact"])
@pytest.mark.parametrize("recipe", ["ab", "se", None])
def test_fused_is_the_plain_network_in_training_and_eval(name, recipe, layout):
    side = NETWORKS.get(name, 12)
    plain = make(name, recipe).double().to(memory_format=layout)
    quick = copy.deepcopy(plain)
    ab.fuse(quick, example=torch.zeros(1, 3, side, side))
    assert ab.fast_path(quick).taken or (recipe is None and name in ("wrn10_1", "preact"))
    assert list(quick.state_dict()) == list(plain.state_dict())
    x = images(6, side).contiguous(memory_format=layout)
    for model in (plain, quick):  # dropout in MobileNet
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    for _ in range(2):
        close(passed(quick.train(), x), passed(plain.train(), x), 1e-7)
    for a, b in zip(quick.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    close(passed(quick.eval(), x), passed(plain.eval(), x), 1e-7)


@pytest.mark.parametrize("recipe", FROM_MEANS)
@pytest.mark.parametrize("name", ["resnet8", "preact"])
def test_every_gate_that_reads_means_is_fused(name, recipe):
    plain = make(name, recipe).double()
    quick = ab.fuse(copy.deepcopy(plain), example=torch.zeros(1, 3, 12, 12))
    report = ab.fast_path(quick)
    assert report.taken == len(report.places) > 0
    x = images(6, 12)
    close(passed(quick.train(), x), passed(plain.train(), x))
    close(passed(quick.eval(), x), passed(plain.eval(), x))


@pytest.mark.parametrize(
    ("name", "recipe", "reason"),
    [
        ("resnet8", "cbam", "reads more than each channel's mean"),
        ("resnet8", "design_j", "reads more than each channel's mean"),
        ("timm/convnext_femto", "ab", "NHWC"),
        ("timm/resnet10t", "ab", None),
    ],
)
def test_what_cannot_be_fused_or_folded_says_why_and_stays_right(name, recipe, reason):
    side = 12 if name == "resnet8" else 64
    plain = make(name, recipe).eval()
    x = images(2, side, torch.float32)
    if name == "timm/convnext_femto" and not any(
        "NHWC" in str(s) for s in ab.plan(ab.create_model(name), "ab").table()[1]
    ):
        pytest.skip("this timm's ConvNeXt-femto has no NHWC MLP")
    expected = plain(x)
    for model in (ab.fuse(copy.deepcopy(plain)), ab.fold(plain, verify=True)):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
        report = ab.fast_path(model)
        if reason:
            assert report.taken == 0
            assert all(reason in place.how for place in report.places)
        else:
            assert report.taken == len(report.places)
        assert report.summary() in str(report)


@pytest.mark.parametrize("norm", ["momentum", "statistics", "affine", "frozen", "synchronised"])
def test_norms_of_every_kind(norm):
    plain = make("resnet8", "ab")
    if norm == "synchronised":
        plain = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    plain = plain.double()
    for name, module in list(plain.named_modules()):
        if name.endswith("bn2"):
            if norm == "momentum":
                module.momentum = None
            if norm == "statistics":
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
            if norm == "affine":
                module.weight = module.bias = None
    quick = ab.fuse(copy.deepcopy(plain), example=torch.zeros(1, 3, 12, 12))
    assert ab.fast_path(quick).taken == 3
    x = images(6, 12)
    for model in (plain, quick):
        model.train()
        for name, module in model.named_modules():
            if norm == "frozen" and name.endswith("bn2"):
                module.training = False
    if norm != "synchronised":  # torch's own refuses to train on the CPU
        for _ in range(3):
            close(passed(quick, x), passed(plain, x))
    else:
        quick(x)
        reference = ab.fuse(make("resnet8", "ab").double()).train()
        torch.testing.assert_close(quick(x), (reference(x), reference(x))[0])
        return
    for a, b in zip(quick.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    close(passed(quick.eval(), x), passed(plain.eval(), x))


def test_a_mean_far_from_zero_costs_no_precision():
    generator = torch.Generator().manual_seed(0)
    x = 1000 + torch.randn(8, 3, 6, 6, generator=generator)
    g = torch.randn(x.shape, generator=generator)
    norm = ab.fuse(nn.Sequential(randomise(nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 1)))
    norm = randomise(nn.BatchNorm2d(3))
    from accuracy_booster.surgery.fused import FusedBatchNorm2d

    exact = copy.deepcopy(norm).double()
    norm.__class__ = FusedBatchNorm2d
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    (norm(a) * g).sum().backward()
    expected = exact(b)
    (expected * g.double()).sum().backward()
    torch.testing.assert_close(norm(x).double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        a.grad.double(), b.grad, rtol=0, atol=1e-3 * float(b.grad.abs().max())
    )
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=0.2, atol=0)
    _, var = fused.moments(x)
    torch.testing.assert_close(
        var.double(), x.double().var((2, 3), correction=0), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("name", ["resnet8", "preact"])
def test_compiled_is_eager(name, norms):
    plain = make(name, "ab").double().train()
    quick = ab.fuse(copy.deepcopy(plain), example=torch.zeros(1, 3, 12, 12))
    x = images(4, 12)
    expected = passed(plain, x)
    torch.compile(copy.deepcopy(make(name, None).double()), backend="aot_eager")(x)  # one before
    compiled = torch.compile(quick, backend="aot_eager")

    def forward(x):
        if not norms:
            return compiled(x)
        with BatchNorms():
            return compiled(x)

    x = x.clone().requires_grad_()
    y = forward(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    (y * weight).sum().backward()
    close([y.detach(), x.grad, *(p.grad for p in quick.parameters())], expected)


def kept(model, x, channels):
    """Map-sized storages that the pass keeps for the gradient."""
    found = {}

    def pack(tensor):
        if tensor.numel() >= len(x) * channels * 16:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    size = sum(found.values())
    del y
    return size


@pytest.mark.parametrize("name", ["resnet8", "preact"])
def test_a_gate_keeps_no_further_map(name):
    x = images(4, 32)  # smaller ones have fewer positions than the last stage has channels
    channels = 16 if name == "resnet8" else 64
    sizes = {}
    for recipe in (None, "ab"):
        for fuse in (False, True):
            model = make(name, recipe).double().train()
            if fuse:
                ab.fuse(model, example=torch.zeros(1, 3, 32, 32))
            sizes[recipe, fuse] = kept(model, x, channels)
    assert sizes["ab", True] <= 1.01 * min(sizes[None, True], sizes[None, False])
    assert sizes["ab", False] > 1.05 * sizes[None, False]


def test_undoing_copying_saving_and_the_rest_of_the_library(tmp_path):
    plain = make("resnet8", "ab").eval()
    x = images(3, 12, torch.float32)
    expected = plain(x)
    quick = ab.fuse(copy.deepcopy(plain))
    classes = [type(m) for m in plain.modules()]
    for again in (copy.deepcopy(quick), pickle.loads(pickle.dumps(quick))):
        assert ab.fast_path(again).taken == 3
        torch.testing.assert_close(again(x), expected)
    with ab.disabled(quick), ab.disabled(plain):
        torch.testing.assert_close(quick(x), plain(x))
    assert ab.complexity(quick, (3, 12, 12)).macs == ab.complexity(plain, (3, 12, 12)).macs
    ab.save(quick, tmp_path / "gates", full=True)
    loaded = ab.load(ab.create_model("resnet8"), tmp_path / "gates").eval()
    torch.testing.assert_close(loaded(x), expected)
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(quick)).eval()
    torch.testing.assert_close(sync(x), expected)
    with backend.using("unfused"):
        assert torch.equal(quick(x), expected)
    exported = torch.export.export(quick, (x,)).module()
    torch.testing.assert_close(exported(x), expected)
    assert [type(m) for m in ab.unfuse(quick).modules()] == classes
    assert torch.equal(quick(x), expected)
    bare = ab.unboost(ab.fuse(copy.deepcopy(plain)))
    with ab.disabled(plain):
        torch.testing.assert_close(bare(x), plain(x))


def test_bad_input():
    model = make("resnet8", "ab")
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\) first"):
        ab.fold(model)
    model.eval().layer1[0].bn1.train()
    with pytest.raises(ValueError, match=r"its norm 'layer1.0.bn1' is in training mode"):
        ab.fold(model)
    model.eval()
    with pytest.raises(ValueError, match="is folded already"):
        ab.fold(ab.fold(model))
    with pytest.raises(ValueError, match="is neither fused nor folded"):
        ab.fast_path(model)
    with pytest.raises(ValueError, match="is not fused"):
        ab.unfuse(model)
    with pytest.raises(ValueError, match=r"is fused already; ab.unfuse\(model\) undoes it"):
        ab.fuse(ab.fuse(model))
    with pytest.raises(ValueError, match="is folded already"):
        ab.fuse(ab.fold(model))
    with pytest.raises(ValueError, match="DataParallel"):
        ab.fold(nn.DataParallel(model).eval())
    with pytest.raises(ValueError, match="compiled"):
        ab.fuse(torch.compile(ab.unfuse(model)))
    with pytest.raises(ValueError, match="unknown backend 'tritn'; nearest: triton"):
        backend.using("tritn").__enter__()


def test_hooks_of_others_see_tensors():
    quick = ab.fuse(make("resnet8", "ab").double()).train()
    seen = []
    quick.layer1[0].bn2.register_forward_hook(lambda m, i, o: seen.append(type(o)))
    quick.layer2[0].bn2.register_full_backward_hook(lambda m, i, o: seen.append(o[0].shape))
    plain = make("resnet8", "ab").double().train()
    x = images(4, 12)
    close(passed(quick, x), passed(plain, x))
    assert seen == [torch.Tensor, torch.Size([4, 32, 6, 6])]


def test_stochastic_depth_checkpoints_and_part_of_a_gradient():
    plain = make("timm/resnet10t", "ab", drop_path_rate=0.5).double().train()
    quick = ab.fuse(copy.deepcopy(plain))
    x = images(4, 32)
    for model in (plain, quick):
        torch.manual_seed(5)
        model.result = passed(model, x)
    close(quick.result, plain.result, 1e-7)
    plain = make("resnet8", "ab").double().train()
    quick = ab.fuse(copy.deepcopy(plain))
    expected = passed(copy.deepcopy(plain), x)
    y = quick(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    loss = (y * weight).sum()
    torch.autograd.grad(loss, [quick.layer3[0].bn2.weight], retain_graph=True)
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in quick.parameters()]
    close([y.detach(), y.detach(), *first], [expected[0], expected[0], *expected[2:]])
    loss.backward()
    for a, b in zip(quick.parameters(), first, strict=True):
        torch.testing.assert_close(a.grad, 2 * b)
    for reentrant in (False, True):
        quick.zero_grad()
        h = quick.act1(quick.bn1(quick.conv1(x)))
        for stage in (quick.layer1, quick.layer2, quick.layer3):
            h = torch.utils.checkpoint.checkpoint(stage, h, use_reentrant=reentrant)
        (quick.forward_head(h) * weight).sum().backward()
        close(
            [y.detach(), y.detach(), *(p.grad for p in quick.parameters())],
            [expected[0], expected[0], *expected[2:]],
        )


OPERATIONS = {
    "add": lambda p, t: p + t,
    "radd": lambda p, t: t + p,
    "add twice": lambda p, t: (p + t) + t,
    "both pending": lambda p, t: p + (p + t),
    "add a number": lambda p, t: p + 2,
    "add broadcast": lambda p, t: p + t[:1, :, :1],
    "another dtype": lambda p, t: p + t.float(),
    "alpha": lambda p, t: torch.add(p, t, alpha=2),
    "relu": lambda p, t: torch.relu(p),
    "relu of the sum": lambda p, t: F.relu(p + t),
    "relu in place": lambda p, t: F.relu(t + p, inplace=True) * 2,
    "mul": lambda p, t: p * t + t * p,
    "sub": lambda p, t: (p - t) - (t - p),
    "div and neg": lambda p, t: -p / 2,
    "index": lambda p, t: p[:, 1] + len(p),
    "cat": lambda p, t: torch.cat([p, t], 1),
    "mean": lambda p, t: p.mean((2, 3)),
    "clamp": lambda p, t: torch.clamp(p, max=0.1) + p.shape[0],
    "dropout": lambda p, t: F.dropout(p, 0.0) + t,
    "compare": lambda p, t: torch.where(p > t, p, t),
    "pool": lambda p, t: F.adaptive_avg_pool2d(p, 1),
}


def iadd(p, t):
    p += t
    p += t
    return F.relu(p)


@pytest.mark.parametrize("last", ["sum", "relu"])
@pytest.mark.parametrize("operation", [*OPERATIONS.values(), iadd], ids=[*OPERATIONS, "iadd"])
def test_a_pending_map_is_its_tensor(operation, last):
    g = torch.Generator().manual_seed(0)
    z, t = (torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(3))
    grads = []
    for pending in (True, False):
        leaves = [v.clone().requires_grad_() for v in (z, mean, scale, shift, t)]
        a, m, s, b, other = leaves
        value = (
            Pending(a, m, s, b, last=last)
            if pending
            else ((a - m[..., None, None]) * s[..., None, None] + b[..., None, None])
        )
        y = operation(value, other)
        y = y.compute() if isinstance(y, Pending) else y
        (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        grads.append([y.detach(), *(v.grad for v in leaves if v.grad is not None)])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 1), (1, 7)])
@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_mean_of_a_convolution_from_its_input(kernel, padding, dilation, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, kernel, padding=padding, dilation=dilation, groups=groups).double()
    assert has_pooled_form(conv)
    for size in ((9, 8), (1, 1), (2, 5)):
        h = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
        try:
            expected = conv(h).mean((2, 3))
        except RuntimeError:
            continue  # the kernel is larger than the padded map
        torch.testing.assert_close(pooled_conv(h, conv), expected)
        weight = torch.randn_like(expected)
        found = torch.autograd.grad((pooled_conv(h, conv) * weight).sum(), [h, conv.weight])
        wanted = torch.autograd.grad((expected * weight).sum(), [h, conv.weight])
        torch.testing.assert_close(found, wanted)


def test_which_convolutions_have_a_pooled_form():
    assert has_pooled_form(nn.Conv2d(4, 4, 1, stride=2))
    conv = nn.Conv2d(4, 4, 1, stride=2)
    h = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3)))
    for other in ({"stride": 2}, {"padding_mode": "circular"}, {"padding": "same"}):
        assert not has_pooled_form(nn.Conv2d(4, 4, 3, **other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
def test_a_scale_in_the_weights(layout, bias):
    conv = nn.Conv2d(3, 5, 1, bias=bias).double()
    h = torch.randn(4, 3, 6, 2, dtype=torch.float64).contiguous(memory_format=layout)
    p = torch.rand(4, 5, dtype=torch.float64)
    found, expected = scaled_conv(h, conv, p), conv(h) * p[:, :, None, None]
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)


def folded_close(model, x, folded):
    with torch.no_grad():
        expected, found = model(x), folded(x)
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-10
    assert float((expected - found).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("form", ["input", "output"])
@pytest.mark.parametrize("name", [*NETWORKS, "preact", "timm/efficientnet_lite0"])
@pytest.mark.parametrize("recipe", ["ab", "se", "ab_plus"])
def test_folded_is_the_model(name, recipe, form, monkeypatch):
    monkeypatch.setattr(folding, "choose_form", lambda *given: form)
    side = NETWORKS.get(name, 12 if name == "preact" else 32)
    model = make(name, recipe).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = ab.fold(model, example=torch.zeros(1, 3, side, side), verify=True)
    report = ab.fast_path(folded)
    assert report.taken == len(report.places) > 0
    norms = [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if name not in ("wrn10_1", "preact"):  # whose sums are followed by norms
        assert not norms
    folded_close(model, images(3, side, torch.float32), folded)
    folded_close(model, images(2, side + 4, torch.float32), folded)  # another size and batch
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "the model has changed"
    assert all(not hasattr(m, "gate") for m in model.modules())


@pytest.mark.parametrize("form", ["input", "output"])
@pytest.mark.parametrize(
    "recipe",
    [
        *FROM_MEANS,
        "gap | dense | bn | dense(groups=C) | sigmoid(scale=2)",
        "gap | bn | conv1d(3) | bn | sigmoid",
        "gap | bn | bottleneck(4) | dense(groups=2) | bn | sigmoid",
        "gather(global) | conv1d(5) | dense(groups=4) | sigmoid",
    ],
)
def test_every_gate_that_reads_means_folds(recipe, form, monkeypatch):
    monkeypatch.setattr(folding, "choose_form", lambda *given: form)
    for name in ("resnet8", "preact"):
        model = make(name, recipe).eval()
        folded = ab.fold(model, example=torch.zeros(1, 3, 12, 12))
        assert ab.fast_path(folded).taken == len(ab.fast_path(folded).places)
        folded_close(model.double(), images(3, 12), ab.fold(model, example=images(1, 12)))
        folded_close(model.float(), images(3, 12, torch.float32), folded)


@pytest.mark.parametrize("recipe", [r for r in ab.list_recipes() if r not in FROM_MEANS])
def test_other_gates_stay_right(recipe):
    model = make("resnet8", recipe, input_size=(3, 12, 12)).eval()
    folded = ab.fold(model, example=torch.zeros(1, 3, 12, 12), verify=True)
    folded_close(model, images(2, 12, torch.float32), folded)


def test_a_folded_network_is_chosen_by_size():
    """At 56x56 with 64 channels the input is read, at 7x7 with 512 the output."""
    model = make("resnet50", "ab").eval()
    report = ab.fast_path(ab.fold(model, example=torch.zeros(8, 3, 224, 224)))
    how = {place.name: place.how for place in report.places}
    assert "input" in how["layer1.0.bn3"]
    assert "output" in how["layer4.2.bn3"]


def test_a_folded_network_compiles_copies_and_comes_of_a_fused_one():
    model = make("resnet8", "ab").eval()
    x = images(3, 12, torch.float32)
    folded = ab.fold(model)
    for other in (
        copy.deepcopy(folded),
        pickle.loads(pickle.dumps(folded)),
        torch.compile(folded, backend="aot_eager"),
        torch.export.export(folded, (x,)).module(),
        ab.fold(ab.fuse(copy.deepcopy(model))),
    ):
        folded_close(model, x, other)
    plain = make("torchvision/resnet18", None).eval()
    quick = ab.fold(plain, verify=True)
    assert not [m for m in quick.modules() if isinstance(m, nn.BatchNorm2d)]
    folded_close(plain, images(2, 32, torch.float32), quick)


class Odd(nn.Module):
    """Convolutions and norms that must not be folded together."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)  # the convolution is read twice
        self.b, self.nb = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)  # runs twice
        self.c = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.nc = nn.BatchNorm2d(4)
        self.d, self.e = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.e.weight = self.d.weight  # tied: each gets its own when its norm goes in
        self.nd, self.ne = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.f, self.nf = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.g, self.ng = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        a = self.a(x)
        x = self.na(a) + a
        x = self.nb(self.b(self.nb(self.b(x))))
        x = self.ne(self.e(self.nd(self.d(self.nc(self.c(x))))))
        return self.ng(self.g(self.nf(self.f(x))))


def test_odd_networks_fold_to_what_they_compute():
    model = randomise(Odd()).double().eval()
    seen = []
    model.ng.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    x = images(2, 8)
    folded = ab.fold(model, example=x[:1])
    folded_close(model, x, folded)
    left = [n for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["na", "nb", "nc", "nf", "ng"]
    assert len(seen) > 2
    ab.boost(model.float(), "ab", where=["a", "d"], example=x[:1].float())
    gated = ab.fold(randomise(model).eval(), example=x[:1].float())
    folded_close(model, x.float(), gated)


def test_verifying_finds_a_wrong_fold(monkeypatch):
    right = folding.fold_norm

    def wrong(conv, norm):
        conv = right(conv, norm)
        conv.bias = nn.Parameter(conv.bias * 1.01)
        return conv

    monkeypatch.setattr(folding, "fold_norm", wrong)
    with pytest.raises(RuntimeError, match="from the exact output"):
        ab.fold(make("resnet8", "ab").eval(), verify=True)


def test_a_trained_public_network(shared):
    from accuracy_booster.models import from_akamaster

    saved = torch.load(shared / "weights" / "resnet20_cifar10.th", "cpu", weights_only=True)
    model = ab.create_model("resnet20")
    model.load_state_dict(from_akamaster(saved["state_dict"]))
    model.eval()
    x = images(4, 32, torch.float32)
    folded_close(model, x, ab.fold(model, verify=True))
    ab.boost(model, "ab", init="identity")
    folded = ab.fold(model, verify=True)
    assert ab.fast_path(folded).taken == 9
    folded_close(model, x, folded)
