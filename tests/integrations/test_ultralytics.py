"""Boosted networks in ultralytics' own training, resuming, validation, prediction and export.

Ultralytics' code runs as it is installed, on four drawn images. A training is shared by the tests
of one way to start it: `trainer=`, or a network that was boosted before.
"""

from __future__ import annotations

import copy
import json
import re
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
]
# (name, task, the number of residual branches by ultralytics' YAML files, ways to start it)
NETWORKS = [
    ("yolov8n", "detect", 6, "trainer, boosted"),
    ("yolo11n", "detect", 13, "boosted"),
    ("yolo26n", "detect", 18, "boosted"),
    ("yolov8n-seg", "segment", 6, "trainer"),
    ("yolo11n-cls", "classify", 8, "boosted"),
    ("yolov8n-pose", "pose", 6, "trainer"),
    ("yolov8n-obb", "obb", 6, "boosted"),
    ("yoloe-11n", "detect", 13, "boosted"),
]
STARTS = [(name, way) for name, *_, ways in NETWORKS for way in ways.split(", ")]
TRAINED = {  # (network, way to start)
    "detect": ("yolov8n", "trainer"),
    "end to end": ("yolo26n", "boosted"),
    "segment": ("yolov8n-seg", "boosted"),
    "classify": ("yolo11n-cls", "trainer"),
}
TASK = {name: task for name, task, *_ in NETWORKS}
COUNT = {name: count for name, _, count, _ in NETWORKS}
SMALL_RT_DETR = """
nc: 2
backbone:
  - [-1, 1, Conv, [16, 3, 4]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3, 4], 1, RTDETRDecoder, [nc, 32, 10, 2, 2, 1, 32]]
"""


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


@pytest.mark.parametrize(("name", "way"), STARTS)
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


def test_rt_detr_is_trained_by_its_own_trainer(place, tmp_path):
    from ultralytics import RTDETR
    from ultralytics.models.rtdetr.train import RTDETRTrainer

    (tmp_path / "rtdetr-small.yaml").write_text(SMALL_RT_DETR)
    model = RTDETR(tmp_path / "rtdetr-small.yaml")
    trainer = ab.integrations.ultralytics.trainer("ab")
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**place.arguments("yolov8n", trainer=trainer))
    assert isinstance(seen["trainer"], RTDETRTrainer)
    assert list(attached(seen["trainer"].model)) == ["model.1.m.0.cv2.bn"]


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


def test_other_gates_than_the_trainers_are_an_error(place, tmp_path):
    from ultralytics import YOLO

    trainer = ab.integrations.ultralytics.trainer
    model, arguments = place.start("yolov8n", "boosted")
    model.save(tmp_path / "boosted.pt")
    has = "has gates 'ab' with init='identity' already, and the trainer was made for"
    with pytest.raises(ValueError, match=rf"^the network {has} 'se' with init='paper'.*ab.unboost"):
        model.train(**arguments, trainer=trainer("se", init="paper"))
    with pytest.raises(
        ValueError, match=rf"^the network {has} 'gmp \| dense \| sigmoid'.*ab.unboost"
    ):
        model.train(**arguments, trainer=trainer("gmp | dense | sigmoid", init="paper"))
    file = re.escape(str(tmp_path / "boosted.pt"))
    arguments["pretrained"] = tmp_path / "boosted.pt"
    for name in ("yolov8n.yaml", place.checkpoint("yolov8n")):
        with pytest.raises(ValueError, match=rf"of pretrained='{file}' {has} 'se'") as refused:
            YOLO(name).train(**arguments, trainer=trainer("se"))
        assert "leave trainer= out" in str(refused.value)
        assert "unboost" not in str(refused.value)


def test_arguments_of_the_trainer(place):
    from ultralytics import YOLO

    trainer = ab.integrations.ultralytics.trainer
    with pytest.raises(ValueError, match="init='zero' must be"):
        trainer("ab", init="zero")
    with pytest.raises(ValueError, match=r"makes the trainer; call it: .*trainer\(\"ab\"\)"):
        YOLO(place.checkpoint("yolov8n")).train(**place.arguments("yolov8n"), trainer=trainer)
    with pytest.raises(TypeError, match="unexpected keyword argument 'blocks'"):
        trainer(blocks="ab")
    for base in ("DetectionTrainer", YOLO):
        with pytest.raises(ValueError, match=r"base=.* must be a class of trainers"):
            trainer("ab", base=base)


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


