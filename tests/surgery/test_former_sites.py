"""Runs whose gates stand elsewhere than a network would get them today still load."""

import torch
from safetensors.torch import save_file

from accuracy_booster.surgery import attached
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import TrainConfig


def test_a_run_with_gates_after_the_activation_is_measured_as_it_was(tmp_path):
    config = TrainConfig("torchvision/shufflenet_v2_x0_5", block="ab", init="paper").change(
        {"num_classes": 3, "in_chans": 3, "image_size": (32, 32), "channels_last": False}
    )
    today = list(attached(build_network(config)))
    # the last ReLU of a branch, which follows its norm: where 0.1 put the gate
    former = [f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}" for name in today]
    network = build_network(config, where=former).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_network(Run(tmp_path), config).eval()
    assert list(attached(loaded)) == former
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), network(x))
