"""Several processes find what one does, and none waits for one that failed."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import pytest
import torch
from support.observed_networks import BYTES, X, Y, pairs
from support.processes import (
    forks,
    ranks,
    said,
    wait,
)
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import accuracy_booster as ab


def of_two(check, folder):
    """Run `check(rank)` in two processes that know each other."""

    def work(rank):
        torch.distributed.init_process_group("gloo")
        check(rank)
        torch.distributed.destroy_process_group()

    ended = [wait(pid) for pid in ranks(work, folder)]
    assert ended == [0, 0], said(folder)


def assert_same_gates(gates, expected):
    assert list(gates) == list(expected)
    assert gates.images == expected.images
    for one, other in zip(gates.values(), expected.values(), strict=True):
        # batches of other sizes round differently
        for name in ("mean", "spread", "class_means", "class_share"):
            a, b = getattr(one, name), getattr(other, name)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert (one.count, one.histogram.sum()) == (other.count, other.histogram.sum())
        assert torch.equal(one.class_counts, other.class_counts)
        assert torch.equal(one.highest.images, other.highest.images)
        assert torch.equal(one.lowest.images, other.lowest.images)


@forks
def test_two_processes_are_as_one(net, tmp_path):
    """13 images are no even number: the sampler gives one of them twice."""
    whole, first = ab.gates(net, pairs()), ab.gates(net, pairs(), images=7)
    data = TensorDataset(X, Y)

    def check(rank):
        sampler = DistributedSampler(data, shuffle=False)
        loader = DataLoader(data, 3, sampler=sampler)
        assert_same_gates(ab.gates(net, loader), whole)
        assert_same_gates(ab.gates(net, loader, images=7), first)
        own = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 3, False))
        parallel = nn.parallel.DistributedDataParallel(net)
        assert_same_gates(ab.gates(parallel, own), whole)
        # a loader of one's own: every second image
        mine = pairs(X[rank::2], Y[rank::2], 3)
        assert_same_gates(ab.gates(net, mine), whole)
        assert_same_gates(ab.gates(net, mine, images=7), first)
        # only the first process has images
        alone = ab.gates(net, [] if rank else pairs(), images=2)
        assert (alone.images, len(alone)) == (1, 2)

    of_two(check, tmp_path)


@forks
def test_an_error_in_one_process_is_raised_in_both(net, tmp_path):
    def check(rank):
        loader = [X, BYTES] if rank else X.split(2)
        with pytest.raises(ValueError, match="images of uint8") as e:
            ab.gates(net, loader)
        assert str(e.value).startswith("process 1: ") == (rank == 0)
        with pytest.raises(ValueError, match="yields no images"):
            ab.gates(net, [])

    of_two(check, tmp_path)
