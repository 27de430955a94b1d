"""A backbone in mmdetection's style with gates, trained by mmengine's Runner."""

from __future__ import annotations

import warnings

import pytest
import torch

import accuracy_booster as ab

pytest.importorskip("mmengine", exc_type=ImportError)
from mmengine.runner import load_checkpoint
from support.halved_networks import all_learned, gate_vectors
from support.mmdet_style import GATES, build, configuration, runner

pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _old_checkpoints(monkeypatch):
    """mmengine 0.10 needs `weights_only=False`, which is no longer the default of torch."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def boosted(initialised: bool = True, **backbone):
    model = build(**backbone)
    if initialised:
        model.init_weights()
    return ab.boost(model, "ab", init="identity", example=EXAMPLE)


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network after an epoch of the Runner, its gates before that, and the folder."""
    folder = tmp_path_factory.mktemp("trained")
    model = boosted()
    before = gate_vectors(model)
    used = runner(model, folder)
    used.train()
    return used.model.eval(), before, folder / "epoch_1.pth"


def test_the_runner_trains_gates_and_saves_them(trained):
    model, before, file = trained
    assert all_learned(model, before)
    new = boosted()
    load_checkpoint(new, str(file), strict=True)
    assert torch.equal(new.eval()(image()), model(image()))


def test_a_training_is_resumed_with_gates(trained, tmp_path):
    used = runner(boosted(), tmp_path, epochs=2, resume=True, load_from=str(trained[2]))
    used.train()
    assert len(ab.surgery.attached(used.model)) == GATES
    assert used.epoch == 2


def test_a_training_is_not_resumed_without_gates(trained, tmp_path):
    """A network that is built from the configuration has none; the optimizer's state tells."""
    used = runner(configuration(), tmp_path, epochs=2, resume=True, load_from=str(trained[2]))
    with pytest.raises(ValueError, match="parameter group"):
        used.train()


def test_loading_without_gates_is_told_in_the_log(trained, capsys):
    load_checkpoint(build(), str(trained[2]))
    assert "unexpected key in source state_dict: backbone.layer1.bn2.rec" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="unexpected key"):
        load_checkpoint(build(), str(trained[2]), strict=True)


def test_a_network_from_a_configuration_gets_its_gates_from_the_record(trained):
    model, _, file = trained
    new = ab.rebuild_gates(build(), ab.gate_record(model))
    load_checkpoint(new, str(file), strict=True)
    assert torch.equal(new.eval()(image()), model(image()))


@pytest.mark.parametrize("initialised", [True, False])
def test_init_weights_comes_before_boosting(initialised):
    """The Runner calls it once. It initialises every norm of the network, also those of gates."""
    model = boosted(initialised)
    model.init_weights()
    model.eval()
    y = model(image())
    with ab.disabled(model):
        assert torch.equal(y, model(image())) == initialised


def test_norm_eval_freezes_gates_with_a_warning():
    model = boosted(norm_eval=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train()
    assert sum("a norm that holds a gate was frozen" in str(w.message) for w in caught) == GATES
    ab.freeze_norms(model := boosted().train())  # in place of `norm_eval`
    assert all(gate.training for gate in ab.surgery.attached(model).values())
    assert not model.backbone.layer1.bn2.training


def test_frozen_stages_freeze_their_gates():
    first, second = ab.surgery.attached(boosted(frozen_stages=1).train()).values()
    assert not first.training
    assert second.training
    assert [any(p.requires_grad for p in g.parameters()) for g in (first, second)] == [False, True]


def test_the_hook_for_moving_averages(tmp_path):
    used = runner(boosted(), tmp_path, custom_hooks=[{"type": "EMAHook"}])
    used.train()
    (hook,) = (hook for hook in used.hooks if hasattr(hook, "ema_model"))
    assert len(ab.surgery.attached(hook.ema_model.module)) == GATES
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert sum("recalibrate" in name for name in saved["ema_state_dict"]) == GATES * 6
