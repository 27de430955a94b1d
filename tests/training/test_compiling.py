"""Whether a run's steps are compiled is decided once, and kept."""

from __future__ import annotations

import json
import signal

import torch
from support.interruptions import (
    in_the_step,
)
from support.processes import forks, in_child, wait
from support.trainings import (
    assert_equal_ends,
    run_or_resume,
)


@forks
def test_a_compiled_run_keeps_to_it_and_goes_on_to_the_same_end(data, tmp_path):
    given = {"compile": "on", "block": "none", "accumulate": 1, "mixup": 0.0, "cutmix": 0.0}

    def work(run, plant=lambda: None):
        def inside():
            real = torch.compile

            def compile(network, **options):
                print("compiled", flush=True)
                return real(network, backend="aot_eager", **options)

            torch.compile = compile
            plant()
            run_or_resume(data, run, **given)

        return wait(in_child(inside, tmp_path / "log"))

    assert work(tmp_path / "whole") == 0, (tmp_path / "log").read_text()
    run = tmp_path / "run"
    assert work(run, lambda: in_the_step(6)) == -signal.SIGKILL
    info = json.loads((run / "run.json").read_text())
    assert info["decided"] == {"compile": True, "fuse": True}
    text = (run / "config.yaml").read_text()
    assert "compile: 'on'" in text
    (run / "config.yaml").write_text(text.replace("compile: 'on'", "compile: 'off'"))
    assert work(run) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("compiled\n") == 3  # what was decided holds
    assert json.loads((run / "run.json").read_text())["decided"] == {"compile": True, "fuse": True}
    assert_equal_ends(tmp_path / "whole", run)


@forks
def test_the_decision_not_to_compile_is_kept(data, reference):
    info = json.loads((reference() / "run.json").read_text())
    assert info["decided"] == {"compile": False, "fuse": False}