@pytest.mark.parametrize(("freeze", "frozen"), [(None, 0), (4, 1), ([2, 4, 6], 5)])
@pytest.mark.parametrize("way", ["trainer", "boosted", "both"])
def test_the_log_counts_the_gates_and_the_frozen_ones(place, way, freeze, frozen, monkeypatch):
    from ultralytics import utils

    lines = []
    monkeypatch.setattr(utils.LOGGER, "info", lambda text: lines.append(("info", text)))
    monkeypatch.setattr(utils.LOGGER, "warning", lambda text: lines.append(("warning", text)))
    model, arguments = place.start("yolov8n", way, freeze=freeze)
    if way == "both":
        ab.boost(model.model, "ab", init="identity")
        arguments["trainer"] = ab.integrations.ultralytics.trainer("ab")
    with runs.stopped_at(model, "on_train_start"):
        model.train(**arguments)
    ours = [line for line in lines if "accuracy_booster: " in line[1]]
    counted = [line for line in ours if "were put on" not in line[1]]
    assert counted[0] == ("info", "accuracy_booster: 6 gates (ab), 1,008 parameters")
    assert len(counted) == 1 + bool(frozen)
    if frozen:
        level, text = counted[1]
        assert level == "warning"
        assert f"{frozen} of 6 gates are frozen by freeze={freeze} and stay" in text


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


@pytest.mark.parametrize(("which", "kind"), [("end to end", "onnx"), ("classify", "torchscript")])
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

    model, arguments = place.start("yolov8n", "trainer", name="interrupted")
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
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.patches import torch_load
from support import ultralytics_runs as runs
command, pickled, *files = sys.argv[1:]
assert "accuracy_booster" not in sys.modules
entrypoint(command)
networks = {file: YOLO(file).model for file in files}
torch.save({file: runs.output(network) for file, network in networks.items()}, "outputs.pth")
import accuracy_booster as ab
counts = [len(ab.surgery.attached(network)) for network in networks.values()]
# what ultralytics' script for one of several processes does
state = torch_load(pickled, map_location="cpu")
options = {"cfg": {**DEFAULT_CFG_DICT, "save_dir": ""}, "_callbacks": state["callbacks"]}
trainer = state["trainer"](overrides=state["args"], **options)
sites = list(ab.surgery.attached(trainer.get_model(cfg="yolov8n.yaml", verbose=False)))
given = len(ab.surgery.attached(state["model"]))
print(json.dumps([counts, type(trainer).__name__, sites, given]))
"""


def pickled_for_several_gpus(place) -> str:
    """The file that ultralytics writes for the processes of several GPUs."""
    from ultralytics import YOLO
    from ultralytics.utils.dist import generate_ddp_file

    chosen = re.compile(r"^model\.[26]\.m\.0\.cv2\.bn$")  # an option that is no text
    trainer = ab.integrations.ultralytics.trainer("ab", where=chosen)
    model = YOLO(place.checkpoint("yolov8n"))
    with runs.stopped_at(model, "on_train_start") as seen:
        model.train(**place.arguments("yolov8n", trainer=trainer))
    seen["trainer"].callbacks["on_train_start"].clear()
    return re.sub(r"\.py$", ".pt", generate_ddp_file(seen["trainer"]))


def test_new_processes_that_import_nothing_of_ours(place, tmp_path):
    """`yolo train model=boosted.pt`, loading what trainings wrote, and training on several GPUs."""
    pytest.importorskip("cloudpickle")
    from ultralytics import YOLO

    model = YOLO(place.checkpoint("yolov8n"))
    ab.boost(model.model, "ab", init="identity")
    model.save(tmp_path / "boosted.pt")
    arguments = place.arguments("yolov8n", name="command", epochs=1, model=tmp_path / "boosted.pt")
    words = " ".join(f"{key}={value}" for key, value in arguments.items())
    files = [str(place.folder / "command" / "weights" / f"{n}.pt") for n in ("last", "best")]
    files += [str(place.run(which).trainer.best) for which in TRAINED]
    pickled = pickled_for_several_gpus(place)
    printed = runs.in_new_process(NEW_PROCESS, tmp_path, f"train {words}", pickled, *files)
    counts, trainer, sites, given = json.loads(printed.splitlines()[-1])
    assert counts == [6, 6, *(COUNT[name] for name, _ in TRAINED.values())]
    outputs = torch.load(tmp_path / "outputs.pth")
    for file in files:
        assert torch.equal(outputs[file], runs.output(YOLO(file).model)), file
    assert trainer == "BoostedDetectionTrainer"
    assert sites == ["model.2.m.0.cv2.bn", "model.6.m.0.cv2.bn"]
    assert given == 2
