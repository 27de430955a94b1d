"""What one pass shows around the modules of a network."""

import torch
import torch.nn.functional as F
from support.fused_networks import BranchModule, ResidualBlock, ResidualNet
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

from accuracy_booster.fastpath.neighbours import Neighbours

pytestmark = WARNINGS_ARE_ERRORS
EXAMPLE = torch.zeros(2, 3, 5, 4)


class NoRelu(ResidualBlock):
    def forward(self, x):
        return self.branch(x) + x


class ReadTwice(ResidualBlock):
    def forward(self, x):
        y = self.branch(x)
        return F.relu(y + x) * y.mean()


def test_the_last_norm_of_a_branch():
    net = ResidualNet(ResidualBlock(), NoRelu(), ReadTwice())
    neighbours = Neighbours(net, EXAMPLE)
    found = [neighbours.of(f"blocks.{i}.bn2") for i in range(3)]
    assert [context.followed_by for context in found] == ["relu", "sum", ""]
    assert [context.sum_owner for context in found] == ["blocks.0", "blocks.1", None]
    assert found[0].call == "batch_norm"
    assert found[0].conv == "blocks.0.conv2"
    assert found[0].shape == found[0].input_shape == (2, 6, 5, 4)
    assert found[0].aliases == ()
    epilogue = found[0].epilogue(dict(net.named_modules()))
    assert epilogue.sum_owner is net.blocks[0]
    assert neighbours.sites() == ["blocks.0.bn2", "blocks.1.bn2"]


def test_a_convolution_reads_what_it_is_given():
    context = Neighbours(ResidualNet(ResidualBlock()), EXAMPLE).of("stem")
    assert (context.call, context.conv, context.followed_by) == ("conv2d", None, "")
    assert context.input_shape == (2, 3, 5, 4)


def test_other_modules_with_the_same_output():
    context = Neighbours(ResidualNet(BranchModule()), EXAMPLE).of("blocks.0.branch.4")
    assert set(context.aliases) == {"blocks.0.branch", "blocks.0.path"}
    assert context.sum_owner == "blocks.0"


def test_a_module_that_runs_twice_or_never():
    block = ResidualBlock()
    block.bn1 = block.bn2
    block.unused = nn.BatchNorm2d(6)
    neighbours = Neighbours(ResidualNet(block), EXAMPLE)
    names = {name for name in ("blocks.0.bn1", "blocks.0.bn2") if neighbours.of(name) is not None}
    assert {neighbours.of(name).call for name in names} == {""}
    assert neighbours.of("blocks.0.unused") is None


def test_norms_after_convolutions():
    pairs = list(Neighbours(ResidualNet(ResidualBlock()), EXAMPLE).norms_after_convs())
    assert pairs == [("blocks.0.conv1", "blocks.0.bn1"), ("blocks.0.conv2", "blocks.0.bn2")]
