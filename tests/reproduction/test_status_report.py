"""What `reproduce status` tells of a run under way."""

from __future__ import annotations

from support.detector_runs import TINY_DETECTORS, detector_spec

from accuracy_booster.reproduction.status_report import status
from accuracy_booster.training.lock import locked


def test_status_tells_the_epochs_of_a_detector_under_way(made_detectors):
    with locked(made_detectors.run(detector_spec("AB, AP"))):
        found = status([TINY_DETECTORS], made_detectors)
    assert found.run == detector_spec("AB, AP").name
    assert (found.epoch, found.epochs) == (3, 3)
    assert "epoch 3 of 3 has ended" in found.lines()[1]
