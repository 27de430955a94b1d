"""The timer and the memory meter."""

import time

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.analysis import measuring
from accuracy_booster.analysis.measuring import interleaved_times, latency

CPU = torch.device("cpu")


def test_every_step_runs_once_a_round_and_warm_up_is_not_timed():
    calls, rounds = [], []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved_times(
        steps, CPU, rounds=6, warm_up=2, after_round=lambda: rounds.append(len(calls))
    )
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6, "c": 6}
    assert all(value >= 0 for values in times.values() for value in values)
    each = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(each) == 8
    assert all(sorted(one) == ["a", "b", "c"] for one in each)
    assert len({tuple(one) for one in each}) > 1, "the order never changes"
    assert rounds == [9, 12, 15, 18, 21, 24]


def test_three_rounds_are_timed_however_late_it_is():
    assert len(interleaved_times({"a": list}, CPU, rounds=9, seconds=1e-9)["a"]) == 3
    assert len(interleaved_times({"a": list}, CPU, rounds=2, seconds=1e-9)["a"]) == 2
    assert len(interleaved_times({"a": list}, CPU, rounds=9, seconds=3600)["a"]) == 9


def test_latency_measures_each_model_and_leaves_its_mode():
    models = {name: ab.create_model(name) for name in ("resnet8", "resnet20")}
    modes = []
    models["resnet8"].register_forward_pre_hook(lambda model, _: modes.append(model.training))
    times = latency(models, (3, 16, 16), batch_size=2, rounds=3)
    assert set(times) == set(models)
    assert all(t > 0 for t in times.values())
    assert modes == [False] * 5
    assert all(model.training for model in models.values())


def test_short_calls_are_timed_together(monkeypatch):
    monkeypatch.setattr(measuring, "_wait", lambda device: None)
    cuda, calls = torch.device("cuda"), []

    def step():
        calls.append(0)

    for device in (CPU, cuda):
        calls.clear()
        assert measuring.calls_in_a_row(step, device) == measuring.MOST_CALLS
        assert len(calls) == 3
    assert measuring.seconds_of(lambda: time.sleep(0.01), cuda, 4) == pytest.approx(0.01, abs=8e-3)
    assert measuring.calls_in_a_row(lambda: time.sleep(measuring.LONG_ENOUGH), cuda) == 1


def test_a_time_of_several_calls_is_that_of_one():
    calls = []
    times = interleaved_times({"a": lambda: calls.append(0)}, CPU, rounds=2, calls={"a": 5})
    assert len(calls) == 10
    assert len(times["a"]) == 2
    given = {"rounds": 1, "calls": {"a": 4}}
    (once,) = interleaved_times({"a": lambda: time.sleep(0.01)}, CPU, **given)["a"]
    assert 10 <= once < 30
