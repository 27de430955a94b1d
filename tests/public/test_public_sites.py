"""The sites of networks of unusual shape, as people reported them; counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab

C = 8


class Branch(nn.Sequential):
    def __init__(self, channels: int = C, out: int | None = None):
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, out or channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out or channels),
        )


class Net(nn.Module):
    """Two branches b1, b2 and whatever a test adds; `run` is the forward."""

    def __init__(self, run, **children: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.b1, self.b2 = Branch(), Branch()
        for name, child in children.items():
            self.add_module(name, child)
        self.run = run
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.run(self, x)


def image(n: int = 2, channels: int = C) -> torch.Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check(make, sites: list[str], x: torch.Tensor | None = None) -> None:
    """These sites and no others, and each of their operands is halved exactly once."""
    x = image() if x is None else x

    def fresh():
        torch.manual_seed(0)
        return make().eval()

    model = fresh()
    plan = ab.plan(model, "ab", example=x)
    assert [gate.site.name for gate in plan.gates] == sites
    ab.boost(model, "ab", example=x)
    for parameter in ab.added_parameters(model):
        parameter.zero_()
    reference = fresh()
    before = reference(x)
    for site in sites:
        reference.get_submodule(site).register_forward_hook(lambda m, a, y: y / 2)
    expected = reference(x)
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "place",
    ["cat", "view"],
)
def test_a_sum_into_some_of_the_channels(place):
    """timm#685 (ReXNet): the shortcut is added to the first channels of the branch."""

    def run(self, x):
        y = self.wide(x)
        if place == "view":
            y[:, :C] += x
        else:
            y = torch.cat((y[:, :C] + x, y[:, C:]), 1)
        return y + self.after(y)

    check(
        lambda: Net(run, wide=Branch(out=C + 4), after=Branch(C + 4)),
        ["wide.4", "after.4"],
    )


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_stochastic_depth_as_a_function(mode):
    """vision#4298: the branch is dropped at random between its last layer and the sum."""
    from torchvision.ops import stochastic_depth

    def run(self, x):
        for branch in (self.b1, self.b2):
            x = x + stochastic_depth(branch(x), 0.5, mode, self.training)
        return x

    check(lambda: Net(run), ["b1.4", "b2.4"])


def test_one_drop_path_for_two_branches():
    """libreyolo#422: two branches share a module that passes maps through; the gates do not."""
    timm_layers = pytest.importorskip("timm.layers")

    def run(self, x):
        x = x + self.drop(self.b1(x))
        return x + self.drop(self.b2(x))

    check(lambda: Net(run, drop=timm_layers.DropPath(0.1)), ["b1.4", "b2.4"])


def test_one_dropout_for_two_branches_and_the_stem():
    """The same, where the shared module is used outside the branches too."""

    def run(self, x):
        x = self.drop(x)
        x = x + self.drop(self.b1(x))
        return self.drop(x + self.drop(self.b2(x)))

    check(lambda: Net(run, drop=nn.Dropout(0.5)), ["b1.4", "b2.4"])


def test_branches_that_end_in_a_shared_activation():
    """vision#3597: one nn.ReLU at many places; a gate on it would act at each of them."""

    def run(self, x):
        x = self.act(x)
        x = x + self.act(self.b1(x))
        return self.act(x + self.act(self.b2(x)))

    def make():
        return Net(run, act=nn.ReLU())

    model = make().eval()
    names = [gate.site.name for gate in ab.plan(model, "ab", example=image()).gates]
    assert "act" not in names
    check(make, ["b1.4", "b2.4"])


