"""The steps of an export that `ab.export` adds to a plain file: int8, and our kernel."""

from __future__ import annotations

import pytest
from support.own_process import only_in_own_process

import accuracy_booster as ab
from accuracy_booster.deploy.int8 import Int8
from accuracy_booster.deploy.making import FLOAT32
from accuracy_booster.deploy.timing import FILE
from accuracy_booster.exported import open_file

pytestmark = [pytest.mark.filterwarnings("ignore"), only_in_own_process]
INT8 = {"precision": "int8", "calibration": 64, "max_drop": 20.0}


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_int8_is_measured_beside_float32(trained, tmp_path, suffix):
    file = tmp_path / f"net{suffix}"
    exported = ab.export(trained, file, **INT8, batch_sizes=(2,), seconds=0.05)
    assert exported.int8.float32.top1 == pytest.approx(ab.evaluate(trained).top1)
    assert exported.int8.int8.images == 360
    assert exported.to_dict()["int8"]["differing"] == exported.int8.differing
    (row,) = exported.latency
    assert row.times.keys() == {FILE, FLOAT32}
    about = open_file(file).about
    assert about == exported.about
    assert about.metrics["precision"] == "int8"
    assert about.metrics["quantisation"]["calibration_images"] == 64
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["net"] * len(exported.files)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_int8_of_a_fixed_batch(trained, tmp_path, suffix):
    exported = ab.export(trained, tmp_path / f"n{suffix}", **INT8, batch=3, batch_sizes=None)
    assert exported.about.batch == 3
    assert exported.parity.images == 66, "64 images, in whole batches"
    assert exported.int8.int8.images == 360


def test_int8_that_loses_too_much_leaves_no_file(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Int8, "drop", property(lambda self: 20.5))
    with pytest.raises(ValueError, match=r"int8 loses 20\.50 .* max_drop=20 allows no more"):
        ab.export(trained, tmp_path / "net.onnx", **INT8, batch_sizes=None)
    assert not list(tmp_path.iterdir())


def test_int8_of_a_module_takes_data(trained, tmp_path):
    model = ab.load_run(trained)
    exported = ab.export(model, tmp_path / "n.onnx", **INT8, data="digits", batch_sizes=None)
    assert exported.int8.images == "test images of digits"
    with pytest.raises(ValueError, match="which data"):
        ab.export(model, tmp_path / "m.onnx", **INT8, batch_sizes=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; nearest: int8"),
        ({"precision": "int8", "format": "torch"}, "is for the formats onnx and openvino"),
        ({"precision": "int8", "max_drop": -1}, "max_drop=-1 must be percentage points"),
    ],
)
def test_wrong_options(trained, options, message):
    with pytest.raises(ValueError, match=message):
        ab.export(trained, batch_sizes=None, **options)
