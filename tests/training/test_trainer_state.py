"""Trainings that are killed are resumed to the same end, bit for bit.

Processes are forked, as in benchmarks/faults.py, which does the same at random instants.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.interruptions import (
    after_the_step,
    around_a_rename,
    before_the_result,
    in_evaluation,
    in_half_a_write,
    in_the_loader,
    in_the_step,
)
from support.processes import cannot_fork, in_child, wait
from support.trainings import (
    assert_equal_ends,
    end_state,
    finish,
    kill,
    new_trainer,
    options,
)

import accuracy_booster as ab
from accuracy_booster.training import (
    checkpoint,
)

pytestmark = [pytest.mark.forks, cannot_fork]


@pytest.mark.parametrize(
    ("plant", "setup"),
    [
        (lambda: in_the_step(1), "files"),
        (lambda: in_the_step(3), "files"),
        (lambda: after_the_step(6), "files"),
        (lambda: in_evaluation(2), "files"),
        (lambda: in_evaluation(6), "files"),
        (lambda: in_the_loader(20), "files"),
        (lambda: in_half_a_write(1), "files"),  # the first checkpoint
        (lambda: in_half_a_write(2), "files"),  # the first manifest
        (lambda: in_half_a_write(7), "files"),
        (lambda: around_a_rename(5, before=True), "files"),
        (lambda: around_a_rename(5, before=False), "files"),  # it is there, the manifest old
        (lambda: around_a_rename(6, before=True), "files"),
        (lambda: in_the_step(3), "worker"),
        (lambda: in_the_step(3), "drop"),  # no checkpoint yet
        (lambda: in_the_step(6), "drop"),  # one after the epoch
    ],
    ids=[
        *("first step", "step", "after step", "evaluation", "last evaluation", "loader"),
        *("first checkpoint", "first manifest", "checkpoint", "before rename", "after rename"),
        *("before the manifest's rename", "with a worker", "no checkpoint", "dropout"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(data, reference, tmp_path, plant, setup):
    run = tmp_path / "run"
    kill(data, run, tmp_path, plant, setup)
    assert not (run / "model.safetensors").exists()
    said = finish(data, run, tmp_path, setup)
    assert "going on from" in said
    assert_equal_ends(reference(setup), run)


def test_a_run_that_is_killed_again_and_again(data, reference, tmp_path):
    run = tmp_path / "run"
    plants = [
        *(lambda: in_the_step(2), lambda: in_half_a_write(2), lambda: in_the_loader(3)),
        *(lambda: in_evaluation(1), lambda: around_a_rename(3, before=False)),
    ]
    for plant in plants:
        kill(data, run, tmp_path, plant)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_killed_after_the_last_epoch_before_the_weights(data, reference, tmp_path):
    """All steps are done; only the end of the run is missing."""
    run = tmp_path / "run"

    kill(data, run, tmp_path, before_the_result)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_the_references_are_random_and_repeat(data, reference, tmp_path):
    """The equalities above would also hold for trainings in which nothing is random."""
    finish(data, tmp_path / "run", tmp_path, "drop")
    assert_equal_ends(reference("drop"), tmp_path / "run")
    run_seed = {**options(data, tmp_path / "other"), "seed": 4}
    log = tmp_path / "log"
    assert wait(in_child(lambda: ab.train(**run_seed) and 0, log)) == 0, log.read_text()
    first, second = end_state(reference()), end_state(tmp_path / "other")
    assert not torch.equal(first[0]["network.fc.weight"], second[0]["network.fc.weight"])


def test_a_checkpoint_of_another_network_is_refused(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(3))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("model: resnet8", "model: resnet14"))
    with pytest.raises(ValueError, match="of another network") as caught:
        ab.train(resume=run)
    assert "\n" not in str(caught.value)


def test_the_moving_average_is_what_is_measured_and_kept(data, reference):
    run = reference()
    saved, _ = checkpoint.load(run)
    kept = load_file(run / "model.safetensors")
    assert kept.keys() == {k[8:] for k in saved.tensors if k.startswith("average.")}
    for name, tensor in kept.items():
        assert torch.equal(tensor, saved.tensors[f"average.{name}"])
    assert not torch.equal(kept["fc.weight"], saved.tensors["network.fc.weight"])
    test = json.loads((run / "run.json").read_text())["test"]
    assert ab.evaluate(run).to_dict() == pytest.approx(test)
    assert saved.values["history"][-1]["test_loss"] == test["loss"]


def test_the_moving_average_is_by_hand(tmp_path):
    made = new_trainer(tmp_path, ema=0.7)
    average = {k: v.clone() for k, v in made.network.state_dict().items()}
    for batch in list(made.loaders["train"].batches(0))[:5]:
        made.train_step(batch)
        for name, value in made.network.state_dict().items():
            if value.is_floating_point():
                average[name] = 0.7 * average[name] + 0.3 * value
            else:
                average[name] = value
    for name, value in made.state.kept_network.state_dict().items():
        assert torch.allclose(value, average[name], atol=1e-5), name
