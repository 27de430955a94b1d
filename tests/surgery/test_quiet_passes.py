"""A pass leaves the network and the random state as they were; a failed one says what to give."""

import pytest
import torch
from support.attaching import (
    Tiny,
    assert_captured,
    captured,
    measure,
    without_warnings,
)
from support.residual_blocks import (
    WIDTH,
    Body,
)

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.
from support.sites import (
    BlockOfRank,
    ByName,
    C,
    Takes,
    Two,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import Site


class OneDict(Takes):
    def forward(self, batch):
        return self.block(batch["image"])


class OneTuple(Takes):
    def forward(self, pair):
        x, y = pair
        return self.block(x + y)


class Items(Takes):
    def forward(self, batch):
        return self.block(sum(value for _, value in batch.items()))


X = torch.zeros(1, C, 6, 6)


@pytest.mark.filterwarnings("ignore:Using a non-tuple")
@pytest.mark.parametrize(
    ("model", "words", "example"),
    [
        (ByName, r"takes image by name only: give example=\{'image': \.\.\.\}", {"image": X}),
        (Two, r"takes 2 inputs, x, y: give example=\(x, y\) by position", (X, X)),
        (OneDict, r"example=\(that,\) for one dict", ({"image": X},)),
        (OneTuple, r"example=\(that,\) for one dict or one tuple", ((X, X),)),
        (Items, r"example=\(that,\) for one dict", ({"a": X},)),
    ],
)
def test_the_remedy_is_what_the_forward_takes(model, words, example):
    with pytest.raises(ValueError, match=words):
        ab.plan(model())
    assert [g.site.name for g in ab.plan(model(), example=example).gates] == ["block.b.4"]
    with pytest.raises(ValueError, match=words):
        ab.complexity(model())


def test_an_image_of_the_wrong_size_is_told_about_sizes():
    with pytest.raises(ValueError, match="give an image, or an image size, that it can take"):
        ab.plan(nn.Sequential(BlockOfRank(2), nn.Flatten(), nn.Linear(5, 2)))


def test_finding_leaves_the_example_of_an_in_place_network_alone():

    class First(Body):
        def forward(self, x):
            x += self.f(x)
            return x

    model, example = First(), torch.ones(1, WIDTH, 6, 6)
    kept = example.clone()
    ab.plan(model, "ab", example=example)
    assert torch.equal(example, kept)


@without_warnings
def test_measure_changes_nothing(network):
    model, names, size = network
    model.train()
    model(torch.randn(2, *size)).sum().backward()
    model.get_submodule(names[0]).eval()  # a frozen norm stays frozen
    next(model.parameters()).requires_grad_(False)
    before = captured(model)
    measure(model, names, size)
    assert_captured(captured(model), before)


class Noisy(Tiny):
    """Draws a random number in every mode, as Monte Carlo dropout and stochastic pooling do."""

    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


@without_warnings
def test_measure_keeps_the_random_state_of_a_random_network():
    model = Noisy()
    before = torch.get_rng_state()
    measure(model, ["bn"], (3, 6, 6))
    assert torch.equal(torch.get_rng_state(), before)


@without_warnings
def test_measure_sees_the_dtype_of_the_network():
    assert measure(Tiny().double(), ["bn"], (3, 6, 6)) == [Site("bn", 8, (6, 6))]
