"""Changed gates: which channels are zeroed or frozen, and bad percentages."""

# N images, C channels, K classes

from __future__ import annotations

import pytest
import torch

from accuracy_booster.inspection.variants import frozen, rounded, zeroed


def numbers(count, start=0):
    return torch.arange(start, start + count)


def zero(p, percent, which, **more):
    p = torch.tensor(p)
    return zeroed(percent, which, **more)("a", p, numbers(len(p)))


def test_the_right_channels_are_zeroed():
    p = [[0.1, 0.4, 0.3, 0.2], [0.9, 0.6, 0.7, 0.8]]
    assert (
        zero(p, 25, "highest").tolist()
        == torch.tensor([[0.1, 0, 0.3, 0.2], [0, 0.6, 0.7, 0.8]]).tolist()
    )
    assert (
        zero(p, 50, "lowest").tolist()
        == torch.tensor([[0, 0.4, 0.3, 0], [0.9, 0, 0, 0.8]]).tolist()
    )
    assert torch.equal(zero(p, 0, "highest"), torch.tensor(p))
    assert torch.equal(zero(p, 100, "random"), torch.zeros(2, 4))
    # of equal weights those of the first channels
    assert zero([[0.5, 0.5, 0.5, 0.1]], 50, "highest").tolist()[0][:3] == [0, 0, 0.5]
    assert zero([[0.5, 0.2, 0.2, 0.2]], 50, "lowest").tolist()[0][1:3] == [0, 0]


def test_by_average_the_same_channels_go_for_every_image():
    means = {"a": torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)}
    p = torch.rand(5, 3) + 0.1
    for which, gone in (("highest", 1), ("lowest", 0)):
        after = zeroed(34, which, by="average", means=means)("a", p, numbers(5))
        expected = p.clone()
        expected[:, gone] = 0
        assert torch.equal(after, expected)
    assert (zeroed(34, "random", by="average", means=means)("a", p, numbers(5)) == 0).any(
        0
    ).sum() > 1


@pytest.mark.parametrize(
    ("percent", "channels", "count"),
    [
        *((0, 16, 0), (5, 16, 1), (3, 16, 0), (25, 10, 3), (15, 10, 2), (2.5, 20, 1), (10, 64, 6)),
        *((12.5, 4, 1), (12.4, 4, 0), (100, 7, 7), (50, 1, 1), (20, 2048, 410)),
    ],
)
def test_shares_are_rounded_to_whole_channels(percent, channels, count):
    assert rounded(percent, channels) == count
    if channels > 1:
        p = torch.rand(3, channels) + 0.1
        assert (zeroed(percent, "lowest")("a", p, numbers(3)) == 0).sum(1).tolist() == [count] * 3


def test_weights_for_positions():
    p = torch.rand(4, 6, 5, 5) + 0.1
    gone = (zeroed(34, "highest")("a", p, numbers(4)) == 0).flatten(2)
    assert torch.equal(gone.any(2), gone.all(2))
    order = p.mean((2, 3)).argsort(1)[:, -2:].sort(1)[0]
    assert torch.equal(gone[:, :, 0].nonzero()[:, 1].view(4, 2), order)
    # one weight for all channels stays: it ranks none
    shared = torch.rand(4, 1, 5, 5)
    assert zeroed(100, "highest")("a", shared, numbers(4)) is shared
    mean = {"a": torch.arange(6.0, dtype=torch.float64)}
    fixed = frozen(mean, ["a"])("a", p, numbers(4))
    assert torch.equal(fixed, torch.arange(6.0).view(1, 6, 1, 1).expand(4, 6, 5, 5))
    assert frozen(mean, ["a"])("b", p, numbers(4)) is p


def test_random_channels_belong_to_the_image_the_gate_and_the_seed():
    p, change = torch.rand(50, 40) + 0.1, zeroed(20, "random", seed=3)
    whole = change("a", p, numbers(50))
    parts = [change("a", part, numbers(len(part), 7 * i)) for i, part in enumerate(p.split(7))]
    assert torch.equal(torch.cat(parts), whole)
    for other in (change("b", p, numbers(50)), zeroed(20, "random", seed=4)("a", p, numbers(50))):
        assert not torch.equal(other == 0, whole == 0)
    gone = whole == 0
    assert gone.sum(1).tolist() == [8] * 50
    assert len({tuple(row) for row in gone.tolist()}) == 50
    # every channel as often as any other: 20 % of 20,000 images, within 5 standard deviations
    many = zeroed(20, "random")("a", torch.ones(20_000, 10), numbers(20_000))
    assert ((many == 0).double().mean(0) - 0.2).abs().max() < 5 * (0.16 / 20_000) ** 0.5
    pairs = torch.corrcoef((many == 0).double().t()).fill_diagonal_(-1 / 9)
    assert (pairs + 1 / 9).abs().max() < 5 / 20_000**0.5


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan"), float("inf"), "5", None])
def test_percentages_out_of_range(percent):
    with pytest.raises(ValueError, match=r"percent=.* must be a number from 0 to 100"):
        zeroed(percent, "highest")


def test_unknown_words():
    with pytest.raises(ValueError, match="unknown choice of channels 'high'; nearest: highest"):
        zeroed(5, "high")
    with pytest.raises(ValueError, match="unknown ranking 'averages'; nearest: average"):
        zeroed(5, "highest", by="averages")
