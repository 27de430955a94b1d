"""Mixup and CutMix: images of a batch are mixed in the shares that their targets say."""

from __future__ import annotations

import pytest
import torch

from accuracy_booster.training import resolve
from accuracy_booster.training.mixing import make_mixing


def mix(**options):
    """Constant images of the values 0 to 3, labelled with these values, mixed."""
    mixing = make_mixing(resolve("resnet8", num_classes=4, **options))
    labels = torch.arange(4)
    images = labels.float().reshape(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    return mixing(images, labels)


def test_without_either_there_is_no_mixing():
    assert make_mixing(resolve("resnet8")) is None


BOTH = {"mixup": 1.0, "cutmix": 1.0}


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}, BOTH])
def test_targets_are_the_shares_of_the_images(options):
    torch.manual_seed(0)
    some = False
    for _ in range(10):
        images, targets = mix(**options)
        assert (images.shape, targets.shape) == ((4, 3, 8, 8), (4, 4))
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        # the mean of an image is that of its labels, weighted by their shares
        torch.testing.assert_close(images.mean((1, 2, 3)), targets @ torch.arange(4.0))
        some = some or bool(((targets > 0.01) & (targets < 0.99)).any())
    assert some


def test_each_batch_takes_one_of_both():
    """Mixup gives images of one value; CutMix gives images of two."""
    torch.manual_seed(0)
    values = [len(mix(**BOTH)[0][0].unique()) for _ in range(20)]
    assert {1, 2} == set(values)
