"""The accuracy of exported files, and the choice of calibration images."""

import numpy as np
import pytest
import torch
from support.datasets import one_line
from support.quantised_files import opened

import accuracy_booster as ab
from accuracy_booster.data.images import TensorImages
from accuracy_booster.deploy.file_accuracy import calibration_batches, differing, measure_file
from accuracy_booster.exported import About
from accuracy_booster.exported.sessions import Session
from accuracy_booster.training.opening_to_measure import open_measured


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "none"
    given = {"model": "resnet8", "block": "none", "data": "digits", "epochs": 1}
    ab.train(**given, batch_size=64, device="cpu", compile="off", fuse="off", output=str(path))
    return path


def session(run, size=(1, 8, 8), change=lambda outputs: outputs):
    """A session that computes with the run's network, after which `change` changes the outputs."""
    network = ab.load_run(run)
    made = network.pretrained_cfg

    def outputs(images):
        with torch.no_grad():
            return change(network(torch.from_numpy(images))).numpy()

    about = About("n", "none", network.classes, size, tuple(made["mean"]), tuple(made["std"]))
    return Session(run / "n.onnx", about, outputs)


def test_a_file_is_measured_as_its_run(run):
    data, own = opened(run, "test"), ab.evaluate(run)
    right = measure_file(session(run), data)
    assert right == own
    # outputs in another order: each image gets another class
    wrong = measure_file(session(run, change=lambda outputs: outputs.roll(1, 1)), data)
    assert differing(right, right) == 0
    assert differing(right, wrong) == 360


def test_images_are_normalised_as_the_file_says(run):
    data = open_measured(run, split="test", mean=(0.9,), std=(0.1,))
    assert measure_file(session(run), data) == ab.evaluate(run)


def test_calibration_images_are_spread_over_the_split_and_the_same_each_time(run):
    data = opened(run, "train")
    images = data.loader.dataset.images
    first, again = (np.concatenate([*calibration_batches(session(run), data, 100)]) for _ in "ab")
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert isinstance(images, TensorImages)
    rows = [int(i * len(images) / 100) for i in range(100)]
    mean, std = data.data.mean[0], data.data.std[0]
    wanted = (images.images[rows].float() / 255 - mean) / std
    np.testing.assert_allclose(first, wanted.numpy(), atol=1e-5)
    assert images.labels[rows].unique().numel() == 10


def test_all_images_where_there_are_no_more(run):
    data = opened(run, "test")
    assert sum(map(len, calibration_batches(session(run), data, 10_000))) == 360


def test_what_does_not_fit(run):
    data = opened(run, "test")
    with one_line("takes images of 1 x 9 x 9, and those of digits are 1 x 8 x 8"):
        measure_file(session(run, size=(1, 9, 9)), data)
    with one_line("takes images of 3 x 8 x 8"):
        next(calibration_batches(session(run, size=(3, 8, 8)), data))
    for count in (0, 2.5, "many"):
        with one_line("calibration=.* must be a number of images"):
            next(calibration_batches(session(run), data, count))
