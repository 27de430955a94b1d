"""Networks with gates in loops of one's own: accelerate, DDP, FSDP, distributed checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from support.halved_networks import (
    all_learned,
    boosted,
    gate_vectors,
    halved,
    image,
    network,
    same,
)
from support.processes import forks, ranks, said, wait
from torch import nn
from torch.optim.swa_utils import AveragedModel

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")
GATES = 2


def classifier(boost: bool = True) -> nn.Module:
    """A new network, the same at each call; its gates start as the identity."""
    base = network().train()
    if boost:
        ab.boost(base, "ab", init="identity", example=image(1))
    torch.manual_seed(0)
    return nn.Sequential(base, nn.Linear(8 * 36, 2))


def step(model, optimizer, backward=torch.Tensor.backward) -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    optimizer.zero_grad()
    backward(F.cross_entropy(model(x), torch.arange(16) % 2))
    optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


# --- accelerate


@pytest.fixture
def accelerator():
    return pytest.importorskip("accelerate", exc_type=ImportError).Accelerator(cpu=True)


def test_the_state_of_accelerate_goes_on_alike(accelerator, tmp_path):
    model, optimizer = accelerator.prepare(built := classifier(), sgd(built))
    before = gate_vectors(model)
    step(model, optimizer, accelerator.backward)
    accelerator.save_state(tmp_path)
    step(model, optimizer, accelerator.backward)
    assert all_learned(model, before)
    expected = model.eval()(image())

    other = type(accelerator)(cpu=True)
    model, optimizer = other.prepare(built := classifier(), sgd(built))
    other.load_state(tmp_path)
    step(model, optimizer, other.backward)
    assert torch.equal(other.unwrap_model(model).eval()(image()), expected)


def test_accelerate_refuses_the_state_of_gates_without_them(accelerator, tmp_path):
    accelerator.prepare(built := classifier(), sgd(built))
    accelerator.save_state(tmp_path)
    other = type(accelerator)(cpu=True)
    other._models.clear()
    other.prepare(built := classifier(boost=False), sgd(built))
    with pytest.raises(RuntimeError, match="recalibrate"):
        other.load_state(tmp_path)


def test_a_model_saved_by_accelerate(accelerator, tmp_path, caplog):
    """Into a network whose gates come from their record. Without them accelerate's log tells."""
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    model = classifier().eval()
    accelerator.save_model(model, tmp_path)
    new = ab.rebuild_gates(classifier(boost=False), ab.gate_record(model))
    accelerate.load_checkpoint_in_model(new, tmp_path, strict=True)
    assert torch.equal(new.eval()(image()), model(image()))
    with caplog.at_level("WARNING"):
        accelerate.load_checkpoint_in_model(classifier(boost=False), tmp_path)
    assert "were not used when" in caplog.text
    assert "recalibrate" in caplog.text


# --- torch


def test_keys_of_wrapped_networks():
    """A state dict of a compiled or averaged network has a prefix; `ab.gate_record` has none."""
    model = classifier()
    for wrap, prefix in ((torch.compile, "_orig_mod."), (AveragedModel, "module.")):
        wrapped = wrap(model)
        assert f"{prefix}0.1.bn2.recalibrate.0.bn.weight" in wrapped.state_dict()
        assert ab.gate_record(wrapped) == ab.gate_record(model)
        new = ab.rebuild_gates(wrap(classifier(False)), ab.gate_record(wrapped))
        new.load_state_dict(wrapped.state_dict())
        assert len(ab.surgery.attached(new)) == GATES


def test_a_loading_that_is_not_strict_returns_the_keys_of_gates():
    missing, unexpected = classifier(False).load_state_dict(classifier().state_dict(), strict=False)
    assert not missing
    assert len(unexpected) == GATES * 6


def train_sharded(rank: int, folder: Path) -> None:
    """DDP, fully sharded, and a distributed checkpoint, in one of two processes."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    torch.manual_seed(rank)
    base = classifier(boost=False)
    ab.boost(base[0], "ab", example=image(1))  # other gates in each process
    parallel = nn.parallel.DistributedDataParallel(base)
    before = gate_vectors(base)
    step(parallel, sgd(parallel))
    assert all_learned(base, before)
    torch.save(gate_vectors(base), folder / f"gates{rank}.pt")

    mesh = init_device_mesh("cpu", (2,))

    def sharded(model: nn.Module) -> nn.Module:
        for block in (model[0][1], model[0][2]):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model = sharded(classifier())
    plain = classifier()
    for one in (model, plain):
        step(one, sgd(one))
    assert len(ab.surgery.attached(model)) == GATES
    expected = plain.eval()(image())
    torch.testing.assert_close(model.eval()(image()), expected)
    checkpoint.save({"model": get_model_state_dict(model)}, checkpoint_id=str(folder / "sharded"))
    new = sharded(classifier())
    state = {"model": get_model_state_dict(new)}
    checkpoint.load(state, checkpoint_id=str(folder / "sharded"))
    set_model_state_dict(new, state["model"])
    torch.testing.assert_close(new.eval()(image()), expected)
    dist.destroy_process_group()


@forks
def test_two_processes(tmp_path):
    """DDP gives all processes the gates of the first; sharded gates compute what whole ones do."""
    pids = ranks(lambda rank: train_sharded(rank, tmp_path), tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], said(tmp_path)
    first, second = (torch.load(tmp_path / f"gates{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "traced"])
def test_exported_to_onnx(dynamo, tmp_path):
    """Each gate gives p = 0.5, so a lost gate, or one that acts twice, would be seen."""
    pytest.importorskip("onnxscript", exc_type=ImportError)
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    file = tmp_path / "model.onnx"
    torch.onnx.export(boosted(), (image(),), file, dynamo=dynamo, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    same(torch.from_numpy(session.run(None, {name: image().numpy()})[0]), halved().detach())
