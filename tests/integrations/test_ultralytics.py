"""Boosted networks in ultralytics' own training, resuming, validation, prediction and export.

Ultralytics' code runs as it is installed, on four drawn images. A training is shared by the tests
of one way to start it: `trainer=`, or a network that was boosted before.
"""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from support import ultralytics_runs as runs

import accuracy_booster as ab
from accuracy_booster.surgery import attached

pytest.importorskip("ultralytics", exc_type=ImportError)
pytestmark = [
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.xdist_group("ultralytics"),
]
# (name, task, the number of residual branches by the classes of ultralytics' YAML files)
NETWORKS = [
    ("yolov8n", "detect", 6),
    ("yolo11n", "detect", 13),
    ("yolo26n", "detect", 18),
    ("yolov8n-seg", "segment", 6),
    ("yolo11n-cls", "classify", 8),
    ("yolov8n-pose", "pose", 6),
    ("yolov8n-obb", "obb", 6),
    ("yoloe-11s", "detect", 13),
]
TRAINED = {  # (network, way to start)
    "detect": ("yolov8n", "trainer"),
    "end to end": ("yolo26n", "boosted"),
    "segment": ("yolov8n-seg", "boosted"),
    "classify": ("yolo11n-cls", "trainer"),
}
TASK = {name: task for name, task, _ in NETWORKS}
COUNT = {name: count for name, _, count in NETWORKS}


class Place:
    """The data sets, checkpoints without gates, and trainings of these tests, each made once."""

    def __init__(self, folder):
        self.folder, self.made, self.trained = folder, {}, {}

    def data(self, name):
        task = TASK.get(name, "detect")
        if task not in self.made:
            self.made[task] = runs.make_data(self.folder / task, task)
        return self.made[task]

    def checkpoint(self, name):
        if name not in self.made:
            self.made[name] = runs.make_checkpoint(self.folder / f"{name}.pt", name)
        return self.made[name]

    def arguments(self, network, **changed):
        return runs.settings(data=self.data(network), project=str(self.folder), **changed)

    def start(self, network, way, **changed):
        """A model, and the arguments that train it boosted."""
        from ultralytics import YOLO

        model = YOLO(self.checkpoint(network))
        if way == "boosted":
            ab.boost(model.model, "ab", init="identity")
            return model, self.arguments(network, **changed)
        trainer = ab.integrations.ultralytics.trainer("ab")
        return model, self.arguments(network, trainer=trainer, **changed)

    def run(self, which):
        """The model after a training of two epochs."""
        if which not in self.trained:
            name, way = TRAINED[which]
            model, arguments = self.start(name, way, name=which)
            model.train(**arguments)
            self.trained[which] = model
        return self.trained[which]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("ultralytics"))


# --- before the first step


@pytest.mark.parametrize("way", ["trainer", "boosted"])
@pytest.mark.parametrize("name", [name for name, *_ in NETWORKS])
def test_training_starts_from_the_pretrained_network(place, name, way):
    from ultralytics import YOLO

    plain = YOLO(place.checkpoint(name))
    base = plain.model.state_dict()
    expected = runs.output(plain.model)
    model, arguments = place.start(name, way)
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**arguments)
    network = seen["trainer"].model
    assert len(attached(network)) == len(attached(seen["trainer"].ema.ema)) == COUNT[name]
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in base.items())
    assert torch.equal(runs.output(network), expected)
    optimized = {id(p) for group in seen["trainer"].optimizer.param_groups for p in group["params"]}
    assert all(id(p) in optimized for p in ab.added_parameters(network))


def test_rt_detr_is_trained_by_its_own_trainer(place):
    from ultralytics import RTDETR
    from ultralytics.models.rtdetr.train import RTDETRTrainer

    model = RTDETR(place.checkpoint("rtdetr-l"))
    trainer = ab.integrations.ultralytics.trainer("ab")
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**place.arguments("rtdetr-l", trainer=trainer))
    assert isinstance(seen["trainer"], RTDETRTrainer)
    assert len(attached(seen["trainer"].model)) == 2  # two blocks of the backbone have a shortcut


