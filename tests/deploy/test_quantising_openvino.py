"""The tests of int8 pass, in a process of their own."""

import re
from pathlib import Path

import pytest
from support.own_process import run_tests


@pytest.mark.parametrize("name", ["making", "int8", "quantising"])
def test_int8_in_a_process_of_its_own(name):
    output = run_tests(Path(__file__).with_name(f"test_{name}.py"))
    passed = re.search(r"(\d+) passed", output)
    assert passed, output[-3000:]
    assert int(passed[1]) >= 7
    assert not re.search(r"\d+ (failed|error|skipped)", output), output[-3000:]
