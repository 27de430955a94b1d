"""Frozen norms stay frozen, and synchronised norms see the images of all processes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import socket

import pytest
import torch
from support.detector_models import (
    QUIET,
    gates_of,
    learn,
    modes,
    tiny,
)
from torch import nn

from accuracy_booster.detection.norms import batch_norms, gates_norms
from accuracy_booster.surgery import attached

pytestmark = QUIET


def test_frozen_norms_stay_frozen_whatever_is_done_to_the_detector():
    model = tiny(norms="frozen", trainable_layers=5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    others = {
        "itself": model,
        "copy": copy.deepcopy(model),
        "pickle": torch.load(file, weights_only=False),
        "synchronised": nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
    }
    for title, other in others.items():
        other.train()
        assert modes(other) == {False}, title
        assert len(attached(other)) == 4
        for module in other.modules():
            module.train()  # one by one: past whoever looks after them
        state = {n: t.clone() for n, t in other.state_dict().items()}
        moved = learn(other)
        assert modes(other) == {False}, title
        after = other.state_dict()
        assert all(torch.equal(after[n], t) for n, t in state.items() if "running_" in n)
        norms = set(batch_norms(other)) - set(gates_norms(other))
        assert not {name.rpartition(".")[0] for name in moved} & norms
        assert any(name.endswith("recalibrate.0.bn.weight") for name in moved)


def _rank(rank, port, model, batch, results):
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    results.put((rank, _step(model, batch[2 * rank : 2 * rank + 2])))
    torch.distributed.destroy_process_group()


def _step(model, batch):
    """The statistics and one gradient of a pass of the backbone, as lists of numbers."""
    maps = model.train().backbone.body(batch)
    sum(value.square().sum() for value in maps.values()).backward()
    found = {n: t.tolist() for n, t in model.backbone.body.state_dict().items() if "running_" in n}
    return found, model.backbone.body.conv1[0].weight.grad.tolist()


@pytest.mark.forks
def test_synchronised_norms_see_the_images_of_all_processes():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    model, batch = tiny(norms="synchronised"), torch.rand(4, 3, 64, 64)
    ranks = [
        context.Process(target=_rank, args=(r, port, copy.deepcopy(model), batch, results))
        for r in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    known, gradient = _step(model, batch)
    assert known.keys() == found[0][0].keys()
    assert len(gates_of(known)) == 8
    for statistics, _ in found.values():
        for name, values in known.items():
            torch.testing.assert_close(
                torch.tensor(statistics[name]), torch.tensor(values), rtol=1e-3, atol=1e-5
            )
    total = torch.tensor(found[0][1]) + torch.tensor(found[1][1])
    torch.testing.assert_close(total, torch.tensor(gradient), rtol=1e-2, atol=1e-2)