def test_other_classes_than_in_the_checkpoint(place, tmp_path):
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(tmp_path / "classes.pt")  # 80 classes
    model = YOLO(tmp_path / "classes.pt")
    ab.boost(model.model, "ab", init="identity")
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**place.arguments("yolov8n"))
    network = seen["trainer"].model
    assert network.model[-1].nc == 2
    assert len(attached(network)) == 6


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_model_of_a_yaml_file(place, pretrained):
    from ultralytics import YOLO

    model = YOLO("yolov8n.yaml")
    ab.boost(model.model, "se")
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**place.arguments("yolov8n", pretrained=pretrained))
    recipes = {gate.recipe for gate in attached(seen["trainer"].model).values()}
    assert recipes == {ab.recipe("se")}


def test_a_trainer_of_ones_own_that_drops_the_gates_is_an_error(place):
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel

    class Own(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            return DetectionModel("yolov8n.yaml", nc=2, verbose=False)

    model, arguments = place.start("yolov8n", "boosted")
    with pytest.raises(RuntimeError, match=r"0 of the 6 gates.*integrations.ultralytics.trainer"):
        model.train(**arguments, trainer=Own)
    trainer = ab.integrations.ultralytics.trainer("ab", base=Own)
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**arguments, trainer=trainer)
    assert isinstance(seen["trainer"], Own)
    assert len(attached(seen["trainer"].model)) == 6


def test_other_gates_than_the_trainers_are_an_error(place):
    model, arguments = place.start("yolov8n", "boosted")
    with pytest.raises(ValueError, match=r"has gates .*scale=2.* already.*bottleneck.*ab.unboost"):
        model.train(**arguments, trainer=ab.integrations.ultralytics.trainer("se", init="paper"))
    with pytest.raises(ValueError, match="init='zero' must be"):
        ab.integrations.ultralytics.trainer("ab", init="zero")


def test_a_last_batch_of_one_image_is_an_error_before_the_first_step(place):
    for way in ("trainer", "boosted"):
        model, arguments = place.start("yolov8n", way, batch=3)
        with pytest.raises(ValueError, match="batch=3 leaves a last batch of 1 of 4 images"):
            model.train(**arguments)


# --- freezing


