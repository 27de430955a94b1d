"""The sentences that sum up an inspection."""

from __future__ import annotations

from dataclasses import replace

from support.inspections import make_inspection

from accuracy_booster.inspection.network_colours import measures
from accuracy_booster.inspection.results import Outcome
from accuracy_booster.inspection.sentences import summary


def test_summary_tells_when_the_network_folds():
    folds = make_inspection(folds=True)
    assert folds.folds_away
    assert any("folds into the plain one" in text for text in summary(folds))
    better = replace(folds, all_frozen=Outcome(68, 0.7, 0.2, 1.2))
    assert better.folds_away
    few_images = replace(folds, all_frozen=Outcome(68, -0.2, -1.4, 1.0))
    assert not few_images.folds_away  # the interval holds 0, and a loss of over half a point
    assert any("cannot tell whether the network folds" in text for text in summary(few_images))
    worse = replace(folds, all_frozen=Outcome(68, -2.0, -2.5, -1.5))
    assert any("does not fold into the plain one" in text for text in summary(worse))
    none = replace(folds, frozen={})
    assert any("No gate alone was frozen" in text for text in summary(none))
    assert measures(none)[0].key == "spread"
