"""ultralytics: gates in detection (v8, 11, 26), segmentation and classification.

The networks are boosted in the two ways that its users have: `trainer=`, and before training.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import accuracy_booster as ab
from trainers.step import Step, difference, gates

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # the drawn images of the tests
from support import ultralytics_runs as runs  # noqa: E402

PACKAGE = "ultralytics"
NETWORKS = [
    ("yolov8n", "detect", "trainer"),
    ("yolo11n", "detect", "boosted"),
    ("yolo26n", "detect", "boosted"),
    ("yolov8n-seg", "segment", "boosted"),
    ("yolo11n-cls", "classify", "trainer"),
]
TESTS = "tests/integrations/test_ultralytics.py::"
LOADED = """
import sys, torch
from ultralytics import YOLO
from support import ultralytics_runs as runs
assert "accuracy_booster" not in sys.modules
network = YOLO(sys.argv[1]).model
import accuracy_booster as ab
torch.save((runs.output(network), len(ab.surgery.attached(network))), sys.argv[2])
"""


def steps(folder: Path) -> Iterator[Step]:
    """Train, resume, save, load and export each network of NETWORKS."""
    for name, task, way in NETWORKS:
        yield from _steps(folder / name, name, task, way)


def _steps(folder: Path, name: str, task: str, way: str) -> Iterator[Step]:
    from ultralytics import YOLO
    from ultralytics.nn.autobackend import AutoBackend

    folder.mkdir()
    data = runs.make_data(folder / "data", task)
    plain = runs.make_checkpoint(folder / "plain.pt", name)
    expected = len(ab.plan(YOLO(plain).model, "ab").gates)

    def step(kind: str, network: Any, change: float | None, test: str, note: str = "") -> Step:
        return Step(
            f"ultralytics, {name}", kind, gates(network), expected, change, TESTS + test, note
        )

    def arguments(**changed: Any) -> dict[str, Any]:
        return runs.settings(data=data, project=str(folder), **changed)

    def started(**changed: Any) -> tuple[Any, Callable[[], Any]]:
        model, given = YOLO(plain), arguments(**changed)
        if way == "trainer":
            given["trainer"] = ab.integrations.ultralytics.trainer("ab")
        else:
            ab.boost(model.model, "ab", init="identity")
        return model, lambda: model.train(**given)

    model, train = started()
    with runs.stopped_at(model, "on_train_start") as seen:
        train()
    network = seen["trainer"].model
    change = difference(runs.output(network), runs.output(YOLO(plain).model))
    note = "trainer=" if way == "trainer" else "ab.boost(model.model)"
    yield step("boost", network, change, "test_training_starts_from_the_pretrained_network", note)

    model, train = started(name="run")
    train()
    averaged = model.trainer.ema.ema
    yield step("train", averaged, None, "test_gates_are_trained_averaged_and_saved")

    model, train = started(name="interrupted", epochs=3)
    with runs.stopped_at(model, "on_fit_epoch_end") as seen:
        train()
    last = seen["trainer"].last
    model = YOLO(last)
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(resume=True)
    change = difference(runs.output(seen["trainer"].model), runs.output(YOLO(last).model))
    test = "test_resuming_goes_on_with_gates_and_their_optimizer_state"
    yield step("resume", seen["trainer"].model, change, test, "to the checkpoint")

    best = folder / "run" / "weights" / "best.pt"
    model = YOLO(best)
    trained = runs.output(model.model)
    copy = folder / "copy.pt"
    model.save(copy)
    change = difference(runs.output(YOLO(copy).model), trained)
    test = "test_saving_in_half_precision_keeps_the_outputs"
    note = "of a checkpoint, which is in half precision"
    yield step("save", YOLO(copy).model, change, test, note)

    file = folder / "output.pth"
    subprocess.run([sys.executable, "-c", LOADED, best, file], check=True, env=_environment())
    output, count = torch.load(file)
    change = difference(output, trained)
    test = "test_new_processes_that_import_nothing_of_ours"
    yield step("load in a new process", model.model, change, test)._replace(gates=count)

    for kind in ("onnx", "torchscript"):
        exported = model.export(format=kind, imgsz=runs.SIZE, batch=2, verbose=False)
        found = AutoBackend(exported, device=torch.device("cpu"))(runs.images())
        found = found[0] if isinstance(found, (list, tuple)) else found
        change = difference(torch.as_tensor(found), trained)
        yield step("export", model.model, change, "test_exported_networks_compute_the_same", kind)


def _environment() -> dict[str, str]:
    import os

    path = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
