"""The network before its first step: the same for every block, tried, and left as it was."""

import pytest
import torch
from support.trainings import SIZE_32, short

import accuracy_booster as ab
from accuracy_booster.training import classification, resolve, trainer
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.trainer import Trainer


def test_same_start_and_same_images_for_every_block(grey, tmp_path):
    first = {}
    for block in ("none", "ab_plus"):
        config = resolve("resnet8", block=block, data=str(grey), **short(tmp_path))
        data = open_data(config)
        one = trainer.Trainer(classification.Classification(fill_in(config, data), data))
        weights = one.network.conv1.weight.detach().clone()
        images, labels = next(iter(one.loaders["train"]))
        first[block] = (weights, images, labels)
    for a, b in zip(first["none"], first["ab_plus"], strict=True):
        assert torch.equal(a, b)


def test_trying_a_network_leaves_it_as_it_was(folder, tmp_path):
    config = resolve("resnet8", data=str(folder), **SIZE_32)
    data = open_data_of_new_run(config)
    trainer = Trainer(Classification(fill_in(config, data), data))
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    state = torch.get_rng_state()
    trainer.check_network()
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_trying_a_network_leaves_the_warning_of_small_batches_for_training(
    folder, tmp_path, monkeypatch
):
    from accuracy_booster.blocks import gate_norm

    monkeypatch.setattr(gate_norm.small_batch_warning, "given", False)
    options = {**SIZE_32, "data": str(folder), "output": str(tmp_path / "run")}
    with pytest.warns(UserWarning, match="sees 8 values per channel, fewer than 16"):
        ab.train("resnet8", **options)


def test_each_part_of_each_process_has_two_images(folder, monkeypatch):
    config = resolve("resnet8", data=str(folder), **SIZE_32).change({"accumulate": 4})
    data = open_data_of_new_run(config)
    config = fill_in(config, data)
    real = trainer.make_accelerator

    class Two:
        """The accelerator of the first of two processes."""

        def __init__(self, own):
            self.own = own

        process_index, num_processes = 0, 2

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(trainer, "make_accelerator", lambda config: Two(real(config)))
    with pytest.raises(ValueError, match=r"batch_size=8 must be .* 2 processes .*at least 16"):
        trainer.Trainer(Classification(config, data))
