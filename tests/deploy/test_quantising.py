"""int8 files of a network trained on the digits, in onnxruntime and in OpenVINO."""

# N images, C channels, H W space

import sys
from dataclasses import replace

import numpy as np
import pytest
from support.datasets import one_line
from support.quantised_files import about_of, opened, write_float

import accuracy_booster as ab
from accuracy_booster.deploy import quantising
from accuracy_booster.deploy.file_accuracy import calibration_batches
from accuracy_booster.deploy.quantising import check_int8, quantise
from accuracy_booster.exported import FORMATS, open_file

SUFFIXES = (".onnx", ".xml")


@pytest.fixture(scope="module", params=["none", "ab", "se"])
def trained(request, tmp_path_factory):
    """A run on the digits: its network is right, and its gates are not the identity."""
    run = tmp_path_factory.mktemp("run") / request.param
    given = {"model": "resnet8", "block": request.param, "data": "digits", "epochs": 3}
    ab.train(**given, batch_size=64, device="cpu", compile="off", fuse="off", output=str(run))
    return run


@pytest.fixture(scope="module", params=SUFFIXES)
def files(request, trained, tmp_path_factory):
    """The float32 and the int8 file of a run."""
    network = ab.load_run(trained)
    folder = tmp_path_factory.mktemp("files")
    path = write_float(network, folder / f"float{request.param}", about_of(network, trained.name))
    batches = calibration_batches(open_file(path), opened(trained, "train"), 100)
    return path, quantise(path, batches).save(folder / f"int8{request.param}")


def test_int8_gives_nearly_the_same_and_not_the_same(files, images):
    float32, int8 = (open_file(path, threads=1) for path in files)
    wanted, found = float32(images), int8(images)
    assert found.dtype == np.float32
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < 0.2
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95


@pytest.fixture(scope="module")
def images(trained):
    """Test digits, normalised, float32 [N, 1, 8, 8]."""
    loaded = opened(trained, "test")
    pixels = loaded.loader.dataset.images.images.float() / 255
    return ((pixels - loaded.data.mean[0]) / loaded.data.std[0]).numpy()


def test_any_number_of_images(files, images):
    int8 = open_file(files[1], threads=1)
    whole = int8(images[:7])
    assert whole.shape == (7, 10)
    np.testing.assert_allclose(int8(images[:1]), whole[:1], atol=1e-4)


def test_the_texts_survive_and_tell_the_precision(files):
    before, after = (open_file(path).about for path in files)
    metrics = {**before.metrics, "precision": "int8"}
    assert before.metrics == {"test_top1": 12.5}
    assert after == replace(before, metrics=metrics)


def test_the_weights_take_a_quarter_or_little_more(files):
    if files[0].suffix == ".onnx":  # beside the graph, which takes more
        sizes = [_bytes_of_weights(path) for path in files]
    else:
        sizes = [path.with_suffix(".bin").stat().st_size for path in files]
    assert sizes[1] < 0.4 * sizes[0]


def _bytes_of_weights(path):
    import onnx

    return sum(len(value.raw_data) for value in onnx.load(path).graph.initializer)


def test_nothing_is_printed(trained, tmp_path, capfd):
    network = ab.load_run(trained)
    for suffix in SUFFIXES:
        path = write_float(network, tmp_path / f"float{suffix}", about_of(network))
        batches = list(calibration_batches(open_file(path), opened(trained, "train"), 32))
        capfd.readouterr()
        quantise(path, batches).save(tmp_path / f"int8{suffix}")
        assert capfd.readouterr() == ("", "")
