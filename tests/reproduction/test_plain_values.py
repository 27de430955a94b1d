"""The numbers of the report as plain values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.results import CONFIRMED, SMALL, interval_of, put_small

from accuracy_booster.reproduction import read_records
from accuracy_booster.reproduction.report import write_report


def test_every_number_is_in_the_plain_values(tmp_path):
    put_small(tmp_path / "results")
    report = write_report(read_records(tmp_path / "results"), tmp_path / "page.md")
    value = json.loads(json.dumps(report.to_dict()))
    assert (value["results"], value["intervals"]) == (20, 5)
    assert value["written"] == [str(tmp_path / "page.md"), str(tmp_path / "gain.svg")]
    small = value["tables"][0]
    (ab,) = [row for row in small["rows"] if row["label"] == "AB"]
    assert ab["by_seed"] == {str(seed): top1 for seed, top1 in enumerate(SMALL["AB"])}
    against = ab["differences"][1]
    gains = np.array(SMALL["AB"]) - np.array(SMALL["SE"])
    assert (against["reference"], against["printed"]) == ("SE", 0.4)
    assert against["interval"] == pytest.approx(interval_of(gains))
    assert against["spread"] == pytest.approx(np.std(gains, ddof=1))
    assert against["verdict"] == CONFIRMED
    assert against["holds_printed"] is False
