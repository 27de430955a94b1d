"""Metrics count each image once, over any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.processes import cannot_fork, ranks, said, wait

from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.opening_data import open_data

pytestmark = [pytest.mark.forks, cannot_fork]


@pytest.mark.parametrize("world", [2, 3])
def test_metrics_count_each_image_once(world, tmp_path):
    """360 test images over 3 processes, and a data set smaller than the processes."""
    from accuracy_booster.data.augmentation import unchanged_batch
    from accuracy_booster.data.batches import Loader
    from accuracy_booster.data.images import TensorImages
    from accuracy_booster.training import resolve
    from accuracy_booster.training.measuring import measure

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    config = resolve("resnet8", device="cpu")
    data = open_data(config)
    few = TensorImages(data.loaders["test"].dataset.images.images[:1], torch.tensor([3]))
    small = Loader(few, lambda x: x, 4, shuffled=False, batch_transform=unchanged_batch)

    def both():
        accelerator = make_accelerator(config)
        loaders = data.loaders["test"], small
        found = [measure(model, made, data, accelerator) for made in loaders]
        return [m.to_dict() for m in found], [m.answers for m in found]

    alone, answers = both()
    assert [m["images"] for m in alone] == [360, 1]

    def work(rank):
        got, told = both()
        for mine, whole in zip(got, alone, strict=True):
            assert mine == pytest.approx(whole, rel=1e-12)
        for mine, whole in zip(told, answers, strict=True):  # the same in each process
            assert torch.equal(mine.confusion, whole.confusion)
            assert torch.equal(mine.indices, whole.indices)
            assert mine.by_class == whole.by_class
        Path(tmp_path / f"done{rank}").touch()

    pids = ranks(work, tmp_path, world)
    assert [wait(pid) for pid in pids] == [0] * world, said(tmp_path)
    assert len(list(tmp_path.glob("done*"))) == world