@pytest.mark.parametrize("way", ["trainer", "boosted"])
def test_frozen_layers_keep_their_gates_frozen(place, way):
    model, arguments = place.start("yolov8n", way, freeze=4)
    with (
        warnings.catch_warnings(record=True) as given,
        runs.stopped_at(model, "on_train_batch_start") as seen,
    ):
        warnings.simplefilter("always")
        model.train(**arguments)
    assert not [w for w in given if "freeze" in str(w.message)], "the user asked for it"
    network = seen["trainer"].model
    for name, gate in attached(network).items():
        frozen = int(name.split(".")[1]) < 4
        assert all(p.requires_grad != frozen for p in gate.parameters()), name
        norms = [m for m in gate.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(norm.training != frozen for norm in norms), name


# --- after the training


@pytest.mark.parametrize("which", TRAINED)
def test_gates_are_trained_averaged_and_saved(place, which):
    from ultralytics import YOLO

    model = place.run(which)
    name, _ = TRAINED[which]
    fresh = YOLO(place.checkpoint(name)).model
    ab.boost(fresh, "ab", init="identity")
    start = fresh.state_dict()
    for file in (model.trainer.last, model.trainer.best):
        network = YOLO(file).model
        assert len(attached(network)) == COUNT[name]
        trained = network.state_dict()
        keys = [key for key in start if key.endswith("recalibrate.0.bn.weight")]
        assert len(keys) == COUNT[name]
        moved = sum(not torch.equal(trained[key], start[key].half().float()) for key in keys)
        assert moved == COUNT[name]


@pytest.mark.parametrize("which", TRAINED)
def test_saving_in_half_precision_keeps_the_outputs(place, which):
    """Less than twice what it does to the network without its gates."""
    from ultralytics import YOLO

    averaged = place.run(which).trainer.ema.ema
    last = YOLO(place.run(which).trainer.last).model
    found, expected = runs.output(last), runs.output(averaged)
    with ab.disabled(last), ab.disabled(averaged):
        without, base = runs.output(last), runs.output(averaged)
    assert runs.difference(found, expected) < 2 * runs.difference(without, base) + 1e-4
    assert runs.difference(found, without) > 1e-5, "the gates do something"


@pytest.mark.parametrize("which", TRAINED)
def test_val_and_predict_compute_what_the_network_computes(place, which):
    from ultralytics import YOLO
    from ultralytics.nn.autobackend import AutoBackend

    model = YOLO(place.run(which).trainer.last)
    expected = runs.output(model.model)
    fused = AutoBackend(copy.deepcopy(model.model), device=torch.device("cpu"), verbose=False).model
    assert fused.is_fused()
    assert runs.difference(runs.output(fused), expected) < 1e-4
    picture = np.full((runs.SIZE, runs.SIZE, 3), 90, np.uint8)
    assert len(model.predict(picture, imgsz=runs.SIZE, verbose=False)) == 1
    assert model.val(**place.arguments(TRAINED[which][0], val=True)) is not None
    assert torch.equal(runs.output(model.model), expected), "the model itself is not fused"


@pytest.mark.parametrize("which", ["detect", "end to end", "classify"])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_exported_networks_compute_the_same(place, which, kind):
    from ultralytics import YOLO
    from ultralytics.nn.autobackend import AutoBackend

    model = YOLO(place.run(which).trainer.last)
    file = model.export(format=kind, imgsz=runs.SIZE, batch=2, verbose=False)
    found = AutoBackend(file, device=torch.device("cpu"))(runs.images())
    found = found[0] if isinstance(found, (list, tuple)) else found
    assert runs.difference(torch.as_tensor(found), runs.output(model.model)) < 1e-3


def test_resuming_goes_on_with_gates_and_their_optimizer_state(place):
    from ultralytics import YOLO

    model, arguments = place.start("yolov8n", "trainer", name="interrupted", epochs=3)
    with runs.stopped_at(model, "on_fit_epoch_end") as seen:
        model.train(**arguments)
    last = seen["trainer"].last
    saved = torch.load(last, weights_only=False)
    again = YOLO(last)
    with runs.stopped_at(again, "on_train_start") as seen:
        again.train(resume=True)
    trainer = seen["trainer"]
    assert trainer.start_epoch == 1
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    ours = {id(p) for p in ab.added_parameters(trainer.model)}
    at = 0
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            state = saved["optimizer"]["state"].get(at)
            at += 1
            if id(parameter) in ours:
                momentum = trainer.optimizer.state[parameter]["momentum_buffer"]
                assert state is not None, names[id(parameter)]
                assert torch.equal(momentum, state["momentum_buffer"].float())
    assert len(attached(trainer.model)) == 6
    assert again.train(resume=True) is not None
    assert len(attached(YOLO(last).model)) == 6


# --- other processes

NEW_PROCESS = """
import json, sys, torch
from ultralytics import YOLO
from ultralytics.cfg import entrypoint
from support import ultralytics_runs as runs
assert "accuracy_booster" not in sys.modules
command, *files = sys.argv[1:]
entrypoint(command)
outputs = {file: runs.output(YOLO(file).model) for file in files}
torch.save(outputs, "outputs.pth")
import accuracy_booster as ab
print(json.dumps({file: len(ab.surgery.attached(YOLO(file).model)) for file in files}))
"""


def test_checkpoints_load_and_train_in_new_processes_that_import_nothing_of_ours(place, tmp_path):
    """`yolo train model=boosted.pt`, of a network that was boosted and saved."""
    from ultralytics import YOLO

    model = YOLO(place.checkpoint("yolov8n"))
    ab.boost(model.model, "ab", init="identity")
    model.save(tmp_path / "boosted.pt")
    arguments = place.arguments("yolov8n", name="command", epochs=1, model=tmp_path / "boosted.pt")
    words = " ".join(f"{key}={value}" for key, value in arguments.items())
    files = [str(place.folder / "command" / "weights" / f"{n}.pt") for n in ("last", "best")]
    files += [str(place.run(which).trainer.best) for which in TRAINED]
    printed = runs.in_new_process(NEW_PROCESS, tmp_path, f"train {words}", *files)
    counts = json.loads(printed.splitlines()[-1])
    assert list(counts.values()) == [6, 6, *(COUNT[name] for name, _ in TRAINED.values())]
    outputs = torch.load(tmp_path / "outputs.pth")
    for file in files:
        assert torch.equal(outputs[file], runs.output(YOLO(file).model)), file
