"""The final network of a run is loaded as it was saved, or it is told why not."""

from __future__ import annotations

import pytest
from support.trainings import equal_tensors, flip, weights

from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_loaded_network_has_the_weights_of_the_file(run):
    assert equal_tensors(dict(load_network(*Run.open(run)).state_dict()), weights(run))


def test_damaged_weights_do_not_load(run):
    opened, config = Run.open(run)
    flip(run / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors does not load: .*damaged"):
        load_network(opened, config)


def test_weights_of_another_network_do_not_load(run):
    opened, config = Run.open(run)
    with pytest.raises(
        ValueError, match=r"model\.safetensors does not load: .*layer1\.1"
    ) as caught:
        load_network(opened, config.change({"model": "resnet14"}))
    assert "\n" not in str(caught.value)
