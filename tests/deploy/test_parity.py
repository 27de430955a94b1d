"""Parity: what is compared, and what is told."""

import math

import pytest
import torch
from torch import nn

from accuracy_booster.deploy.parity import compare


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()


IMAGES = torch.arange(7 * 12, dtype=torch.float32).reshape(7, 3, 2, 2).sin()


def runner(network, change=lambda y: y, sizes=None):
    def run(images):
        if sizes is not None:
            sizes.append(len(images))
        with torch.no_grad():
            return change(network(torch.from_numpy(images))).numpy()

    return run


def test_the_same_outputs_in_several_batches(network):
    sizes = []
    parity = compare(network, runner(network, sizes=sizes), IMAGES, "test images")
    assert sizes == [1, 3, 7]
    assert parity.max_error < 1e-6
    assert (parity.images, parity.same_class) == (7, 7)
    assert str(parity).endswith("the same class for 7 of 7 test images")


def test_the_error_is_relative_to_the_largest_output(network):
    with torch.no_grad():
        largest = float(network(IMAGES).abs().max())
    moved = compare(network, runner(network, lambda y: y + 0.01 * largest), IMAGES, "")
    assert moved.max_error == pytest.approx(0.01, rel=1e-4)
    turned = compare(network, runner(network, lambda y: -y), IMAGES, "")
    assert turned.same_class == 0


def test_an_error_in_one_batch_size_alone_is_found(network):
    wrong_if_alone = runner(network, lambda y: y + 1 if len(y) == 1 else y)
    assert compare(network, wrong_if_alone, IMAGES, "").max_error > 0.1


def test_outputs_that_are_no_numbers(network):
    parity = compare(network, runner(network, lambda y: y * math.nan), IMAGES, "")
    assert parity.max_error == math.inf
    with torch.no_grad():
        network[1].bias[0] = math.inf
    with pytest.raises(ValueError, match="the network's own outputs are not finite on 7 photos"):
        compare(network, runner(network), IMAGES, "photos")


def test_a_fixed_batch(network):
    """All images are compared, in batches that are filled with the first ones."""
    sizes = []
    parity = compare(network, runner(network, sizes=sizes), IMAGES, "test images", batch=3)
    assert sizes == [3, 3, 3]
    assert (parity.images, parity.same_class) == (9, 9)
    assert parity.max_error < 1e-6


def test_outputs_that_depend_on_the_other_images_of_a_batch(network):
    class Centred(nn.Module):
        def forward(self, x):
            y = network(x)
            return y - y.mean(0)

    assert compare(Centred(), runner(Centred()), IMAGES, "", batch=3).max_error > 0.01


def test_other_shapes(network):
    with pytest.raises(ValueError, match=r"gives outputs \[1, 4\] for 1 images, and the network"):
        compare(network, runner(network, lambda y: y[:, :4]), IMAGES, "")
