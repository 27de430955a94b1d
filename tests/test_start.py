"""The start of the program: Ctrl-C before and while it imports, and how soon it answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# as the script that pip installs
SCRIPT = "import sys; from accuracy_booster.start import main; sys.exit(main())"
TRAIN = ["train", "resnet8", "--data", "digits", "--epochs", "1", "--workers", "0"]


def interrupted(words, seconds, cwd):
    """The exit code and stderr of a command that gets SIGINT so long after the program began.

    The time counts from where Python has started: before that, no program can answer.
    """
    begun = f"import sys; print('begun', flush=True); sys.argv[1:] = {words!r}; {SCRIPT}"
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


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3, 0.8, 1.5])
def test_an_interrupt_while_it_starts_is_one_word(seconds, tmp_path):
    code, err = interrupted(TRAIN, seconds, tmp_path)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert code == 130
