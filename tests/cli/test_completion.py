"""Completion by the shell: the program is asked as argcomplete's script in the shell asks it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import accuracy_booster as ab
from accuracy_booster.cli import COMMANDS
from accuracy_booster.cli.names import BLOCKS, NETWORKS

pytest.importorskip("argcomplete", reason="the extra completion is not installed")


def completed(line, tmp_path, *, prelude=""):
    """The words that the shell would offer at the end of a line."""
    answer = tmp_path / "answer"
    code = f"import sys; {prelude}from accuracy_booster.start import main; sys.exit(main())"
    environment = {
        **os.environ,
        **{"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)},
        **{"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"},
        **{"_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:", "COMP_TYPE": "9"},
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in answer.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("accuracy-booster ", {name.split()[0] for name in COMMANDS} | {"help", "version"}),
        ("accuracy-booster tra", {"train"}),
        ("accuracy-booster detect ", {"train", "eval", "predict"}),
        ("accuracy-booster train --epo", {"--epochs"}),
        ("accuracy-booster detect train --anch", {"--anchor_sizes"}),
        ("accuracy-booster train resnet1", {"resnet14", "resnet110", "resnet18"}),
        ("accuracy-booster train --model wrn", {"wrn16_4", "wrn22_10"}),
        ("accuracy-booster train resnet20 --block ab_", {"ab_plus", "ab_nobn"}),
        ("accuracy-booster compare --preset dig", {"digits"}),
        ("accuracy-booster train resnet20 --data cif", {"cifar10", "cifar100"}),
    ],
)
def test_words_are_completed(line, some, tmp_path):
    offered = completed(line, tmp_path)
    assert some <= set(offered)
    assert all(word.startswith(line.split(" ")[-1]) for word in offered)


def test_files_are_offered_for_a_run(tmp_path):
    (tmp_path / "my_run").mkdir()
    assert completed("accuracy-booster eval my", tmp_path) == ["my_run/"]


def test_completion_imports_no_torch(tmp_path):
    stop = "sys.modules['torch'] = sys.modules['timm'] = None; "  # an import of them fails
    assert "--epochs" in completed("accuracy-booster train --e", tmp_path, prelude=stop)


def test_the_names_are_those_of_the_tables():
    assert list(NETWORKS) == ab.list_models()
    assert list(BLOCKS) == ["none", *ab.list_recipes()]
