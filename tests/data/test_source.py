"""A split's labels must be class numbers."""

from __future__ import annotations

from support.datasets import (
    one_line,
)

from accuracy_booster.data import load_data


def test_numbers_far_apart_are_no_classes(make_parquet, encoded):
    """A head of a million outputs for four images; with 2**40 the process would be killed."""
    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 2, 1_000_000]}})
    with one_line("label"):
        load_data(str(root), splits=("test",))
