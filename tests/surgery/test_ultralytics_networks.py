"""The functions of ultralytics that fill a network by the names of its tensors, and its gates."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import ultralytics_runs as runs

import accuracy_booster as ab
from accuracy_booster.surgery import attached

pytest.importorskip("ultralytics", exc_type=ImportError)


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    """A checkpoint with trained-looking gates, and its network's output."""
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("boosted")
    model = YOLO(runs.make_checkpoint(folder / "base.pt", "yolov8n"))
    ab.boost(model.model, "ab", init="identity")
    with torch.no_grad():
        for parameter in ab.added_parameters(model.model):
            parameter.uniform_(-0.5, 0.5)
    model.save(folder / "boosted.pt")
    return str(folder / "boosted.pt")


def warned(given) -> list[str]:
    return [str(w.message) for w in given if "gates" in str(w.message)]


def test_nothing_is_wrapped_before_the_first_gate(monkeypatch):
    from ultralytics import YOLO
    from ultralytics.engine.model import Model
    from ultralytics.nn import tasks

    places = [(tasks.BaseModel, "load"), (tasks, "initialize_weights"), (Model, "train")]
    originals = []
    for owner, name in places:
        function = getattr(owner, name)
        originals.append(getattr(function, "__wrapped__", function))
        monkeypatch.setattr(owner, name, originals[-1])
    network = YOLO("yolov8n.yaml").model
    ab.plan(network)
    assert [getattr(owner, name) for owner, name in places] == originals
    for _ in range(2):  # once, however many networks are boosted
        ab.unboost(ab.boost(network))
        assert [getattr(owner, name).__wrapped__ for owner, name in places] == originals
    assert Model.train.__doc__ == originals[-1].__doc__


def test_a_plain_network_takes_the_gates_of_the_weights(boosted):
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    source = YOLO(boosted).model
    model = YOLO("yolov8n.yaml")
    model.model = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        model.load(boosted)
    assert not warned(given)
    assert torch.equal(runs.output(model.model), runs.output(source))
    again = type(model.model)(model.model.yaml, verbose=False)
    assert len(attached(again)) == 6, "the configuration carries them from now on"
    ab.unboost(model.model)
    model.model.load({"model": source})  # a checkpoint's dict
    assert len(attached(model.model)) == 6


@pytest.mark.parametrize("name", ["yolov8s", "yolo11n"])
def test_a_network_that_they_do_not_fit_gets_a_warning(boosted, name):
    from ultralytics import YOLO

    model = YOLO(f"{name}.yaml")
    with pytest.warns(UserWarning, match="have 6 gates that do not fit this DetectionModel"):
        model.load(boosted)
    assert not attached(model.model)
    runs.output(model.model)  # it runs


def test_other_gates_than_those_of_the_weights_get_a_warning(boosted):
    from ultralytics import YOLO

    model = YOLO(boosted)
    ab.boost(ab.unboost(model.model), "se", init="identity")
    with pytest.warns(UserWarning, match=r"other gates than the weights.*\(6\) are lost"):
        model.load(boosted)
    assert {gate.recipe for gate in attached(model.model).values()} == {
        ab.recipe("se").as_identity()
    }


def test_plain_weights_leave_the_gates_alone(boosted, tmp_path):
    from ultralytics import YOLO

    model = YOLO(boosted)
    before = [p.clone() for p in ab.added_parameters(model.model)]
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        model.load(runs.make_checkpoint(tmp_path / "plain.pt", "yolov8n"))
    assert not warned(given)
    assert all(map(torch.equal, before, ab.added_parameters(model.model)))


def test_gated_norms_get_the_settings_of_the_others(boosted):
    """ultralytics sets the norms whose class is exactly BatchNorm2d while it builds a network."""
    from ultralytics import YOLO

    built = type(YOLO(boosted).model)(YOLO(boosted).model.yaml, verbose=False)
    plain = type(built)("yolov8n.yaml", verbose=False)
    modules = dict(plain.named_modules())
    assert attached(built)
    for name in attached(built):
        norm = built.get_submodule(name)
        assert (norm.eps, norm.momentum) == (modules[name].eps, modules[name].momentum)
        assert norm.eps == 1e-3, "what ultralytics sets"
