"""Accuracies with changed gates, against networks whose gates are changed by hand."""

# N images, C channels, K classes

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.inspection.batches import inputs_from
from accuracy_booster.inspection.variant_accuracies import measure_variants, paired_outcome
from accuracy_booster.inspection.variants import frozen, rounded, zeroed
from accuracy_booster.surgery.listing import attached


class Net(nn.Module):
    """Classes that the gates decide."""

    def __init__(self, block="ab", channels=8, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = ab.Recalibrate(channels, block, spatial_size=(4, 4))
        self.mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = ab.Recalibrate(channels, block, spatial_size=(4, 4))
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.second(self.mid(self.first(self.stem(x)).relu())).mean((2, 3)))


@pytest.fixture(params=["ab", "cbam", "design_i"])
def net(request):
    torch.manual_seed(0)
    net = Net(request.param)
    with torch.no_grad():
        for gate in (m for m in net.modules() if isinstance(m, Gate)):
            for parameter in gate.parameters():
                parameter.normal_(std=2)
        net.mid.weight.mul_(5)
        net.head.bias.zero_()
    return net.eval()


X = torch.randn(61, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + torch.randn(
    61, 3, 1, 1, generator=torch.Generator().manual_seed(2)
)
Y = torch.arange(61) % 4


def loader(size=10):
    return [*zip(X.split(size), Y.split(size), strict=True)]


def measured(net, variants, size=10):
    return measure_variants(net, inputs_from(loader(size), net), variants)


def answers(net, change=lambda site, number, p: p):
    """Classes by a network of which hooks put x * change(p) in place of each gate's output."""
    net = copy.deepcopy(net)
    gates = {"first": net.first, "second": net.second}
    for site, block in gates.items():
        for number, gate in enumerate(block):

            def hook(gate, args, y, name=site if number == 0 else f"{site}#{number + 1}"):
                p = change(name, gate, gate.weigh(gate.describe(args[0])))
                return args[0] * (p if p.ndim > 2 else p[:, :, None, None])

            gate.register_forward_hook(hook)
    with torch.no_grad():
        return net(X).argmax(1)


def without(percent, largest):
    def change(site, gate, p):
        if p.shape[1] == 1:
            return p
        score = p.flatten(2).mean(2) if p.ndim > 2 else p
        sign, count = -1 if largest else 1, rounded(percent, p.shape[1])
        orders = [sorted(range(len(row)), key=(sign * row).tolist().__getitem__) for row in score]
        gone = torch.tensor(orders)[:, :count]  # of equal ones the first
        keep = torch.ones_like(score).scatter(1, gone, 0)
        return p * keep.view(*keep.shape, *[1] * (p.ndim - 2))

    return change


def assert_outcome(outcome, before, after):
    right, now = before == Y, after == Y
    assert outcome.top1 == pytest.approx(100 * float(now.double().mean()))
    assert outcome.change == pytest.approx(100 * float(now.double().mean() - right.double().mean()))
    gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
    assert outcome == paired_outcome(int(right.sum()), len(Y), gained, lost)
    assert outcome.low < outcome.change < outcome.high


def test_accuracies_are_those_of_networks_with_changed_gates(net):
    gates = ab.gates(net, loader())
    means = {site: gate.mean for site, gate in gates.items()}
    variants = {f"{k} {n}": zeroed(n, k) for k in ("highest", "lowest") for n in (0, 25, 50, 100)}
    variants |= {site: frozen(means, [site]) for site in means}
    variants["all"] = frozen(means, list(means))
    top1, count, outcomes = measured(net, variants)
    before = answers(net)
    assert (top1, count) == (pytest.approx(100 * float((before == Y).double().mean())), 61)
    for name in ("highest 0", "lowest 0"):  # Table 16's first row
        assert (outcomes[name].top1, outcomes[name].change) == (top1, 0)
        assert not outcomes[name].tells
    seen = set()
    for which in ("highest", "lowest"):
        for percent in (25, 50, 100):
            after = answers(net, without(percent, which == "highest"))
            assert_outcome(outcomes[f"{which} {percent}"], before, after)
            seen.add(tuple(after.tolist()))

    def constant(site, gate, p, sites):
        if site not in sites:
            return p
        return means[site].float().view(1, -1, *[1] * (p.ndim - 2)).expand_as(p)

    for name, sites in {**{site: [site] for site in means}, "all": list(means)}.items():
        after = answers(net, partial(constant, sites=sites))
        assert_outcome(outcomes[name], before, after)
        seen.add(tuple(after.tolist()))
    assert len(seen) > 4  # they do change the answers
    assert all(module.change is None for module in net.modules() if isinstance(module, Gate))
    assert torch.equal(answers(net), before)


def test_accuracies_do_not_depend_on_the_batches(net):
    variants = {which: zeroed(30, which, seed=1) for which in ("highest", "lowest", "random")}
    first = measured(net, variants, 61)
    assert measured(net, variants, 7) == measured(net, variants, 1) == first
    other = {"random": zeroed(30, "random", seed=2)}
    assert measured(net, other)[2]["random"] != first[2]["random"] or net.first[0].recipe != "ab"


def test_constants_in_the_network_are_what_freezing_measures():
    """`ab.merge` makes a network of constants; its answers are the frozen network's."""
    torch.manual_seed(0)
    net = ab.create_model("resnet8", block="ab", num_classes=4).eval()
    for gate in attached(net).values():
        nn.init.normal_(gate[0].bn.weight, std=2)
    x = torch.randn(40, 3, 32, 32)
    y = torch.arange(40) % 4
    gates = ab.gates(net, [x])
    plain = copy.deepcopy(net)
    for site, gate in gates.items():
        block = attached(plain)[site]
        block[0].weigh = lambda d, mean=gate.mean: mean.float().expand(len(d[0]), -1)
    means = {site: gate.mean for site, gate in gates.items()}
    found = measure_variants(net, inputs_from([(x, y)], net), {"all": frozen(means, list(means))})
    with torch.no_grad():
        expected = 100 * float((plain(x).argmax(1) == y).double().mean())
    assert found[2]["all"].top1 == pytest.approx(expected)


def test_accuracies_need_the_class_of_each_image(net):
    for wrong in ([X], [(X, torch.where(Y == 1, -1, Y))], [(X, torch.rand(61))]):
        with pytest.raises(ValueError, match=r"need the class of each image.*labels >= 0"):
            measure_variants(net, inputs_from(wrong, net), {})
    with pytest.raises(ValueError, match="yields no images"):
        measure_variants(net, inputs_from([], net), {})


def test_the_interval_is_that_of_matched_pairs():
    """For many images it is the mean of -1, 0 and 1 with its standard error."""
    n, gained, lost = 40_000, 900, 1300
    found = paired_outcome(30_000, n, gained, lost)
    values = np.repeat([1, -1, 0], [gained, lost, n - gained - lost])
    half = 1.959964 * values.std() / n**0.5
    assert found.change == pytest.approx(100 * values.mean())
    assert found.low == pytest.approx(100 * (values.mean() - half), abs=0.005)
    assert found.high == pytest.approx(100 * (values.mean() + half), abs=0.005)
    assert found.tells
    none = paired_outcome(50, 100, 0, 0)
    assert none.change == 0
    assert none.low == -none.high < -1
    # and by hand, for few: b=3.5 and c=1.5 of 12
    few = paired_outcome(5, 10, 3, 1)
    half = 1.959964 * ((5 / 12 - (2 / 12) ** 2) / 12) ** 0.5
    assert (few.low, few.high) == pytest.approx((100 * (1 / 6 - half), 100 * (1 / 6 + half)))


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.03), (0.005, 0.0)])
def test_the_interval_holds_the_true_change_as_often_as_it_says(shares):
    generator, n = np.random.default_rng(0), 200
    counts = generator.multinomial(n, [*shares, 1 - sum(shares)], 4000)
    true = 100 * (shares[0] - shares[1])
    found = [paired_outcome(100, n, int(b), int(c)) for b, c, _ in counts]
    held = np.mean([one.low <= true <= one.high for one in found])
    assert held > 0.94
