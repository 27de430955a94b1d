"""Data sets of timm's: by name, streams, and missing labels."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
from support.datasets import one_line

from accuracy_booster.data import load_data


def test_labels_of_timms_readers_may_be_missing():
    from types import SimpleNamespace

    from accuracy_booster.data.timm_sources import labels_of

    assert labels_of(SimpleNamespace(targets=None, labels=[None, 1])) == [-1, 1]
    rows = SimpleNamespace(label_key="y", dataset={"y": [None, None]})
    assert labels_of(rows) == [-1, -1]


@pytest.mark.parametrize("name", ["tfds/cifar10", "wds/x", "HFIDS/x"])
def test_streams_are_refused(name):
    with one_line(r"is a stream, whose images have no numbers.*hfds/NAME, torch/NAME"):
        load_data(name)


def test_a_data_set_that_timm_cannot_make_is_told(tmp_path):
    with one_line(r"timm cannot read 'torch/nothing', split train, in .*"):
        load_data("torch/nothing", data_dir=str(tmp_path))
