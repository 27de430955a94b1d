"""The tests of int8 pass, in a process of their own."""

import re
from pathlib import Path

from support.own_process import run_tests

NAMES = ("making", "int8", "quantising")


def test_int8_in_a_process_of_its_own():
    files = [Path(__file__).with_name(f"test_{name}.py") for name in NAMES]
    output = run_tests(*files)
    passed = re.search(r"(\d+) passed", output)
    assert passed, output[-3000:]
    assert int(passed[1]) >= 35
    assert not re.search(r"\d+ (failed|error|skipped)", output), output[-3000:]
