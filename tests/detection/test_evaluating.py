"""Measuring a finished run."""

from __future__ import annotations

import warnings

from support.detectors import NO_DEAD_NORMS

from accuracy_booster import detection

# N batch, C channels, H W space


pytestmark = NO_DEAD_NORMS


def test_evaluating_a_run_gives_what_it_reported(trained):
    metrics = detection.evaluate(trained.output, device="cpu")
    assert metrics == trained.test
    assert metrics.ar100 > 0  # else many detectors would give these numbers
    assert metrics.images == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the data have changed
        other = detection.evaluate(trained.output, split="train", device="cpu")
    assert other.images == 9  # the one without boxes is not trained on, and measured neither
