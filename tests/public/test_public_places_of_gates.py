"""A run whose gates are not on residual branches: trained, measured, resumed, inspected, saved."""

from __future__ import annotations

import pytest
import torch
from support.trainings import SIZE_32, SMALL, two_image_folders

import accuracy_booster as ab
from accuracy_booster.surgery import attached
from accuracy_booster.training import TrainConfig
from accuracy_booster.training.initial_weights import decide_start
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run

# no residual branch: its fire modules concatenate
SQUEEZENET = "torchvision/squeezenet1_1"
GATES = ["features.0", *(f"features.{i}.expand3x3" for i in (3, 4, 6, 7, 9))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    images = two_image_folders(folder)
    options = {**SMALL, "image_size": 64, "workers": 0, "compile": "off", "ema": 0.5}
    places = {"where": ("features.0", "/expand3x3$/"), "skip": "features.1[012]"}
    result = ab.train(
        SQUEEZENET, **places, data=str(images), epochs=1, output=str(folder / "run"), **options
    )
    return result


def test_a_network_without_residual_branches_is_trained_measured_and_resumed(run):
    assert run.config.where == "features.0,/expand3x3$/"
    network = load_network(*Run.open(run.output))
    assert list(attached(network)) == GATES
    assert ab.evaluate(run.output).to_dict() == run.test.to_dict()
    longer = ab.train(resume=run.output, epochs=2)
    assert len(longer.history) == 2
    assert ab.evaluate(run.output).to_dict() == longer.test.to_dict()


def test_its_gates_are_inspected_and_saved(run, tmp_path):
    found = ab.inspect(run.output)
    assert list(found.frozen) == GATES
    network = load_network(*Run.open(run.output)).eval()
    ab.save(network, tmp_path / "saved", full=True)
    base = ab.create_model(SQUEEZENET, num_classes=2)
    x = torch.randn(2, 3, 64, 64)
    loaded = ab.load(base, tmp_path / "saved").eval()
    assert list(attached(loaded)) == GATES
    torch.testing.assert_close(loaded(x), network(x))


def test_the_error_names_what_to_do(tmp_path):
    images = two_image_folders(tmp_path)
    with pytest.raises(ValueError, match=r"SqueezeNet has no residual branch.*--where conv"):
        ab.train(SQUEEZENET, data=str(images), output=str(tmp_path / "run"), **SIZE_32)
    assert not (tmp_path / "run").exists()


def test_gates_in_the_place_of_attention_start_as_in_the_paper_on_trained_weights(tmp_path):
    """They cannot start as the identity: the network's own attention is taken away."""
    name = "timm/test_efficientnet"
    torch.save(ab.create_model(name).state_dict(), tmp_path / "w.pth")
    config = TrainConfig(name, where="attention", weights=str(tmp_path / "w.pth"))
    assert decide_start(config).init == "paper"
    assert decide_start(config.change({"where": "residual"})).init == "identity"
