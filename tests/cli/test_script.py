"""`accuracy-booster script`: somebody's script runs as under Python, and knows boosted names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.commands import assert_refused, run

import accuracy_booster as ab

SCRIPT = """
import json, os, sys
import timm, torch, torchvision

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.tensor(index)

def norm(rank=0):
    timm_s = timm.create_model("ab_test_resnet.se").layer1[0].bn2
    return type(timm_s).__name__, "ab_resnet50" in torchvision.models.__dict__

def work(rank, folder):
    with open(os.path.join(folder, f"{rank}"), "w") as file:
        file.write(json.dumps(norm()))

if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "--help":
        me = sys.modules["__main__"].norm is norm
        print(json.dumps([sys.argv, sys.path[0], __file__, norm(), me]))
    if kind == "raise":
        1 / 0
    if kind == "exit":
        sys.exit(7)
    if kind == "words":
        sys.exit("these words")
    if kind == "interrupt":
        os.kill(os.getpid(), 2)
    if kind == "spawn":
        loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="spawn")
        print([batch.item() for batch in loader])
        torch.multiprocessing.spawn(work, args=(sys.argv[2],), nprocs=1)
    if kind == "ranks":
        work(os.environ["RANK"], sys.argv[2])
"""
COMMAND = "import sys; from accuracy_booster.start import main; sys.exit(main())"
HERE = os.path.dirname(os.path.dirname(ab.__file__))


@pytest.fixture
def script(tmp_path):
    (tmp_path / "own script.py").write_text(SCRIPT)
    return tmp_path / "own script.py"


def started(words, cwd):
    environment = {**os.environ, "PYTHONPATH": HERE}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


def test_a_script_gets_its_words_and_knows_the_names(script, tmp_path):
    words = ["-m", "accuracy_booster", "script", "own script.py", "--help", "-x", "--json"]
    done = started(words, tmp_path)
    assert done.returncode == 0, done.stderr
    argv, path, file, (norm, in_torchvision), is_main = eval(
        done.stdout.replace("true", "True")
    )
    assert argv == ["own script.py", "--help", "-x", "--json"]
    assert path == str(tmp_path.resolve())
    assert file == str(script)
    assert norm == "GatedBatchNorm2d"
    assert in_torchvision
    assert is_main


@pytest.mark.parametrize("kind", ["raise", "exit", "words", "interrupt"])
def test_a_script_ends_as_under_python(kind, script, tmp_path):
    ours = started(["-c", COMMAND, "script", script, kind], tmp_path)
    (tmp_path / "plain.py").write_text(SCRIPT.replace("timm, torch, torchvision", "torch"))
    plain = started([tmp_path / "plain.py", kind], tmp_path)
    expected = plain.stderr.replace("plain.py", script.name)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert ours.stderr == expected
    assert ours.returncode in (1, 7, -signal.SIGINT)


def test_a_syntax_error_is_shown_as_under_python(tmp_path):
    (tmp_path / "bad.py").write_text("x = (\n")
    ours = started(["-m", "accuracy_booster", "script", "bad.py"], tmp_path)
    plain = started(["bad.py"], tmp_path)
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)


def test_spawned_processes_and_workers(script, tmp_path):
    done = started(["-m", "accuracy_booster", "script", script, "spawn", tmp_path], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 1]\n"
    assert "GatedBatchNorm2d" in (tmp_path / "0").read_text()


def test_under_torchrun(script, tmp_path):
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*run, "-m", "accuracy_booster", "script", script, "ranks", tmp_path]
    done = started(words, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert "GatedBatchNorm2d" in (tmp_path / f"{rank}").read_text()


def test_a_module_and_a_program(tmp_path):
    (tmp_path / "own_module.py").write_text("import sys, timm\nprint(sys.argv[1:], __name__)")
    done = started(["-m", "accuracy_booster", "script", "-m", "own_module", "-m", "x"], tmp_path)
    assert done.stdout == "['-m', 'x'] __main__\n", done.stderr
    program = tmp_path / "own-program"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])")
    program.chmod(0o755)
    with_path = f"import os; os.environ['PATH'] = {str(tmp_path)!r}; {COMMAND}"
    done = started(["-c", with_path, "script", "own-program", "train"], tmp_path)
    assert done.stdout == "['train']\n", done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["SCRIPT", "is missing"]),
        (["no_such.py"], ["'no_such.py' is neither a file nor a program", "-m MODULE"]),
        (["-m"], ["-m needs a value"]),
        (["--debug", "train.py"], ["'--debug' is no option of script"]),
        (["sh"], ["is no program of Python"]),
    ],
)
def test_what_is_no_script_is_one_line(words, parts, capsys):
    assert_refused(capsys, ["script", *words], parts)


def test_help_is_ours_before_the_script(capsys):
    for words in (["script", "--help"], ["help", "script"]):
        code, out, _ = run(capsys, *words)
        assert code == 0
        assert "SCRIPT [ARGS...]" in out
        assert "--json" not in out
