"""A folded network of ultralytics is validated and predicts as it is."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from support.networks import randomise

import accuracy_booster as ab

tasks = pytest.importorskip("ultralytics.nn.tasks", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 64


@pytest.fixture(autouse=True)
def _settings(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))


def networks(name, where):
    """(a boosted network of ultralytics, its folded form, images)."""
    torch.manual_seed(0)
    model, x = tasks.DetectionModel(name, verbose=False), torch.rand(1, 3, SIDE, SIDE)
    ab.boost(model, example=x, where=where)
    randomise(model, spread=0.2).eval()
    return model, ab.fold(model, example=x, verify=True), x


def predictions(model, x):
    with torch.no_grad():
        y = model(x)
    return y[0] if isinstance(y, (list, tuple)) else y


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("yolov8n.yaml", "residual"),  # on the norms
        ("yolov8n.yaml", ["model.2.m.0.cv2", "model.4.m.1.cv2"]),  # on conv, norm, SiLU
        ("yolo26n.yaml", "residual"),  # end to end: the head has a branch for training
    ],
)
def test_a_folded_network_is_left_as_it_is(name, where):
    from ultralytics.nn.autobackend import AutoBackend

    model, folded, x = networks(name, where)
    report = ab.fast_path(folded)
    assert report.taken == len(report.places)
    expected = predictions(folded, x)
    for other in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert other.fuse(verbose=False) is other
        torch.testing.assert_close(predictions(other, x), expected)
    run = AutoBackend(copy.deepcopy(folded), device=torch.device("cpu"), verbose=False)
    torch.testing.assert_close(predictions(run, x), expected)
    head, whole = run.model.model[-1], model.model[-1]  # one branch of two is left
    assert [f"one2one_{n}" in dict(whole.named_children()) for n in ("cv2", "cv3")] == (
        [name == "yolo26n.yaml"] * 2
    )
    assert not any(n.startswith("one2one_") for n, _ in head.named_children())


def test_predict_takes_a_folded_network():
    from ultralytics import YOLO

    _, folded, _ = networks("yolov8n.yaml", ["model.2.m.0.cv2"])
    yolo = YOLO("yolov8n.yaml")
    yolo.model = folded
    picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
    assert len(yolo.predict(picture, imgsz=SIDE, verbose=False)) == 1
