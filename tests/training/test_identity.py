"""A run's id, the fingerprint of its settings, and how its machine rounds."""

from __future__ import annotations

import pytest
from support.trainings import (
    train_digits,
)

import accuracy_booster as ab
from accuracy_booster import files

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_has_an_id_and_repeats_to_the_same_bytes(two_runs, tmp_path):
    train_digits(tmp_path / "again")
    first, second = (files.read_json(p / "run.json") for p in (two_runs / "s1", tmp_path / "again"))
    assert first["id"] != second["id"]
    assert first["fingerprint"] == second["fingerprint"]
    assert first["data"] == second["data"]
    weights = "model.safetensors"
    assert (two_runs / "s1" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    third = files.read_json(two_runs / "s2" / "run.json")
    assert third["fingerprint"] != first["fingerprint"]


def test_another_number_of_threads_is_told(run, capsys):
    info = files.read_json(run / "run.json")
    info["numerics"]["threads"] = 64
    files.write_json(run / "run.json", info)
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "will not be bit for bit what it would have been: threads 64 then and" in told


def test_another_gpu_is_told(run, capsys):
    info = files.read_json(run / "run.json")
    info["device"] = "NVIDIA Z1"
    files.write_json(run / "run.json", info)
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "would have been: device NVIDIA Z1 then and" in told
