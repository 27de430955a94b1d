"""The memory meter."""

import torch

from accuracy_booster.training.peak_memory import peak_memory


def test_peak_counts_what_is_alive_together():
    calls = []

    def step():
        calls.append(1)
        a = torch.zeros(1000)
        b = torch.zeros(500)
        del a
        return b, torch.zeros(200)

    assert peak_memory(step, torch.device("cpu"), warm_up=2) == 6000
    assert len(calls) == 3
