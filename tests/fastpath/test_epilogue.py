"""Whatever a forward does with the output of a fused module, it sees what it saw before."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.fused_networks import (
    CLOSE,
    MODES,
    BranchModule,
    ResidualBlock,
    ResidualNet,
    assert_same_pass,
    pair,
    run,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torch.nn.modules import module as global_hooks
from torch.utils.checkpoint import checkpoint

import accuracy_booster as ab

pytestmark = WARNINGS_ARE_ERRORS


HOOKED = ["blocks.0.bn2", "blocks.0.conv2", "blocks.0"]


@pytest.mark.parametrize("where", HOOKED)
@MODES
def test_forward_and_backward_hooks_see_tensors(where, training):
    unfused, other, x = pair(ResidualNet(ResidualBlock()))
    found = []
    for model in (unfused.train(training), other.train(training)):
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
    assert_same_pass(unfused, other, x)


@MODES
def test_hooks_on_every_module_see_tensors(training):
    unfused, other, x = pair(ResidualNet(ResidualBlock()))
    found = []
    for model in (unfused.train(training), other.train(training)):
        seen = []
        handle = global_hooks.register_module_forward_hook(
            lambda m, a, y, seen=seen: seen.append(y)
        )
        model(x)
        handle.remove()
        found.append([y for y in seen if not isinstance(y, list)])
    assert all(isinstance(y, torch.Tensor) for y in found[1])


@pytest.mark.parametrize("where", ["blocks.0.branch", "blocks.0.path", "blocks.0.branch.4"])
def test_hooks_on_what_hands_the_norm_on_see_tensors(where):
    unfused, other, x = pair(ResidualNet(BranchModule()))
    assert ab.fast_path(other).taken == 1
    found = []
    for model in (unfused, other):
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
    unfused, other, x = pair(ResidualNet(BranchModule()))
    for model in (unfused, other):
        model.blocks[0].branch[4].register_forward_hook(lambda m, a, y: 2 * y)
    assert_same_pass(unfused, other, x)


class Checkpointed(ResidualBlock):
    def __init__(self, what, reentrant):
        super().__init__()
        self.what, self.reentrant = what, reentrant
        self.shortcut = nn.Conv2d(6, 6, 1)

    def block(self, x):
        """The shortcut's convolution runs between the norm and the sum."""
        return self.act(self.branch(x) + self.shortcut(x))

    def forward(self, x):
        step = self.branch if self.what == "branch" else self.block
        y = checkpoint(step, x, use_reentrant=self.reentrant)
        return self.act(y + x) if self.what == "branch" else y


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("what", ["branch", "block"])
def test_activation_checkpointing(what, reentrant, frozen):
    unfused, other, x = pair(
        ResidualNet(Checkpointed(what, reentrant), Checkpointed(what, reentrant))
    )
    for model in (unfused, other):
        for block in model.blocks:
            block.bn2.train(not frozen)
    assert_same_pass(unfused, other, x)


class Watched(ResidualBlock):
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
    unfused, other, x = pair(ResidualNet(Watched(look)))
    assert_same_pass(unfused, other, x)
    torch.testing.assert_close(other.blocks[0].seen, unfused.blocks[0].seen)


class Detached(ResidualBlock):
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
    unfused, other, x = pair(ResidualNet(Detached(what)))
    assert_same_pass(unfused, other, x)


class TwoUses(ResidualBlock):
    def __init__(self, when="always"):
        super().__init__()
        self.when = when

    def forward(self, x):
        y = self.branch(x)
        total = F.relu(y + x)
        return total + y.sigmoid() if self.training or self.when == "always" else total


class Returned(ResidualNet):
    """Returns the branch, or the sum before its ReLU, beside the logits."""

    def __init__(self, what):
        super().__init__(ResidualBlock())
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
    unfused, other, x = pair(ResidualNet(TwoUses(when)), where=["blocks.0.bn2"])
    assert ab.fast_path(other).taken == 1
    if when == "always":
        assert other.blocks[0].bn2.epilogue.followed_by == ""
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


@pytest.mark.parametrize("what", ["branch", "sum"])
def test_a_map_that_is_returned_is_a_tensor(what):
    unfused, other, x = pair(Returned(what), where=["blocks.0.bn2"])
    for model in (unfused, other):
        assert isinstance(model(x)[1], torch.Tensor)
    torch.testing.assert_close(other(x), unfused(x), **CLOSE)


class InPlace(ResidualBlock):
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
    unfused, other, x = pair(
        ResidualNet(InPlace(way), InPlace(way)), where=["blocks.0.bn2", "blocks.1.bn2"]
    )
    assert ab.fast_path(other).taken == 2
    for training in (True, False):
        assert_same_pass(unfused.train(training), other.train(training), x)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.ReLU6()])
def test_every_activation(act):
    unfused, other, x = pair(ResidualNet(ResidualBlock(act=act), ResidualBlock(act=act)))
    assert other.blocks[0].bn2.epilogue.followed_by == (
        "relu" if isinstance(act, nn.ReLU) else "sum"
    )
    assert_same_pass(unfused, other, x)
