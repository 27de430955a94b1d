"""metrics.csv: a damaged one is told and written anew."""

from __future__ import annotations

import pytest

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "content", [b"", b"epoch\n1\nx\n", b'epoch,a\n"1\n', b"epoch,a\n7,1\n", b"\xff", b"a,b\n1\n"]
)
def test_damaged_metrics_are_told_and_made_again(content, two_runs, run, capsys):
    whole = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(content)
    assert ab.evaluate(run, device="cpu").images == 360  # which needs the weights alone
    assert ab.train(resume=run).history
    assert "metrics.csv is damaged" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == whole
