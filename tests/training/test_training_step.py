"""A step: what is not finite stops it; parts of a batch add up to it; its gradient is clipped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.interruptions import (
    poisoned,
)
from support.trainings import (
    Plain,
    new_trainer,
    options,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import (
    checkpoint,
    classification,
    resolve,
)
from accuracy_booster.training.lock import is_locked
from accuracy_booster.training.opening_data import open_data


@pytest.mark.parametrize("kind", ["loss", "norm of the gradient"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_what_is_not_finite_stops_before_the_step(data, tmp_path, monkeypatch, kind, clip):
    run = tmp_path / "run"
    poisoned(monkeypatch, 11, kind)  # the first half of step 6: step 2 of epoch 2
    given = options(data, run, **({"clip_grad": clip} if clip else {}))
    with pytest.raises(TrainingStopped, match=f"the {kind} is not finite") as caught:
        ab.train(**given)
    says = str(caught.value)
    assert "\n" not in says
    assert "at step 2 of 4 in epoch 2, lr=0.005, batch of images" in says
    loader = open_data(resolve(**given)).loaders["train"]
    # with balanced sampling a number also tells how often the image came before
    order = [number % len(loader.dataset) for number in loader.order(1)[6:12].tolist()]
    assert f"images {', '.join(map(str, order))}, ..." in says
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["epoch"], saved.values["step"]) == (1, 1)
    assert all(bool(t.isfinite().all()) for t in saved.tensors.values())
    assert not is_locked(run)


def test_a_loss_that_was_not_finite_is_exit_code_1(data, tmp_path, monkeypatch, capsys):
    poisoned(monkeypatch, 3)
    words = [f"--{k}={v}" for k, v in options(data, tmp_path / "run").items()]
    assert main(["train", *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: the loss is not finite at step 2 of 4")


def test_accumulating_is_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "build_network", lambda *_, **__: Plain())
    ends = []
    for parts in (1, 2, 8):
        made = new_trainer(tmp_path, accumulate=parts)
        for batch in list(made.loaders["train"].batches(0))[:10]:
            made.train_step(batch)
        ends.append((made.network.state_dict(), made.state.sums))
    for state, sums in ends[1:]:
        for name, tensor in state.items():
            assert torch.allclose(tensor, ends[0][0][name], rtol=0, atol=1e-6), name
        assert torch.allclose(sums, ends[0][1], rtol=1e-6)
    assert ends[0][1][2] == 320


@pytest.mark.parametrize("clip", [0.01, 0.5, 1e6])
def test_clipping_limits_the_step(tmp_path, monkeypatch, clip):
    """Without momentum and decay a step's length is the rate times the gradient's norm."""
    monkeypatch.setattr(classification, "build_network", lambda *_, **__: Plain())
    moved = {}
    for limit in (None, clip):
        made = new_trainer(tmp_path, clip_grad=limit, momentum=0.0, weight_decay=0.0, lr=0.1)
        before = nn.utils.parameters_to_vector(made.network.parameters()).detach().clone()
        made.train_step(next(iter(made.loaders["train"].batches(0))))
        moved[limit] = nn.utils.parameters_to_vector(made.network.parameters()).detach() - before
    free = float(moved[None].norm()) / 0.1
    assert float(moved[clip].norm()) / 0.1 == pytest.approx(min(clip, free), rel=1e-4)
    cosine = F.cosine_similarity(moved[None], moved[clip], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)
