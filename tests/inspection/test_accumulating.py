"""A gate's statistics, gathered batch by batch, against numpy and scipy."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.stats
import torch
from support.observed_networks import gathered, result
from torch import nn

import accuracy_booster as ab
from accuracy_booster.inspection.accumulating import MOST, Accumulator
from accuracy_booster.inspection.gate_statistics import BINS

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def assert_same(one, other):
    for name in ("mean", "spread", "class_means", "class_share"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)
    for name in ("histogram", "class_counts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for ends in ("highest", "lowest"):
        for name in ("weights", "images"):
            assert torch.equal(
                getattr(getattr(one, ends), name), getattr(getattr(other, ends), name)
            )
    assert one.count == other.count


def test_statistics_are_those_of_the_stored_weights(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 17))
    x, y = p.numpy(), labels.numpy()
    np.testing.assert_allclose(gate.mean, x.mean(0), **EXACT)
    np.testing.assert_allclose(gate.spread, x.std(0), **EXACT)
    for c in range(x.shape[1]):
        counts, _ = np.histogram(x[:, c], BINS, (0, scale))
        # at an edge the two may round differently: only the rounded column has values there
        moved = np.abs(counts - gate.histogram[c].numpy()).sum()
        assert moved == 0 or c == 2
        assert float(gate.entropy[c]) == pytest.approx(
            scipy.stats.entropy(gate.histogram[c].numpy(), base=2), abs=1e-12
        )
        groups = [x[y == k, c] for k in range(4)]
        np.testing.assert_allclose(gate.class_means[:, c], [g.mean() for g in groups], **EXACT)
    np.testing.assert_allclose(gate.below, (x < 0.05 * scale).mean(0), **EXACT)
    np.testing.assert_allclose(gate.above, (x >= 0.95 * scale).mean(0), **EXACT)
    assert gate.saturated == pytest.approx(((x < 0.05 * scale) | (x >= 0.95 * scale)).mean())
    assert gate.dead == [3]
    assert 1 in gate.constant
    assert gate.class_counts.tolist() == np.bincount(y).tolist()


def test_the_share_that_the_class_explains_is_epsilon_squared(stored):
    """By way of scipy's F of the one-way analysis of variance."""
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 50))
    n, k = len(p), 4
    for c in (0, 2, 3, 4):
        groups = [p[labels == j, c].numpy() for j in range(k)]
        f = float(scipy.stats.f_oneway(*groups).statistic)
        expected = max(0.0, (f - 1) * (k - 1) / (f * (k - 1) + n - k))
        assert float(gate.class_share[c]) == pytest.approx(expected, abs=1e-9)
    assert float(gate.class_share[1]) == 0  # a constant: rounding is no variance
    assert float(gate.class_share[4]) > 0.9
    variance = gate.spread.square()
    expected = float((gate.class_share * variance).sum() / variance.sum())
    assert gate.explained == pytest.approx(expected)


def test_extremes_are_the_first_of_equal_weights(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.randperm(len(p)), 29))
    for ends, sign in ((gate.highest, -1), (gate.lowest, 1)):
        for c in range(p.shape[1]):
            order = sorted(range(len(p)), key=lambda i, c=c, s=sign: (s * float(p[i, c]), i))[:MOST]
            assert ends.images[c].tolist() == order
            assert torch.equal(ends.weights[c], p[order, c])


def test_the_order_and_the_size_of_batches_do_not_matter(stored):
    p, labels, scale = stored
    one = result(gathered(p, labels, scale, torch.arange(len(p)), len(p)))
    for seed, sizes in ((0, 1), (1, 64)):
        order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
        assert_same(result(gathered(p, labels, scale, order, sizes)), one)


def test_merged_accumulators_are_one(stored):
    p, labels, scale = stored
    labels = labels.clone()
    labels[:60].clamp_(max=1)  # the first has seen fewer classes
    parts = [torch.arange(60), torch.arange(60, 61), torch.arange(0), torch.arange(61, len(p))]
    merged = Accumulator(p.shape[1], scale)
    for part in parts:
        one = Accumulator(p.shape[1], scale)
        if len(part):
            one.add(p[part], labels[part], part)
        merged.merge(one)
    whole = gathered(p, labels, scale, torch.arange(len(p)), 10)
    assert_same(result(merged), result(whole))


def test_small_spreads_around_a_large_mean_are_not_lost():
    p = 1 + 1e-7 * torch.randn(1000, 2, dtype=torch.float64)
    gate = result(gathered(p, None, 2.0, torch.arange(1000), 7))
    torch.testing.assert_close(gate.spread, p.std(0, correction=0), rtol=1e-6, atol=0)
    assert gate.class_share is None
    assert gate.explained is None


def test_the_memory_does_not_grow_with_the_images():
    net, held = nn.Sequential(ab.Recalibrate(2, "ab", spatial_size=1)), []

    def loader():
        for i in range(1001):
            if i in (20, 1000):
                gc.collect()  # what other tests have left in cycles
                held.append(sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor))
            yield torch.full((1, 2, 1, 1), i / 1000), torch.tensor([i % 2])

    found = ab.gates(net, loader())
    assert found.images == found["0"].count == 1001
    assert held[0] == held[1] > 0
    one = Accumulator(2, 1.0)
    for i in range(20_000 // 100):
        one.add(torch.rand(100, 2), torch.arange(100) % 3, torch.arange(100) + 100 * i)
    sizes = [t.numel() for t in vars(one).values() if isinstance(t, torch.Tensor)]
    sizes += [t.numel() for ends in one.extremes.values() for t in (ends.weights, ends.images)]
    assert one.count == 20_000
    assert sum(sizes) < 2 * (2 + BINS + 4 * MOST + 3 * 3 + 3)
