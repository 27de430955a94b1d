"""What users of ultralytics do besides one training: several data sets, tuning, distillation,
training the gates alone, restricted loading.
"""

from __future__ import annotations

import pickle
import re
import warnings

import pytest
import torch
from support import ultralytics_runs as runs
from support.documentation import ROOT, blocks

import accuracy_booster as ab
from accuracy_booster.surgery import attached

pytest.importorskip("ultralytics", exc_type=ImportError)
PAGE = ROOT / "docs" / "trainers" / "ultralytics.md"
pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ultralytics")


@pytest.fixture(scope="module")
def data(folder):
    return runs.make_data(folder / "data", "detect")


@pytest.fixture(scope="module")
def plain(folder):
    return runs.make_checkpoint(folder / "plain.pt", "yolov8n")


@pytest.fixture(scope="module")
def boosted(folder, plain):
    from ultralytics import YOLO

    model = YOLO(plain)
    ab.boost(model.model, "ab", init="identity")
    model.save(folder / "boosted.pt")
    return str(folder / "boosted.pt")


def test_several_data_sets(folder, data, plain):
    from ultralytics import YOLO

    model = YOLO(plain)
    seen = []
    model.add_callback("on_train_start", lambda trainer: seen.append(attached(trainer.model)))
    model.add_callback("on_train_start", lambda trainer: 1 / 0)  # it goes on with the next data set
    settings = runs.settings(data=[data, data], project=str(folder))
    model.train(**settings, trainer=ab.integrations.ultralytics.trainer("ab"))
    ab.boost(model.model, "ab", init="identity")
    model.train(**settings)
    assert [len(gates) for gates in seen] == [6, 6, 6, 6]


def test_tuning_trains_a_file_with_the_gates(folder, data, boosted, monkeypatch):
    from ultralytics import YOLO
    from ultralytics.engine import trainer, tuner

    found = []

    def run(words, **given):
        (file,) = (w.removeprefix("model=") for w in words if w.startswith("model="))
        found.append(len(attached(YOLO(file).model)))
        raise RuntimeError("what it would run trains as any checkpoint does")

    monkeypatch.setattr(trainer.subprocess, "run", run)
    monkeypatch.setattr(tuner, "plot_tune_results", lambda *given: None)
    YOLO(boosted).tune(iterations=1, **runs.settings(data=data, project=str(folder)))
    assert found == [6]


def test_distillation_with_a_boosted_teacher_and_student(folder, data, boosted):
    from ultralytics import YOLO

    model = YOLO(boosted)
    with runs.stopped_at(model, "on_train_batch_end") as seen:
        model.train(**runs.settings(data=data, project=str(folder)), distill_model=boosted)
    network = seen["trainer"].model
    assert len(attached(network.student_model)) == len(attached(network.teacher_model)) == 6
    teacher = {id(p) for p in network.teacher_model.parameters()}
    for gate in attached(network).values():
        assert all(p.requires_grad == (id(p) not in teacher) for p in gate.parameters())


def test_the_gates_alone_are_trained(folder, data, boosted):
    """The callbacks of docs/trainers/ultralytics.md, on top of `freeze=`."""
    from ultralytics import YOLO

    (block,) = (b for b in blocks(PAGE, "python") if "def let_gates_learn" in b.code)
    definitions, _, rest = block.code.partition("model = YOLO")
    callbacks = re.findall(r"model\.add_callback\(.*\)", rest)
    assert len(callbacks) == 2
    model, modes = YOLO(boosted), []
    exec("\n".join([definitions, *callbacks]), {"model": model})
    model.add_callback("on_train_batch_end", lambda t: modes.append(gate_modes(t.model)))
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    with (
        warnings.catch_warnings(record=True) as given,
        runs.stopped_at(model, "on_train_end") as seen,
    ):
        warnings.simplefilter("always")
        model.train(**runs.settings(data=data, project=str(folder), freeze=22))
    assert not [str(w.message) for w in given if "frozen" in str(w.message)]
    assert modes == [{True}] * 2, "in each epoch the gates' norms estimate statistics"
    after = seen["trainer"].model.state_dict()
    inside = [name for name in before if not name.startswith("model.22.")]
    moved = {name for name in inside if not torch.equal(before[name].float(), after[name])}
    sites = attached(seen["trainer"].model)
    for tensor in ("weight", "running_mean", "running_var"):
        assert {f"{name}.recalibrate.0.bn.{tensor}" for name in sites} <= moved
    assert all(".recalibrate." in name for name in moved)


def gate_modes(network):
    """Whether the modules of the gates are in training mode."""
    return {m.training for gate in attached(network).values() for m in gate.modules()}


def test_the_numbers_that_info_prints_count_the_gates(plain, boosted):
    from ultralytics import YOLO

    counts = [YOLO(file).info()[1] for file in (plain, boosted)]
    added = ab.added_parameters(YOLO(boosted).model)
    assert counts[1] - counts[0] == sum(p.numel() for p in added)


def test_restricted_loading_refuses_a_boosted_checkpoint(plain, boosted):
    """ULTRALYTICS_SAFE_LOAD: only classes of torch and ultralytics."""
    from ultralytics.nn.tasks import torch_safe_load

    assert torch_safe_load(plain, safe_only=True)
    with pytest.raises(TypeError, match="outside the supported Ultralytics") as refused:
        torch_safe_load(boosted, safe_only=True)
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
    assert "accuracy_booster" in str(refused.value.__cause__)
