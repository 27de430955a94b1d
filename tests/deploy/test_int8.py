"""int8 files are kept if they are nearly as right as the float32 file."""

import pytest
import torch
from support.datasets import one_line
from support.own_process import only_in_own_process
from support.quantised_files import about_of, opened, write_float

import accuracy_booster as ab
from accuracy_booster.deploy.int8 import write_int8
from accuracy_booster.exported import open_file
from accuracy_booster.training.opening_to_measure import open_measured

pytestmark = only_in_own_process


@pytest.fixture(scope="module")
def run(short_run):
    return short_run("ab")


@pytest.fixture(scope="module", params=[".onnx", ".xml"])
def file(request, run, tmp_path_factory):
    network = ab.load_run(run)
    return write_float(
        network, tmp_path_factory.mktemp("file") / f"n{request.param}", about_of(network)
    )


def test_the_file_tells_its_accuracy(run, file, tmp_path):
    path = tmp_path / f"int8{file.suffix}"
    made = write_int8(
        file, path, opened(run, "train"), opened(run, "test"), calibration=64, max_drop=5
    )
    assert made.float32.top1 == ab.evaluate(run).top1
    assert made.int8 == ab.evaluate(path, data="digits")
    assert made.drop == made.float32.top1 - made.int8.top1
    told = open_file(path).about.metrics
    assert told["precision"] == "int8"
    assert told["quantisation"]["int8"]["top1"] == made.int8.top1
    assert told["quantisation"]["calibration_images"] == 64
    assert told["quantisation"]["differing"] == made.differing <= 30
    assert f"float32 {made.float32.top1:.2f} %, int8 {made.int8.top1:.2f} %" in str(made)
    assert "360 test images of digits" in str(made)


def test_a_file_that_loses_more_is_refused_and_not_left(run, file, tmp_path):
    """Maps of black images have small ranges, which cut off those of digits."""
    black = torch.utils.data.TensorDataset(
        torch.zeros(32, 1, 8, 8, dtype=torch.uint8), torch.arange(32) % 10
    )
    train = open_measured(run, {"train": black}, split="train")
    path = tmp_path / f"int8{file.suffix}"
    with one_line(r"int8 loses \d+\.\d\d percentage points.*max_drop=1 allows no more; calibrate"):
        write_int8(file, path, train, opened(run, "test"), calibration=32)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("value", [-1, float("nan"), "much", True])
def test_bad_bounds(run, value, tmp_path):
    with one_line("max_drop=.* must be percentage points"):
        write_int8(tmp_path / "n.onnx", tmp_path / "m.onnx", None, None, max_drop=value)
