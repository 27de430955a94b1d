"""`accuracy-booster script`: somebody's script runs as under Python, and knows boosted names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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

def norm():
    timm_s = timm.create_model("ab_test_resnet.se").layer1[0].bn2
    return type(timm_s).__name__, "ab_resnet50" in torchvision.models.__dict__

def work(rank, path):
    with open(path, "w") as file:
        file.write(json.dumps(norm()))

if __name__ == "__main__":
    folder = sys.argv[1]
    work(int(os.environ["RANK"]), folder + "/main")
    loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="spawn")
    print([batch.item() for batch in loader])
    torch.multiprocessing.spawn(work, args=(folder + "/spawned",), nprocs=1)
"""
# what follows the words of the script, and the exit code
ENDS = {
    "1 / 0": 1,
    "raise SystemExit(7)": 7,
    "raise SystemExit('these words')": 1,
    "import os; os.kill(os.getpid(), 2)": -signal.SIGINT,
    "def f(): return 1 / 0\nf()": 1,
    "try: 1 / 0\nexcept ZeroDivisionError: print(undefined)": 1,
    "x = (": 1,
    "print(__name__, sys.argv, sys.path[0], __file__, __package__)": 0,
}
COMMAND = "import sys; from accuracy_booster.start import main; sys.exit(main())"
# the same, without the seconds that the libraries take to import
QUICK = f"import accuracy_booster.integrations.scripts as s; s.register_names = list; {COMMAND}"
HERE = Path(ab.__file__).resolve().parents[1]


@pytest.fixture
def script(tmp_path):
    (tmp_path / "own script.py").write_text(SCRIPT)
    return tmp_path / "own script.py"


def started(words, cwd):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )


def test_a_script_gets_all_words_after_its_own(tmp_path):
    main = "import json, sys\nmain = sys.modules['__main__'].__dict__ is globals()\n"
    (tmp_path / "own.py").write_text(f"{main}print(json.dumps([sys.argv, sys.path[0], main]))")
    done = started(["-c", QUICK, "script", "own.py", "--help", "-x", "--json"], tmp_path)
    expected = ["own.py", "--help", "-x", "--json"]
    assert json.loads(done.stdout) == [expected, str(tmp_path), True], done.stderr


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends_as_under_python(end, tmp_path):
    (tmp_path / "own.py").write_text(f"import sys\n{end}\n")
    ours = started(["-c", QUICK, "script", "own.py", "-a"], tmp_path)
    plain = started(["own.py", "-a"], tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (
        plain.returncode,
        plain.stdout,
        plain.stderr,
    )
    assert ours.returncode == ENDS[end]


def test_the_names_under_torchrun_and_in_the_processes_that_the_script_spawns(script, tmp_path):
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    words = [*run, "-m", "accuracy_booster", "script", script, tmp_path]
    done = started(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 1]\n"
    for process in ("main", "spawned"):
        found = json.loads((tmp_path / process).read_text())
        assert found == ["GatedBatchNorm2d", True], process


def test_a_module_and_a_program(tmp_path):
    (tmp_path / "own_module.py").write_text("import sys\nprint(sys.argv[1:], __name__)")
    done = started(["-c", QUICK, "script", "-m", "own_module", "-m", "x"], tmp_path)
    assert done.stdout == "['-m', 'x'] __main__\n", done.stderr
    program = tmp_path / "own-program"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])")
    program.chmod(0o755)
    with_path = f"import os; os.environ['PATH'] = {str(tmp_path)!r}; {QUICK}"
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
