"""Networks with gates in lightning's Trainer: checkpoints, callbacks, finetuning, export."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.halved_networks import all_learned, gate_vectors, network
from support.processes import forks, ranks, said, wait
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accuracy_booster as ab

lightning = pytest.importorskip("lightning", exc_type=ImportError)
callbacks = pytest.importorskip("lightning.pytorch.callbacks", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")
GATES = 2
EXAMPLE = torch.zeros(1, 3, 8, 8)


class Module(lightning.LightningModule):
    """A classifier whose network is boosted in `__init__`, unless block is None."""

    def __init__(self, block: str | None = "ab"):
        super().__init__()
        self.save_hyperparameters()
        self.backbone, self.fc = network().train(), nn.Linear(8 * 36, 2)
        if block is not None:
            ab.boost(self.backbone, block, init="identity", example=EXAMPLE)

    def forward(self, x):
        return self.fc(self.backbone(x))

    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, index):
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=0.1, momentum=0.9)


class Remembers(Module):
    """A module that gets its gates from outside, and keeps their record in its checkpoints."""

    def __init__(self):
        super().__init__(block=None)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["gates"] = ab.gate_record(self.backbone)

    def on_load_checkpoint(self, checkpoint):
        if not ab.surgery.attached(self.backbone):
            ab.rebuild_gates(self.backbone, checkpoint["gates"])


def data() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 8, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(32) % 2), batch_size=16)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def trainer(folder: Path, **options) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet, **options}
    return lightning.Trainer(default_root_dir=folder, **options)


def fitted(module, folder: Path, **options):
    """The trainer after training, and the gates' parameters before it."""
    before = gate_vectors(module)
    used = trainer(folder, **options)
    used.fit(module, data())
    return used, before


def outside(kind: type[Module] = Module) -> Module:
    """A module that is boosted after it was made."""
    module = kind(None) if kind is Module else kind()
    ab.boost(module.backbone, "ab", init="identity", example=EXAMPLE)
    return module


def test_boosted_in_init(tmp_path):
    module = Module()
    used, before = fitted(module, tmp_path)
    assert all_learned(module, before)
    used.save_checkpoint(file := tmp_path / "last.ckpt")
    loaded = Module.load_from_checkpoint(file)
    assert torch.equal(loaded.eval()(images()), module.eval()(images()))
    resumed = Module()
    again = trainer(tmp_path, max_epochs=2)
    again.fit(resumed, data(), ckpt_path=file)
    assert again.global_step == 2 * used.global_step
    assert again.test(Module(), data(), ckpt_path=file, verbose=False)[0]["loss"] > 0


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """The file of a module that was boosted after it was made."""
    folder = tmp_path_factory.mktemp("later")
    used, _ = fitted(outside(), folder)
    used.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_gates_that_came_later_are_missed_with_an_error(later, tmp_path):
    unexpected = r"Unexpected key.*backbone\.1\.bn2\.recalibrate"
    with pytest.raises(RuntimeError, match=unexpected):
        Module.load_from_checkpoint(later, block=None)
    with pytest.raises(RuntimeError, match=unexpected):
        trainer(tmp_path, max_epochs=2).fit(Module(None), data(), ckpt_path=later)


def test_loading_that_is_not_strict_warns(later):
    """lightning's own warning; torch alone returns the names in silence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Module.load_from_checkpoint(later, block=None, strict=False)
    told = "".join(str(w.message) for w in caught)
    assert "not in the model state dict but in the checkpoint" in told
    assert "recalibrate" in told


def test_the_record_of_the_gates_in_the_checkpoint(tmp_path):
    module = outside(Remembers)
    used, _ = fitted(module, tmp_path)
    used.save_checkpoint(file := tmp_path / "last.ckpt")
    loaded = Remembers.load_from_checkpoint(file)
    assert torch.equal(loaded.eval()(images()), module.eval()(images()))
    resumed = Remembers()
    again = trainer(tmp_path, max_epochs=2)
    again.fit(resumed, data(), ckpt_path=file)
    held = {id(p) for group in again.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in ab.added_parameters(resumed)} <= held


CALLBACKS = {
    "EMAWeightAveraging": lambda: callbacks.EMAWeightAveraging(),
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(0.1, 1),
    "ModelPruning": lambda: callbacks.ModelPruning("l1_unstructured", amount=0.3),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_that_copy_or_change_modules(name, tmp_path):
    module, callback = Module(), CALLBACKS[name]()
    used, before = fitted(module, tmp_path, callbacks=[callback], max_epochs=3)
    assert all_learned(module, before)
    average = getattr(callback, "_average_model", None)
    assert average is None or len(ab.surgery.attached(average)) == GATES
    used.save_checkpoint(file := tmp_path / "last.ckpt")
    loaded = Module.load_from_checkpoint(file, strict=name != "ModelPruning")
    assert len(ab.surgery.attached(loaded)) == GATES


def test_a_frozen_backbone_freezes_gates_and_unfreezes_them(tmp_path):
    module = Module()
    callback = callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    before = gate_vectors(module)
    trainer(tmp_path, callbacks=[callback]).fit(module, data())
    # with train_bn=True (the default) norms stay trainable by class, those of gates too
    frozen = {n for n, p in module.backbone.named_parameters() if not p.requires_grad}
    assert {n for n in frozen if "recalibrate" in n} == {
        f"{i}.bn2.recalibrate.0.dense.weight" for i in (1, 2)
    }
    module = Module()
    callback = callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    trainer(tmp_path, callbacks=[callback], max_epochs=2).fit(module, data())
    assert all_learned(module, before)


def test_synchronised_norms_accumulated_and_clipped_gradients(tmp_path):
    module = Module()
    options = {"sync_batchnorm": True, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    _, before = fitted(module, tmp_path, **options)
    assert all_learned(module, before)


def test_a_summary_and_a_trace():
    module = Module().eval()
    summary = str(lightning.pytorch.utilities.model_summary.ModelSummary(module, max_depth=4))
    assert summary.count("Recalibrate") == GATES
    traced = module.to_torchscript(method="trace", example_inputs=images())
    torch.testing.assert_close(traced(images()), module(images()))


def test_fabric(tmp_path):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    module = Module().backbone
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    before = gate_vectors(module)
    fabric.backward(model(images()).square().mean())
    optimizer.step()
    assert all_learned(module, before)
    fabric.save(file := tmp_path / "last.ckpt", {"model": model})
    new = Module().backbone
    fabric.load(file, {"model": new})
    assert torch.equal(new.eval()(images()), module.eval()(images()))
    with pytest.raises(RuntimeError, match="recalibrate"):
        fabric.load(file, {"model": network()})


@forks
def test_two_processes(tmp_path):
    """Boosted in each process: DDP gives all the gates of the first, and they learn alike."""

    def work(rank):
        torch.manual_seed(rank)
        module = Module(None)
        ab.boost(module.backbone, "ab", example=EXAMPLE)
        used = trainer(tmp_path, devices=2, strategy="ddp")
        before = gate_vectors(module)
        used.fit(module, data())
        assert used.world_size == 2
        assert all_learned(module, before)
        torch.save(ab.added_parameters(module), tmp_path / f"gates{rank}.pt")

    assert [wait(pid) for pid in ranks(work, tmp_path)] == [0, 0], said(tmp_path)
    first, second = (torch.load(tmp_path / f"gates{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
