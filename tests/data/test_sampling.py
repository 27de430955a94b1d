"""Balanced sampling: what an epoch shows depends on the seed and the epoch alone."""

# N images

import torch
from torch.utils.data import WeightedRandomSampler

from accuracy_booster.data.augmentation import Crop, unchanged_batch
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.sampling import draw_balanced, repeats
from accuracy_booster.data.transforms import unchanged

LABELS = torch.tensor([2] * 90 + [0] * 9 + [3] * 1)  # class 1 has none


def drawn(count=400):
    """How often each image is drawn in so many epochs, [N]."""
    generator = torch.Generator().manual_seed(0)
    numbers = [draw_balanced(LABELS, generator) for _ in range(count)]
    return torch.cat(numbers).bincount(minlength=len(LABELS)).double() / count


def test_images_are_as_frequent_as_torchs_sampler_draws_them():
    weights = 1 / LABELS.bincount()[LABELS].double()
    generator = torch.Generator().manual_seed(1)
    sampler = WeightedRandomSampler(weights, 100 * 400, generator=generator)
    theirs = torch.tensor(list(sampler)).bincount(minlength=100).double() / 400
    ours = drawn()
    torch.testing.assert_close(ours, 100 * weights / weights.sum(), rtol=0.3, atol=0.15)
    for label in (0, 2, 3):
        mine, other = (counts[label == LABELS].sum() for counts in (ours, theirs))
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0)


def test_repeats_count_what_came_before():
    assert repeats(torch.tensor([5, 2, 5, 5, 2, 9])).tolist() == [0, 0, 1, 2, 1, 0]


def loader(batch_transform=None, **options):
    pixels = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    images = TensorImages(pixels.contiguous(), LABELS)
    return Loader(
        images, unchanged, 10, shuffled=True, balanced=True, batch_transform=batch_transform,
        **options,
    )  # fmt: skip


def rows(made, epoch=0, **given):
    batches = list(made.batches(epoch, **given))
    for batch in batches:
        assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
        assert torch.equal(batch.labels, LABELS[batch.indices])
    return [batch.indices.tolist() for batch in batches]


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first = rows(loader(seed=3))
    assert len(first) == 10
    assert max(map(max, first)) < 100
    assert first == rows(loader(seed=3)) == rows(loader(unchanged_batch, seed=3))
    assert first == rows(loader(seed=3, workers=1))
    assert first[4:] == rows(loader(seed=3), start=4)
    assert first != rows(loader(seed=4))
    assert first != rows(loader(seed=3), epoch=1)
    shares = [rows(loader(seed=3), rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == first


def test_an_image_that_comes_again_is_augmented_anew():
    """The one image of class 3 fills a third of an epoch; its crops must not all be the same."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (100, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = TensorImages(pixels, LABELS)

    def noise(image):
        return torch.randint(256, image.shape).to(torch.uint8)  # from the image's own stream

    for transform, batch_transform in ((unchanged, Crop((2, 2), mirror=True)), (noise, None)):
        made = Loader(
            images, transform, 100, shuffled=True, balanced=True, batch_transform=batch_transform
        )
        (batch,) = made.batches(0)
        rare = batch.images[batch.indices == 99]
        assert len(rare) > 20
        assert len(rare.flatten(1).unique(dim=0)) > 10
