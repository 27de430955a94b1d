"""Data sets of timm's: by name, streams, and missing labels."""

# N batch, C channels, H W space

from __future__ import annotations


def test_labels_of_timms_readers_may_be_missing():
    from types import SimpleNamespace

    from accuracy_booster.data.timm_sources import labels_of

    assert labels_of(SimpleNamespace(targets=None, labels=[None, 1])) == [-1, 1]
    rows = SimpleNamespace(label_key="y", dataset={"y": [None, None]})
    assert labels_of(rows) == [-1, -1]
