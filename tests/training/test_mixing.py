"""Mixup and CutMix mix images in the shares that their targets say; erasing is timm's."""

from __future__ import annotations

import random

import pytest
import torch
from support.trainings import new_trainer
from timm.data.random_erasing import RandomErasing

from accuracy_booster.training import resolve
from accuracy_booster.training.mixing import make_erasing, make_mixing


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


def erased(seed, **options):
    """Black images [16, 1, 12, 12], erased by timm's function."""
    erasing = make_erasing(resolve("resnet8", **options))
    random.seed(seed)
    torch.manual_seed(seed)
    return erasing(torch.zeros(16, 1, 12, 12))


def test_erasing_is_timms_and_as_frequent_as_asked():
    assert make_erasing(resolve("resnet8")) is None
    images = erased(0, random_erasing=0.5)
    random.seed(0)
    torch.manual_seed(0)
    theirs = RandomErasing(0.5, mode="pixel", device="cpu")(torch.zeros(16, 1, 12, 12))
    assert torch.equal(images, theirs)
    shares = (images != 0).float().mean((1, 2, 3))
    assert 2 < (shares > 0).sum() < 14
    assert shares.max() < 0.45
    assert not torch.equal(erased(1, random_erasing=0.5), images)


def test_a_step_with_everything_is_a_function_of_its_number(tmp_path):
    """So a training that is resumed in the middle of an epoch takes the same steps."""
    given = {"random_erasing": 0.7, "mixup": 0.2, "class_weights": "balanced", "epochs": 1}
    given |= {"sampling": "balanced", "auto_augment": "rand-m9", "batch_size": 16}
    ends = []
    for seed in (0, 1):
        trainer = new_trainer(tmp_path, **given)
        random.seed(seed)  # what came before does not matter
        torch.manual_seed(seed)
        batches = trainer.loaders["train"].batches(0, start=3)
        batch = [next(batches) for _ in range(2)][1]
        trainer.train_step(batch)
        ends.append([p.detach().clone() for p in trainer.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
