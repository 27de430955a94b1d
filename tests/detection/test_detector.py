"""Faster R-CNN on any network: names, outputs, what `ab` does with it, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from support.detector_models import (
    FEW,
    QUIET,
    SMALL,
    TINY,
    assert_same_boxes,
    gates_of,
    images,
    learn,
    modes,
    spread_statistics,
    tiny,
    trainable,
)
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

import accuracy_booster as ab
from accuracy_booster.detection import faster_rcnn
from accuracy_booster.surgery import attached

pytestmark = QUIET


def test_it_is_torchvisions_detector_name_by_name_and_bit_by_bit():
    reference = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=96
    )
    model = faster_rcnn("torchvision/resnet50", min_size=64, max_size=96)
    state = reference.state_dict()
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)
    with torch.no_grad():
        assert_same_boxes(model.eval()(images()), reference.eval()(images()))


def test_gates_add_names_and_change_no_start():
    torch.manual_seed(3)
    plain = faster_rcnn(TINY, **SMALL)
    torch.manual_seed(3)
    boosted = faster_rcnn(TINY, block="ab", **SMALL)
    state, other = plain.state_dict(), boosted.state_dict()
    assert set(other) - set(state) == gates_of(other)
    assert set(state) <= set(other)
    assert all(torch.equal(state[n], other[n]) for n in state)
    sites = {name.partition(".recalibrate.")[0] for name in gates_of(other)}
    assert sites == set(attached(boosted))
    assert len(sites) == 4
    assert all(name.startswith("backbone.body.layer") for name in sites)


def test_a_module_is_copied_and_stays_a_classifier():
    network = ab.boost(ab.create_model(TINY), "ab").eval()
    x = torch.rand(1, 3, 64, 64)
    before = network(x)
    model = faster_rcnn(network, **SMALL)
    assert torch.equal(network(x), before)
    assert len(attached(model)) == 4
    assert model.backbone.body.fc is None
    assert network.fc is not None


def test_the_default_is_frozen_for_trained_weights():
    fresh = ab.create_model(TINY)
    assert faster_rcnn(fresh, **SMALL).norms == "normal"
    assert trainable(faster_rcnn(fresh, **SMALL)) == set(dict(tiny(block=None).named_parameters()))
    trained = spread_statistics(fresh)
    model = faster_rcnn(trained, **SMALL)
    assert model.norms == "frozen"
    assert [p.trained for p in model.parts] == [False] * 2 + [True] * 3


@pytest.mark.parametrize("head", ["fpn", "c4"])
def test_ab_works_on_the_detector(head, tmp_path):
    model = spread_statistics(tiny(head=head)).eval()
    x = images(1)
    with torch.no_grad():
        known = model(x)
        with ab.disabled(model):
            assert not torch.equal(model(x)[0]["scores"], known[0]["scores"])
        ab.save(model, tmp_path / "gates", full=True)
        fresh = ab.load(tiny(head=head, block=None, norms="frozen"), tmp_path / "gates")
        assert modes(fresh.train()) == {False}  # of the gates that came later too
        assert_same_boxes(fresh.eval()(x), known)
        example = ([torch.rand(3, 64, 64)],)
        for change in (ab.fuse, ab.fold):
            changed = change(copy.deepcopy(model), example=example)
            assert_same_boxes(changed.eval()(x), known, exact=False)
        assert_same_boxes(ab.materialize(model)[0].eval()(x), known)
    held = {id(p) for p in model.parameters()}
    added = ab.added_parameters(model)
    assert len(added) == 12
    assert all(id(p) in held for p in added)
    assert not attached(ab.unboost(model))


def test_a_detector_of_torchvision_is_boosted_as_it_is():
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    detector = FasterRCNN(_resnet_fpn_extractor(network, 3), **FEW)
    names = set(detector.state_dict())
    ab.boost(detector, "ab", init="identity", example=([torch.rand(3, 64, 64)],))
    assert len(attached(detector)) == 8
    assert set(detector.state_dict()) - names == gates_of(detector.state_dict())
    assert len(gates_of(learn(detector))) == 24


class Flat(nn.Module):
    """A network with maps of one size."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet5", {}, "unknown model 'resnet5'; nearest: resnet56"),
        (TINY, {"box_score_tresh": 0.1}, "nearest: box_score_thresh"),
        (TINY, {"num_classes": 1}, "the background counts"),
        (TINY, {"head": "c5"}, "'fpn', 'c4'"),
        (TINY, {"norms": "on"}, "norms='on' must be one of 'auto'"),
        (TINY, {"gates_of_frozen_layers": "no"}, "'frozen', 'trained'"),
        (TINY, {"trainable_layers": 6}, "must be 0"),
        (TINY, {"block": "abb"}, "abb"),
        (TINY, {"block": "design_g"}, "one size"),
        (TINY, {"anchor_sizes": (32,)}, "each of the 5 maps"),
        ("timm/vit_tiny_patch16_224", {}, "vision transformers have one size only"),
        (Flat(), {}, "no two feature maps"),
        (Flat(), {"pretrained": True}, "is for a name"),
        (3, {}, "must be a network's name"),
        ("torchvision/squeezenet1_1", {"block": "ab"}, "where="),
        (ab.create_model("resnet8", in_chans=1), {}, "1 channels"),
        (ab.create_model("resnet8", block="se"), {"block": "ab"}, "has gates of"),
        (nn.DataParallel(Flat()), {}, "model.module"),
    ],
)
def test_what_is_refused(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        faster_rcnn(backbone, **{**SMALL, **options})
