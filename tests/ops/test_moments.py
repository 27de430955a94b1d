"""The moments of a batch from those of its samples, and what several processes make of them."""

# N batch, C channels, H W space

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from accuracy_booster.ops.moments import (
    BatchMoments,
    moments_of_samples,
    over_processes,
    synchronised_by,
    synchronised_processes,
    update_running_statistics,
)


def samples(x):
    """mean[N, C], variance[N, C] and the number of positions."""
    var, mean = torch.var_mean(x, (2, 3), correction=0)
    return mean, var, x[0, 0].numel()


def test_samples_together_are_the_batch():
    x = 3 + torch.randn(4, 3, 5, 2, dtype=torch.float64)
    found = moments_of_samples(*samples(x))
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.var, var)
    assert found.size == 4 * 5 * 2


def test_a_mean_far_from_zero_costs_no_variance():
    x = 1e4 + torch.randn(4, 3, 9, 9)
    found = moments_of_samples(*samples(x))
    torch.testing.assert_close(
        found.var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0
    )


def doubled(own):
    return BatchMoments(own.mean, own.var, 2 * own.size)


def halved(own):
    return BatchMoments(own.mean, own.var, own.size // 2)


def test_a_scope_synchronises_and_is_left_as_it_was():
    given = samples(torch.randn(4, 3, 5, 2))
    sizes = [moments_of_samples(*given).size]
    with synchronised_by(doubled):
        sizes.append(moments_of_samples(*given).size)
        sizes.append(moments_of_samples(*given, synchronise=halved).size)  # its own comes first
        with suppress(KeyError), synchronised_by(None):
            sizes.append(moments_of_samples(*given).size)
            raise KeyError
        sizes.append(over_processes(BatchMoments(*given)).size)
    sizes.append(moments_of_samples(*given).size)
    assert sizes == [40, 80, 20, 40, 20, 40]


def test_a_compiled_function_follows_the_scope():
    @torch.compile(backend="eager", fullgraph=True)
    def compiled(mean, var):
        return mean + over_processes(BatchMoments(mean, var, 3)).size

    zero = torch.zeros(2)
    assert compiled(zero, zero)[0] == 3
    with synchronised_by(doubled):
        assert compiled(zero, zero)[0] == 6
    assert compiled(zero, zero)[0] == 3


def test_without_processes_a_scope_changes_no_count():
    assert synchronised_processes() == 1
    with synchronised_by(doubled):
        assert synchronised_processes() == 1


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_running_statistics_move_as_torchs(momentum):
    x = 3 + torch.randn(4, 3, 5, 2)
    norm = nn.BatchNorm2d(3, momentum=momentum)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    norm(x)
    update_running_statistics(mean, var, moments_of_samples(*samples(x)), momentum)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(var, norm.running_var)


def test_running_statistics_of_one_value_stay_finite():
    mean, var = torch.zeros(2), torch.ones(2)
    update_running_statistics(mean, var, BatchMoments(torch.ones(2), torch.zeros(2), 1), 0.5)
    assert (mean.tolist(), var.tolist()) == ([0.5, 0.5], [0.5, 0.5])


def test_without_momentum_or_running_statistics_nothing_moves():
    moments = BatchMoments(torch.ones(2), torch.ones(2), 8)
    mean, var = torch.zeros(2), torch.zeros(2)
    update_running_statistics(mean, var, moments, None)
    assert not mean.any()
    assert not var.any()
    update_running_statistics(None, None, moments, 0.5)
