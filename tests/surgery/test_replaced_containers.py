"""Where a container is replaced, the new module gets its gate, or a warning names it."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy
import warnings
from contextlib import nullcontext as nothing

import pytest
import timm
import torch
from support.folding_tools import Residual
from support.gated_branches import Steps, assert_gated, steps
from support.gates import force, halved
from support.networks import randomise
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import accuracy_booster as ab
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.replaced_containers import replacement

X = torch.randn(2, 4, 6, 6)


class ConvNorm(nn.Module):
    """Its `forward` does not show where it ends."""

    def __init__(self):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x):
        return self.bn(self.conv(x))


def sequential():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))


def nested():
    return nn.Sequential(nn.ReLU(), nn.Sequential(sequential(), nn.Identity()))


def boosted(container, name):
    """A residual block around a container, its base, and the block with a gate at `name` in it."""
    base = randomise(Steps(nn.ReLU(), nn.Identity())).eval()
    base.b[1] = randomise(container()).eval()
    model = ab.boost(copy.deepcopy(base), "ab", example=X[:1], where=[f"b.1.{name}"])
    return base, force(model).eval()


def fused(container):
    """One convolution for the convolution and the norm inside."""
    conv = next(m for m in container.modules() if isinstance(m, nn.Conv2d))
    norm = next(m for m in container.modules() if isinstance(m, nn.BatchNorm2d))
    return fuse_conv_bn_eval(conv, norm)


@pytest.mark.parametrize("write", ["setattr", "_modules"])
@pytest.mark.parametrize(
    ("container", "name"), [(ConvNorm, "bn"), (sequential, "1"), (sequential, "")]
)
def test_one_layer_for_a_layer_and_its_norm(container, name, write):
    base, model = boosted(container, name) if name else boosted_itself(container)
    expected = halved(base, ["b.1"])(X).detach()
    new = fused(ab.unboost(copy.deepcopy(model)).b[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if write == "setattr":
            model.b[1] = new
            assert list(attached(model)) == ["b.1"]
            ab.repair(model)
        else:
            model.b._modules["1"] = new
        if write == "setattr" or name:
            assert_gated(model, X, expected)
            assert_gated(copy.deepcopy(model), X, expected)
    if write == "_modules":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_gated(model, X, expected)
    assert list(attached(model)) == ["b.1"]
    model.b._modules["1"] = copy.deepcopy(ab.unboost(copy.deepcopy(model)).b[1])  # it has an owner
    with pytest.warns(UserWarning, match="dropped its gate"):
        assert_gated(model, X, expected)


def boosted_itself(container):
    base, _ = boosted(container, "1")
    return base, force(ab.boost(copy.deepcopy(base), "ab", example=X[:1], where=["b.1"])).eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 4, 1),
        lambda: nn.Conv2d(4, 4, 1, bias=False),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.GroupNorm(2, 4),
    ],
)
@pytest.mark.parametrize(("container", "name"), [(sequential, "1"), (nested, "1.0.1")])
def test_another_layer_where_the_gate_was_at_the_end(container, name, make):
    """A convolution in the place of a convolution and its gated norm may hold more than the two."""
    base, model = boosted(container, name)
    new = make().eval()
    told = isinstance(new, nn.Conv2d)
    with pytest.warns(UserWarning, match="has its gate now") if told else nothing():
        base.b[1] = copy.deepcopy(new)
        model.b[1] = new
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_gated(model, X, halved(base, ["b.1"])(X).detach())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 1), Residual(), Residual()

    def forward(self, x):
        return self.two(self.one(self.stem(x)))


IMAGES = torch.randn(2, 3, 8, 8)


@pytest.fixture
def two():
    return force(ab.boost(randomise(Two()).eval(), "ab", example=IMAGES[:1])).eval()


REPLACED = {
    "an identity": (nn.Identity, "Identity"),
    "another block": (Residual, "Residual"),
    "a layer of other channels": (lambda: nn.Conv2d(4, 8, 1), "Conv2d"),
    "nothing": (lambda: None, "nothing"),
}


@pytest.mark.parametrize("new", REPLACED)
def test_a_block_that_is_replaced_is_told_at_once_and_once(two, new):
    make, word = REPLACED[new]
    with pytest.warns(UserWarning, match=rf"'two' in Two.*'two\.bn'.*by {word}.*ab\.unboost"):
        two.two = make()
    assert list(attached(two)) == ["one.two.bn"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if new in ("an identity", "another block"):
            two(IMAGES)
        ab.repair(two)
        ab.gate_record(two)


def test_what_is_no_loss_says_nothing(two):
    expected = two(IMAGES).detach()
    holder = nn.Module()
    holder.network = two
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two.two = copy.deepcopy(two.two)
        two.one = nn.Sequential(two.one, nn.Identity())
        rebuilt = nn.Sequential(*two.children())
        cut = nn.Sequential(*list(rebuilt.children())[:-1])
        two.three, two.two = two.two, nn.Identity()
        two.one = two.one[0]
        two.two, two.three = two.three, None
        assert_gated(two, IMAGES, expected)
        assert_gated(rebuilt, IMAGES, expected)
        assert len(attached(cut)) == 1
        holder.network = nn.DataParallel(two)
        holder.network = two
        holder.network = None


def test_a_network_built_anew_in_place_of_a_boosted_one_is_told(two):
    holder = nn.Module()
    holder.network = two
    with pytest.warns(UserWarning, match=r"'network' in Module.*and 1 more"):
        holder.network = Two()


def test_a_merge_of_parallel_branches_gets_no_gate():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = sequential(), sequential()

        def forward(self, x):
            return self.one(x) + self.other(x)

    base = randomise(Parallel()).eval()
    model = ab.boost(copy.deepcopy(base), "ab", example=X[:1], where=["one.1", "other.1"])
    merged, second = fused(base.one), fused(base.other)
    merged.weight.data += second.weight.data
    merged.bias.data += second.bias.data
    change = replacement(model, merged)
    assert change.gate is None
    assert change.lost == ["one.1", "other.1"]


def test_steps_of_a_sequential_that_is_built_anew_keep_their_gates():
    model = force(ab.boost(Steps(*steps()), "ab", example=X[:1], where=["b.3"])).eval()
    expected = model(X).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.b = nn.Sequential(*list(model.b))
        assert_gated(model, X, expected)
    assert list(attached(model)) == ["b.3"]


def test_a_layer_that_holds_other_branches_too_gets_the_gate_with_a_warning():
    """RepGhostNet's `reparameterize` folds a norm beside the container into the same layer."""
    model = randomise(timm.create_model("repghostnet_050", num_classes=3)).eval()
    ab.boost(model, "ab", where=["blocks.0.0.ghost1.cheap_operation.1"])
    with pytest.warns(UserWarning, match="other branches were folded"):
        timm.utils.reparameterize_model(model, inplace=True)
