"""A file for ExecuTorch gives the network's outputs, and its texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("executorch", reason="executorch is not installed")

import accuracy_booster as ab
from accuracy_booster.deploy import mobile
from accuracy_booster.exported import About, open_file

SIZE = (3, 16, 16)
ABOUT = About("resnet8", "ab", ("cat", "dog", "é"), SIZE, (0.5,) * 3, (0.25,) * 3)
ANY = ({0: torch.export.Dim("batch", min=1)},)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ab.create_model("resnet8", num_classes=3, block="ab").eval()


def outputs(network, batch):
    with torch.no_grad():
        return network(torch.from_numpy(batch)).numpy()


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def images(count):
    return np.random.default_rng(count).standard_normal((count, *SIZE), dtype=np.float32)


def test_the_file_takes_any_number_of_images_and_says_what_it_is(network, tmp_path):
    path = tmp_path / "model.pte"
    mobile.converted(ab.fold(network, kernel="off"), torch.zeros(2, *SIZE), ANY)(path, ABOUT)
    session = open_file(path, threads=1)
    assert session.about == ABOUT
    for count in (1, 3, mobile.MOST_IMAGES, 2 * mobile.MOST_IMAGES + 1):
        assert_close(session(images(count)), outputs(network, images(count)))
    assert not _means_outside_xnnpack(path)


def test_a_file_for_one_image_and_a_damaged_one(network, tmp_path):
    path = tmp_path / "model.pte"
    mobile.converted(ab.fold(network, kernel="off"), torch.zeros(1, *SIZE), None)(path, ABOUT)
    session = open_file(path)
    assert_close(session(images(3)), outputs(network, images(3)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.pte is not a file that executorch reads"):
        open_file(path)


def _means_outside_xnnpack(path):
    """Whether the program names the operator `mean`, which only ExecuTorch's own kernels have."""
    return b"aten::mean" in path.read_bytes()
