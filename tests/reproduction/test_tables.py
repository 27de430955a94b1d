"""Tables are found by their names."""

from __future__ import annotations

import pytest

from accuracy_booster.reproduction import find_tables


def test_tables_are_found_by_name_once_each():
    assert [table.name for table in find_tables(["Table 6", "small", "6"])] == ["6", "small"]
    with pytest.raises(ValueError, match=r"unknown table 'finetun'; nearest: finetune"):
        find_tables(["finetun"])
