"""The colours of the page's picture of a network."""

from __future__ import annotations

from support.inspections import make_inspection

from accuracy_booster.inspection.network_colours import measures


def test_colours_tell_losses_from_gains_and_from_nothing():
    lost = measures(make_inspection())[0]
    levels = [level for level, _ in lost.cells.values()]
    #         0.02    0.31 -0.05   0.44  0.12   0.73  1.62  0.94  -0.40, each ± 0.21
    assert levels == ["none", "1", "none", "1", "none", "2", "4", "2", "gain"]
    assert dict(lost.levels)["4"] == "1.5 to 2.0"
    assert {level for level, _ in lost.levels} >= set(levels)


def test_every_measure_has_a_cell_and_a_legend_for_each_gate():
    inspection = make_inspection(scale=2.0)
    keys = [m.key for m in measures(inspection)]
    assert keys == ["frozen", "spread", "explained", "saturated", "mean"]
    for measure in measures(inspection):
        legend = dict(measure.levels)
        assert list(measure.cells) == list(inspection.gates)
        for site, (level, text) in measure.cells.items():
            assert level in legend
            if measure.key == "mean":
                low, high = (float(v) for v in legend[level].split(" to "))
                value = float(inspection.gates[site].mean.mean())
                assert low - 0.005 <= value <= high + 0.005
                assert abs(float(text) - value) < 0.06
