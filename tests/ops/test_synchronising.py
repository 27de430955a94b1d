"""Two processes with unequal shares of a batch normalise as one process with the whole batch."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.processes import cannot_fork, ranks, said, wait

from accuracy_booster.ops.batch_norm import BatchNormMode, batch_norm
from accuracy_booster.ops.moments import BatchMoments, synchronised_by, synchronised_processes
from accuracy_booster.ops.synchronising import moments_of_all_processes

pytestmark = [pytest.mark.forks, cannot_fork]


@pytest.mark.parametrize("counts", [(3, 5), (4, 4), (1, 6)])
def test_synchronised_batch_norm_is_that_of_the_whole_batch(counts, tmp_path):
    """Forward, gradients and running statistics, in float64, with unequal shares."""

    def case(shape, seed, affine=True):
        generator = torch.Generator().manual_seed(seed)
        x = 50 + 3 * torch.randn(sum(counts), *shape, dtype=torch.float64, generator=generator)
        g = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        pair = torch.randn(2, shape[0], dtype=torch.float64, generator=generator)
        stats = torch.rand(2, shape[0], dtype=torch.float64, generator=generator)
        return x, g, [p.requires_grad_() if affine else None for p in pair.clone()], stats

    def work(rank):
        torch.distributed.init_process_group("gloo")
        start = sum(counts[:rank])
        mine = slice(start, start + counts[rank])
        for seed, (shape, affine, by_mode) in enumerate(
            [((3, 4, 5), True, False), ((4,), True, True), ((2, 7), False, True)]
        ):
            x, g, (weight, bias), stats = case(shape, seed, affine)
            x.requires_grad_()
            mean, var = stats.clone()
            expected = F.batch_norm(x, mean, var, weight, bias, True, 0.3, 1e-4)
            (expected * g).sum().backward()
            own = x.detach()[mine].clone().requires_grad_()
            _, _, (own_weight, own_bias), own_stats = case(shape, seed, affine)
            given = (own, *own_stats, own_weight, own_bias, True, 0.3, 1e-4)
            if by_mode:
                with BatchNormMode(moments_of_all_processes):
                    y = F.batch_norm(*given)
            else:
                with synchronised_by(moments_of_all_processes):
                    y = batch_norm(*given)
            (y * g[mine]).sum().backward()
            close = {"rtol": 1e-9, "atol": 1e-9}
            torch.testing.assert_close(y, expected[mine], **close)
            torch.testing.assert_close(own.grad, x.grad[mine], **close)
            torch.testing.assert_close(own_stats, torch.stack([mean, var]), **close)
            for part, whole in ((own_weight, weight), (own_bias, bias)) if affine else ():
                torch.distributed.all_reduce(part.grad)
                torch.testing.assert_close(part.grad, whole.grad, **close)
        torch.distributed.destroy_process_group()

    pids = ranks(work, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], said(tmp_path)


def test_synchronised_batch_norm_leaves_measuring_alone_and_is_stable(tmp_path):
    """In eval mode torch's own is used; in float32 a mean far from zero costs no variance."""

    def work(rank):
        torch.distributed.init_process_group("gloo")
        generator = torch.Generator().manual_seed(0)
        x = 1000 + torch.randn(8, 2, 6, 6, generator=generator)
        own = x[4 * rank : 4 * rank + 4]
        stats = torch.zeros(2), torch.ones(2)
        with BatchNormMode(moments_of_all_processes):
            y = F.batch_norm(own, *stats, training=True)
            evaluated = F.batch_norm(own, *stats)
            together = synchronised_processes()
            half = F.batch_norm(own.bfloat16(), None, None, training=True)
        expected = F.batch_norm(x.double(), None, None, training=True)
        torch.testing.assert_close(y.double(), expected[4 * rank : 4 * rank + 4], rtol=0, atol=2e-3)
        assert torch.equal(evaluated, F.batch_norm(own, *stats))
        assert half.dtype == torch.bfloat16
        assert (together, synchronised_processes()) == (2, 1)
        torch.distributed.destroy_process_group()

    pids = ranks(work, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], said(tmp_path)


def test_a_group_may_be_given(tmp_path):
    """A group of one process has that process's moments."""

    def work(rank):
        torch.distributed.init_process_group("gloo")
        groups = [torch.distributed.new_group([i]) for i in (0, 1)]
        own = BatchMoments(torch.full((3,), float(rank)), torch.ones(3), 4)
        alone = moments_of_all_processes(own, groups[rank])
        torch.testing.assert_close(alone, BatchMoments(own.mean, own.var, torch.tensor(4.0)))
        both = moments_of_all_processes(own)
        expected = torch.full((3,), 0.5), torch.full((3,), 1.25), torch.tensor(8.0)
        torch.testing.assert_close(both, BatchMoments(*expected))
        torch.distributed.destroy_process_group()

    pids = ranks(work, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], said(tmp_path)


def test_the_gradient_of_the_gradient_is_that_of_the_whole_batch(tmp_path):
    """Of a penalty on the gradient with respect to all images, of which each process has half."""

    def work(rank):
        torch.distributed.init_process_group("gloo")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
        own = x.detach()[2 * rank : 2 * rank + 2].clone().requires_grad_()
        found = []
        for images, scope in ((x, None), (own, moments_of_all_processes)):
            with synchronised_by(scope):
                y = batch_norm(images, None, None)
            (grad,) = torch.autograd.grad(y.pow(3).sum(), images, create_graph=True)
            found += torch.autograd.grad(grad.square().sum(), images)
        torch.testing.assert_close(found[1], found[0][2 * rank : 2 * rank + 2])
        torch.distributed.destroy_process_group()

    pids = ranks(work, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], said(tmp_path)
