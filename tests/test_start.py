"""The start of the program: Ctrl-C before and while it imports, and how soon it answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

import accuracy_booster as ab

TRAIN = ["train", "resnet8", "--data", "digits", "--epochs", "1", "--workers", "0"]


def interrupted(words, seconds, cwd):
    """The exit code and stderr of a command that gets SIGINT so long after the program began.

    The time counts from where Python has started: before that, no program can answer.
    """
    words = [f"sys.argv[1:] = {words!r}", "print('begun', flush=True)", "sys.exit(main())"]
    begun = "; ".join(["import sys", "from accuracy_booster.start import main", *words])
    process = subprocess.Popen(
        [sys.executable, "-c", begun],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5, 1.5])
def test_an_interrupt_while_it_starts_is_one_word(seconds, tmp_path):
    code, err = interrupted(TRAIN, seconds, tmp_path)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert code == 130


def test_the_version_is_told_without_an_import_that_takes_time():
    code = (
        "import sys\n"
        "from accuracy_booster.start import main\n"
        "for word in ('--version', 'version'):\n"
        "    sys.argv[1:] = [word]\n"
        "    assert main() == 0\n"
        "assert not {'jsonargparse', 'torch', 'yaml'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["accuracy-booster", ab.__version__] * 2


def test_an_ignored_interrupt_stays_ignored():
    """A shell starts commands in the background of a script so."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from accuracy_booster.start import main\n"
        "sys.argv[1:] = ['--help']\n"
        "assert main() == 0\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
