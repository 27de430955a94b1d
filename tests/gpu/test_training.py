"""The trainer and its commands on a GPU: every precision, compiled, killed and resumed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import accuracy_booster as ab

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
]
TRAIN = "train --model resnet20 --block ab --data digits --device cuda --epochs 4"


def command(words, *more):
    return [sys.executable, "-m", "accuracy_booster", *words.split(), *map(str, more)]


def run(words, *more):
    done = subprocess.run(command(words, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights_of(path):
    return json.loads((path / "run.json").read_text())["ended"]["sha256"]


@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_digits_are_learned_in_every_precision(precision, compile, tmp_path):
    given = {"data": "digits", "device": "cuda", "epochs": 6, "batch_size": 64, "seed": 0}
    result = ab.train(
        "resnet8",
        block="ab",
        precision=precision,
        compile=compile,
        output=tmp_path / "run",
        **given,
    )
    assert result.test.top1 > 85
    assert all(math.isfinite(row["train_loss"]) for row in result.history)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["decided"] == {"compile": compile == "on", "fuse": compile == "on"}
    assert ab.evaluate(tmp_path / "run").top1 == result.test.top1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_killed_and_resumed_it_ends_with_the_same_weights(precision, tmp_path):
    """Two whole runs, and one that is killed at a checkpoint within an epoch."""
    options = f"{TRAIN} --fuse on --precision {precision} --checkpoint_minutes 0 --output"
    whole, again, broken = (tmp_path / name for name in ("whole", "again", "broken"))
    processes = [
        subprocess.Popen(command(options, path), stdout=subprocess.DEVNULL)
        for path in (whole, again, broken)
    ]
    end = time.monotonic() + 200
    while not list(broken.glob("checkpoints/epoch0002-*.safetensors")):
        assert time.monotonic() < end
        assert processes[2].poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    processes[2].send_signal(signal.SIGKILL)
    assert [process.wait(timeout=200) for process in processes] == [0, 0, -signal.SIGKILL]
    assert not (broken / "model.safetensors").exists()
    out = run(f"train --resume {broken}")
    assert "not be bit for bit" not in out
    assert weights_of(broken) == weights_of(whole)
    assert weights_of(again) == weights_of(whole)


def test_commands_on_a_gpu(tmp_path):
    path = tmp_path / "run"
    run("train --model resnet8 --block ab --data digits --epochs 2 --precision bf16 --output", path)
    top1 = json.loads((path / "run.json").read_text())["test"]["top1"]
    found = json.loads(run(f"eval {path} --json"))
    assert abs(found["top1"] - top1) < 1e-9
    folded = json.loads(run(f"eval {path} --fold --json"))
    assert abs(folded["top1"] - top1) < 1.0
    assert "gates.html" in run(f"inspect {path}")
    bench = "bench resnet8 --blocks se,ab --batch-sizes 1,4 --compile both --rounds 3 --json"
    for precision in ("fp32", "bf16", "fp16"):
        rows = json.loads(run(f"{bench} --input_size 3,16,16 --precision {precision}"))["rows"]
        assert {(r["mode"], r["compile"]) for r in rows} == {
            (mode, compile) for mode in ("infer", "train") for compile in (False, True)
        }
        assert all(r["memory"] > 0 for r in rows if not r["compile"])


def test_one_process_of_torchrun(tmp_path):
    path = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    words = (
        "-m accuracy_booster train --model resnet8 --block ab --data digits --epochs 2 --sync_bn"
    )
    done = subprocess.run(
        [*torchrun, *words.split(), "--precision", "bf16", "--output", str(path)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (path / "model.safetensors").is_file()
