"""A frozen base network: the gates are trained, and a new head."""

import pytest
import torch
from safetensors.torch import load_file
from support.trainings import SIZE_32

import accuracy_booster as ab
from accuracy_booster.training import resolve
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.network_building import build_network

FROZEN = [
    ("timm/resnetv2_50x1_bit", ["head.fc.bias", "head.fc.weight"]),
    ("torchvision/resnet18", ["fc.bias", "fc.weight"]),
    ("resnet8", ["fc.bias", "fc.weight"]),
]


@pytest.mark.parametrize(("name", "expected"), FROZEN)
@pytest.mark.parametrize("keeps", [False, True])
def test_freeze_base_trains_the_gates_and_a_new_head(name, expected, keeps):
    with torch.device("meta"):
        network = ab.create_model(name, num_classes=3)
    ab.boost(network, "ab", example=torch.zeros(1, 3, 64, 64, device="meta"))
    config = resolve(name, data="cifar10", freeze="base")
    freeze(network, config, keeps_head=keeps)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert sorted(n for n in trained if ".recalibrate." not in n) == ([] if keeps else expected)
    gates = {n for n, _ in network.named_parameters() if ".recalibrate." in n}
    assert gates
    assert gates <= trained


def test_a_frozen_network_with_a_convolution_for_a_head_trains(folder, tmp_path):
    options = {**SIZE_32, "data": str(folder), "freeze": "base", "output": str(tmp_path / "run")}
    result = ab.train("timm/resnetv2_18", **options)
    torch.manual_seed(0)
    fresh = build_network(result.config).state_dict()
    final = load_file(tmp_path / "run" / "model.safetensors")
    changed = {n for n in final if not torch.equal(final[n], fresh[n])}
    assert {n for n in changed if ".recalibrate." not in n} == {"head.fc.weight", "head.fc.bias"}
