"""Options of Slurm jobs, from text."""

from __future__ import annotations

import sys

import pytest
from support.runs import places, specs
from support.slurm_runs import LONG

from accuracy_booster.reproduction.slurm_options import parse_options
from accuracy_booster.reproduction.slurm_queue import submit

pytest.importorskip("submitit")


def test_options_are_sbatchs():
    assert parse_options("") == {}
    assert parse_options("partition=gpu, gres=gpu:1,time=120,mem_gb=16,exclusive=true") == {
        **{"partition": "gpu", "gres": "gpu:1", "time": 120, "mem": "16GB", "exclusive": True}
    }
    assert parse_options("nodelist=n1,n2,mail-type=END,FAIL") == {
        **{"nodelist": "n1,n2", "mail_type": "END,FAIL"}
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partitoin=gpu", "unknown Slurm option 'partitoin'; nearest: partition"),
        ("nodes=2", "unknown Slurm option 'nodes'"),
        ("gpu", "Slurm option 'gpu' has no value; write NAME=VALUE, such as partition=gpu"),
        ("time=1:00:00", "Slurm option time='1:00:00' must be a whole number of minutes"),
        ("time=0", "time=0 must be a whole number of minutes from 1, such as time=120"),
        ("signal-delay-s=x", "signal_delay_s='x' must be a whole number of seconds"),
        ("qos=a,qos=b", "Slurm option 'qos' is given twice; give it once"),
    ],
)
def test_wrong_options_are_told_in_one_line(text, says):
    with pytest.raises(ValueError) as error:
        parse_options(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for call in (
        lambda: parse_options("time=1"),
        lambda: submit(specs(LONG), places(tmp_path), options={}),
    ):
        with pytest.raises(ValueError, match=r"pip install 'accuracy-booster\[cluster\]'"):
            call()
