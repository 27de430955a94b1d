"""Which stages, norms and gates are frozen, and that they stay as they were."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from support.detector_models import (
    QUIET,
    SMALL,
    TINY,
    assert_same_boxes,
    gates_of,
    images,
    learn,
    spread_statistics,
    tiny,
    trainable,
)
from support.detectors import PYRAMID, options
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

import accuracy_booster as ab
from accuracy_booster import detection
from accuracy_booster.detection import estimate_gate_norms, faster_rcnn

pytestmark = QUIET


def test_frozen_norms_are_torchvisions_frozen_batch_norms():
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    reference = FasterRCNN(_resnet_fpn_extractor(spread_statistics(network), 3), **SMALL)
    model = faster_rcnn("torchvision/resnet18", norms="frozen", trainable_layers=3, **SMALL)
    model.load_state_dict(reference.state_dict())
    assert trainable(model) == trainable(reference)
    x = torch.rand(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            found, known = model.train(mode).backbone(x), reference.train(mode).backbone(x)
        for key, value in known.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_same_boxes(model.eval()(images()), reference.eval()(images()), exact=False)


@pytest.mark.parametrize("count", range(6))
def test_layers_are_frozen_as_torchvision_does(count):
    network = torchvision.models.resnet18()
    reference = FasterRCNN(_resnet_fpn_extractor(network, count), **SMALL)
    model = faster_rcnn(network_of_18(), norms="normal", trainable_layers=count, **SMALL)
    assert trainable(model) == trainable(reference)


_made = {}


def network_of_18(block=None):
    if block not in _made:
        _made[block] = ab.create_model("torchvision/resnet18", block=block)
    return _made[block]


@pytest.mark.parametrize("norms", ["frozen", "normal"])
@pytest.mark.parametrize("gates", ["frozen", "trained"])
def test_gates_of_frozen_layers_are_frozen_or_trained_as_asked(gates, norms):
    model = tiny(trainable_layers=2, gates_of_frozen_layers=gates, norms=norms)
    frozen = tuple(f"backbone.body.{n}" for n in ("conv1", "bn1", "layer1", "layer2"))
    state = copy.deepcopy(model.state_dict())
    moved = learn(model)
    assert moved == trainable(model)
    inside = {name for name in model.state_dict() if name.startswith(frozen)}
    assert bool(gates_of(moved & inside)) == (gates == "trained")
    assert moved & inside == gates_of(moved & inside)
    after = model.state_dict()
    changed = {name for name in state if not torch.equal(state[name], after[name])}
    statistics = {n for n in changed if "running_" in n}
    if norms == "frozen":
        assert not statistics
    else:
        assert gates_of(statistics - inside)
        assert (statistics - inside) - gates_of(statistics)
        assert bool(statistics & inside) == (gates == "trained")
        assert statistics & inside == gates_of(statistics & inside)


def test_c4_freezes_the_last_stage_too():
    model = tiny(head="c4", trainable_layers=0, norms="normal")
    state = copy.deepcopy(model.state_dict())
    learn(model)
    own = [n for n in state if n.startswith("backbone.") or ".box_head." in n]
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in own)
    assert all(name.startswith(("rpn.", "roi_heads.box_predictor.")) for name in trainable(model))


def test_gates_that_start_as_the_identity_learn_in_frozen_norms():
    model = tiny(init="identity", norms="frozen", trainable_layers=5)
    estimate_gate_norms(model, [images(8)])
    with torch.no_grad():
        start = model.eval()(images())
        with ab.disabled(model):
            assert_same_boxes(model(images()), start)
    before = {n: p.clone() for n, p in model.named_parameters() if ".recalibrate." in n}
    for _ in range(2):
        learn(model)
        model.zero_grad()
    after = dict(model.named_parameters())
    assert before
    assert all(not torch.equal(after[n], p) for n, p in before.items())


def test_frozen_norms_whose_weight_is_zero_are_warned_of():
    with pytest.warns(UserWarning, match="4 norms .*layer1.0.bn2.* weight zero"):
        faster_rcnn(TINY, norms="frozen", **SMALL)


@pytest.mark.parametrize("gates", ["frozen", "trained"])
def test_frozen_stages_stay_and_their_gates_as_asked(data, classified, tmp_path, gates):
    before = load_file(classified / "model.safetensors")
    result = detection.train(
        **options(
            data,
            tmp_path / "run",
            **{**PYRAMID, "backbone": str(classified)},
            **{"gates_of_frozen_layers": gates, "epochs": 1, "clip_grad": 1.0},
        )
    )
    config = result.config
    assert (config.norms, config.trainable_layers) == ("frozen", 3)
    assert (config.backbone, config.block) == ("timm/test_resnet", "ab")
    after = load_file(tmp_path / "run" / "model.safetensors")
    detector = detection.load(tmp_path / "run")
    parts = {part.name: part for part in detector.parts}
    assert [part.trained for part in parts.values()] == [False, False, True, True, True]
    changed: dict[str, set[bool]] = {}
    for name, part in parts.items():
        for tensor in part.tensors:
            same = torch.equal(after[tensor], before[tensor.removeprefix("backbone.body.")])
            if "running" in tensor or "tracked" in tensor:
                assert same, tensor  # all norms are frozen, those of gates too
            elif "recalibrate" in tensor:
                changed.setdefault(f"{name} gates", set()).add(not same)
            elif part.trained and not same:
                changed.setdefault(name, set()).add(True)
            else:
                assert same or part.trained, tensor
    assert changed.pop("layer1 gates") == {gates == "trained"}
    assert changed.keys() == {f"layer{i}{g}" for i in (2, 3, 4) for g in ("", " gates")}
    assert all(True in found for found in changed.values())
