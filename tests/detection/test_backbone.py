"""The network that a detector stands on, and how its gates start."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.detector_models import QUIET, SMALL
from torch import nn

import accuracy_booster as ab
from accuracy_booster.detection import faster_rcnn
from accuracy_booster.surgery import attached

pytestmark = QUIET


def test_a_finished_training_is_a_backbone_with_its_own_block(make_folder, tmp_path):
    folder = make_folder({f"{split}/{c}": 4 for split in ("train", "val") for c in "ab"})
    run = tmp_path / "run"
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": "off", "output": str(run)}
    ab.train("resnet8", block="ab", data=str(folder), **options)
    for where in (run, str(run)):
        model = faster_rcnn(where, block="ab", **SMALL)
        assert len(attached(model)) == 3
        assert model.norms == "frozen"
    weights = load_file(run / "model.safetensors")
    state = model.backbone.body.state_dict()
    assert set(weights) - set(state) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    assert model.transform.image_mean != [0.485, 0.456, 0.406]
    for more in ({"block": "se"}, {"block": "none"}, {"pretrained": True}):
        with pytest.raises(ValueError, match=r"trained with block|has the weights"):
            faster_rcnn(run, **SMALL, **more)
    with pytest.raises(ValueError, match="holds no run"):
        faster_rcnn(tmp_path, **SMALL)


@pytest.mark.parametrize(("trained", "start"), [(True, "identity"), (False, "paper")])
def test_new_gates_change_nothing_on_trained_weights(trained, start):
    torch.manual_seed(0)
    network = ab.create_model("resnet8", num_classes=10)
    if trained:  # what an untrained network does not have
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
    plain = faster_rcnn(network, **SMALL).eval()
    boosted = faster_rcnn(network, block="ab", **SMALL).eval()
    image = torch.rand(1, 3, 64, 64)
    same = [
        torch.equal(a, b)
        for a, b in zip(
            plain.backbone.body(image).values(), boosted.backbone.body(image).values(), strict=True
        )
    ]
    assert all(same) == (start == "identity")