def test_one_block_run_as_two():
    """composer#249: the same module object under two names is one module."""

    def run(self, x):
        x = x + self.b1(x)
        return x + self.b2(x)

    def make():
        net = Net(run)
        net.b1[2] = net.b2[2]  # the activation only
        net.b1[0] = net.b2[0]  # and the first convolution, with its weights
        return net

    check(make, ["b1.4", "b2.4"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant):
    """peft#2826: blocks that run under activation checkpointing are found as without it."""
    from torch.utils.checkpoint import checkpoint

    def run(self, x):
        for branch in (self.b1, self.b2):
            x = checkpoint(lambda x, b=branch: x + b(x), x, use_reentrant=reentrant)
        return x

    check(lambda: Net(run), ["b1.4", "b2.4"])


def test_timm_with_gradient_checkpointing():
    """The switch of timm's networks, before and after."""
    timm = pytest.importorskip("timm")
    x = torch.randn(1, 3, 64, 64)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    before = [gate.site.name for gate in ab.plan(model, "ab", example=x).gates]
    model.set_grad_checkpointing(True)
    assert before
    assert [gate.site.name for gate in ab.plan(model, "ab", example=x).gates] == before
    assert [gate.site.name for gate in ab.plan(model.train(), "ab", example=x).gates] == before
    assert model.training


def test_lazy_layers_that_have_run():
    """pytorch#65051: a lazy layer becomes an ordinary one in its first forward."""

    def run(self, x):
        x = x + self.lazy(x)
        return x + self.b1(x)

    def make():
        lazy = nn.Sequential(
            nn.LazyConv2d(C, 3, padding=1), nn.ReLU(), nn.LazyConv2d(C, 1), nn.LazyBatchNorm2d()
        )
        net = Net(run, lazy=lazy)
        torch.manual_seed(5)
        net(image())
        return net

    check(make, ["lazy.3", "b1.4"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_needs_no_example(dtype):
    """The default example has the network's own type."""

    class Sized(Net):
        def __init__(self):
            super().__init__(lambda self, x: (self.stem(x) + self.b1(self.stem(x))).mean((2, 3)))
            self.stem = nn.Conv2d(3, C, 7, stride=8)

    model = Sized().to(dtype).eval()
    plan = ab.plan(model, "ab")
    assert [gate.site.name for gate in plan.gates] == ["b1.4"]
    ab.boost(model, "ab", init="identity")
    assert all(p.dtype == dtype for p in ab.added_parameters(model))
    assert model(torch.zeros(1, 3, 32, 32, dtype=dtype)).dtype == dtype


def test_default_dtype_and_device_of_the_caller():
    """A caller's torch.set_default_dtype does not leak into the example or into the gates."""

    def run(self, x):
        x = self.stem(x)
        return x + self.b1(x)

    model = Net(run, stem=nn.Conv2d(3, C, 7, stride=8)).eval()
    torch.set_default_dtype(torch.float64)
    try:
        ab.boost(model, "ab")
    finally:
        torch.set_default_dtype(torch.float32)
    assert [p.dtype for p in ab.added_parameters(model)] == [torch.float32] * 3
    assert list(ab.surgery.attached(model)) == ["b1.4"]


def test_a_network_built_without_memory():
    """accelerate's init_empty_weights, transformers' way: boost on meta, then load the weights."""
    with torch.device("meta"):
        model = Net(lambda self, x: x + self.b1(x) + self.b2(x) * 0).eval()
    meta = torch.empty(1, C, 8, 8, device="meta")
    ab.boost(model, "ab", example=meta)
    full = Net(lambda self, x: x + self.b1(x) + self.b2(x) * 0).eval()
    ab.boost(full, "ab", example=image())
    assert list(ab.surgery.attached(model)) == list(ab.surgery.attached(full))
    model.load_state_dict(full.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(model(image()), full(image()))


def test_functional_norm_at_the_end_of_a_branch():
    """pytorch#122070: the norm is F.batch_norm, so that the last module is a convolution."""

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(C, C, 3, padding=1)
            self.conv2 = nn.Conv2d(C, C, 3, padding=1)
            self.register_buffer("mean", torch.full((C,), 0.3))
            self.register_buffer("var", torch.full((C,), 2.0))

        def forward(self, x):
            y = self.conv2(F.relu(self.conv1(x)))
            return F.batch_norm(y, self.mean, self.var)

    model = Net(lambda self, x: x + self.f(x), f=Functional()).eval()
    plan = ab.plan(model, "ab", example=image())
    assert [gate.site.name for gate in plan.gates] == ["f"]  # after the norm, not before it
    ab.boost(model, "ab", example=image())
    with torch.no_grad():
        for parameter in ab.added_parameters(model):
            parameter.zero_()
        halved = model(image()) - image()
        torch.testing.assert_close(halved, (ab.unboost(model)(image()) - image()) / 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_sum_of_flattened_maps(transposed):
    """mmpretrain#271, timm#1680: maps travel as tokens, and are maps inside the branches only."""

    def tokens(x):
        x = x.flatten(2)
        return x.transpose(1, 2) if transposed else x

    def run(self, x):
        t = tokens(x)
        for branch in (self.b1, self.b2):
            maps = (t.transpose(1, 2) if transposed else t).unflatten(2, (8, 8))
            t = t + tokens(branch(maps))
        return t

    check(lambda: Net(run), ["b1.4", "b2.4"])
