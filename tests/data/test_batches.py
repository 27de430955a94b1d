"""Batches as a function of (seed, epoch, place): order, augmentation, shares, unreadable images."""

# N batch, C channels, H W space

import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from accuracy_booster.data import load_data
from accuracy_booster.data.augmentation import Crop
from accuracy_booster.data.batches import TRIES, Loader
from accuracy_booster.data.random_streams import IMAGE, LEFT, MIRROR, ORDER, TOP
from accuracy_booster.data.images import Images, TensorImages, UnreadableImage
from accuracy_booster.data.random_streams import integers, mix


class Broken(Images):
    """Images 0, 1, ... of which some do not decode."""

    def __init__(self, count, broken=()):
        self.labels = torch.arange(count)
        self.broken = set(broken)

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableImage(f"cannot read the image number {index}")
        return torch.full((1, 4, 4), index, dtype=torch.uint8), index


def unchanged(image):
    return image


def loader(count=10, broken=(), batch_size=4, **options):
    return Loader(Broken(count, broken), unchanged, batch_size, **{"shuffled": True, **options})


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)
        assert a.unreadable == b.unreadable


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """`kinds(kind)`: load_data's arguments for data in memory, and read from the disk."""
    from PIL import Image

    root = tmp_path_factory.mktemp("large")
    for split, count in (("train", 11), ("test", 7)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng([label, i]).integers(0, 256, (70, 72, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{i:02}.png")
    disk = {"data": str(root), "batch_size": 4, "image_size": 16, "eval_batch_size": 4}

    def make(kind, **more):
        given = {
            "memory": {"data": "digits", "batch_size": 150, "eval_batch_size": 150},
            "disk": disk,
            "disk, crop": {**disk, "augment": "crop_flip"},
        }[kind]
        return load_data(**given, **more)

    return make


# order


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_an_order_is_a_permutation_of_seed_and_epoch(count):
    orders = {}
    for seed in (0, 1, 2**31):
        for epoch in (0, 1, 7):
            torch.manual_seed(seed + epoch)  # which decides nothing
            made = loader(count, batch_size=1, seed=seed)
            order = made.order(epoch)
            assert sorted(order.tolist()) == list(range(count))
            made.order(3)
            assert torch.equal(made.order(epoch), order)
            orders[seed, epoch] = order.tolist()
    if count > 2:
        assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_an_order_is_torchs_permutation_of_the_mixed_seed():
    """Written down so that a run of another version can be repeated."""
    generator = torch.Generator().manual_seed(mix(5, 2, ORDER))
    assert torch.equal(loader(10, seed=5).order(2), torch.randperm(10, generator=generator))


def test_a_split_that_is_not_shuffled_keeps_its_order():
    made = loader(10, shuffled=False)
    assert made.order(3).tolist() == list(range(10))
    assert [b.indices.tolist() for b in made.batches(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_iterating_goes_from_epoch_to_epoch():
    made, other = loader(), loader()
    for epoch in range(3):
        expected = [b.labels.tolist() for b in other.batches(epoch)]
        assert [labels.tolist() for _, labels in made] == expected


# going on within an epoch


@pytest.mark.parametrize("kind", ["memory", "disk", "disk, crop"])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_start_gives_the_tail(kinds, kind, workers, split):
    data = kinds(kind, workers=workers, seed=4)
    made = data.loaders[split]
    whole = list(made.batches(1))
    assert len(whole) == len(made)
    for start in (0, 1, len(whole) - 1, len(whole)):
        torch.manual_seed(start)
        same(list(made.batches(1, start)), whole[start:])
    fresh = kinds(kind, seed=4).loaders[split]  # another process, without workers
    same(list(fresh.batches(1, 2)), whole[2:])
    if split == "train":  # not because nothing is random
        other = torch.cat([b.images for b in kinds(kind, seed=5).loaders[split].batches(1)])
        assert not torch.equal(other, torch.cat([b.images for b in whole]))
        (first, second) = (
            {
                int(n): image
                for b in made.batches(e)
                for n, image in zip(b.indices, b.images, strict=True)
            }
            for e in (1, 2)
        )
        both = first.keys() & second.keys()
        assert any(not torch.equal(first[n], second[n]) for n in both)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_is_left_early_disturbs_none_after_it(kinds, workers):
    made = kinds("disk", workers=workers).loaders["train"]
    whole = list(made.batches(2))
    for _ in made.batches(1):
        break
    same(list(made.batches(2)), whole)


def test_batches_leave_torchs_generator_alone(kinds):
    """A step's randomness is seeded for the step; but who trains by hand is not surprised."""
    for kind in ("memory", "disk"):
        made = kinds(kind).loaders["train"]
        before = torch.get_rng_state()
        list(made.batches(0))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_random_transform_is_seeded_for_the_image_and_the_epoch():
    def noisy(image):
        return torch.randint(0, 256, image.shape, dtype=torch.uint8)

    made = Loader(Broken(6), noisy, 3, shuffled=True, seed=8)
    for batch in made.batches(4):
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            generator = torch.Generator().manual_seed(mix(8, 4, index, IMAGE))
            expected = torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8, generator=generator)
            assert torch.equal(image, expected)


# several processes


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("world", [2, 4])
def test_the_processes_training_batches_are_the_one_process_batch(kinds, kind, world):
    made = kinds(kind).loaders["train"]
    made.batch_size -= made.batch_size % world
    whole = list(made.batches(3, 1))
    shares = [list(own.batches(3, 1, rank=r, world=world)) for r, own in ranks(made, world)]
    for i, batch in enumerate(whole):
        parts = [share[i] for share in shares]
        assert len({len(part.labels) for part in parts}) == 1
        for name in ("images", "labels", "indices"):
            together = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(together, getattr(batch, name))


def ranks(made, world):
    """(rank, a loader of its own) for each process."""
    for rank in range(world):
        yield (
            rank,
            Loader(
                *(made.dataset.images, made.dataset.transform, made.batch_size),
                **{"shuffled": made.shuffled, "seed": made.seed, "whole": made.whole},
            ),
        )


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 13])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_processes_measure_every_image_once(count, world):
    for memory in (False, True):
        images = Broken(count)
        if memory:
            images = TensorImages(torch.zeros(count, 1, 4, 4, dtype=torch.uint8), range(count))
        seen = []
        for rank in range(world):
            made = Loader(images, unchanged, 4, shuffled=False, whole=lambda x, *_: x)
            for batch in made.batches(0, rank=rank, world=world):
                assert 0 < len(batch.labels) <= 4
                seen += batch.labels.tolist()
        assert Counter(seen) == Counter(range(count))


# augmentation a batch at a time


def slow_crop(image, pad, top, left, mirrored):
    """[C, H, W] -> the same: pad by hand, slice, flip."""
    chans, height, width = image.shape
    out = np.zeros((chans, height + 2 * pad[0], width + 2 * pad[1]), np.uint8)
    out[:, pad[0] : pad[0] + height, pad[1] : pad[1] + width] = image.numpy()
    out = out[:, top : top + height, left : left + width]
    return torch.from_numpy(np.ascontiguousarray(out[:, :, ::-1] if mirrored else out))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("size", "pad"), [((8, 8), (1, 1)), ((6, 9), (2, 1)), ((5, 4), (0, 3))])
@pytest.mark.parametrize("chans", [1, 3])
def test_crops_equal_a_slow_reference(mirror, size, pad, chans):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, chans, *size), dtype=torch.uint8, generator=generator)
    samples = torch.randperm(60, generator=generator) * 1000
    before = images.clone()
    got = Crop(pad, mirror)(images, samples, 5, 2)
    top = integers(2 * pad[0] + 1, samples, 5, 2, TOP)
    left = integers(2 * pad[1] + 1, samples, 5, 2, LEFT)
    flip = integers(2, samples, 5, 2, MIRROR)
    assert torch.equal(images, before)
    assert (got.shape, got.dtype) == (images.shape, torch.uint8)
    for i, image in enumerate(images):
        where = int(top[i]), int(left[i])
        assert torch.equal(got[i], slow_crop(image, pad, *where, mirror and bool(flip[i])))
    places = Counter(zip(top.tolist(), left.tolist(), strict=True))
    assert len(places) >= min((2 * pad[0] + 1) * (2 * pad[1] + 1), 9)
    assert 15 < int(flip.sum()) < 45


def test_crops_belong_to_the_image_not_to_its_batch():
    images = torch.arange(10 * 64).remainder(251).to(torch.uint8).view(10, 1, 8, 8)
    samples = torch.arange(10)
    whole = Crop((2, 2), True)(images, samples, 1, 1)
    order = torch.tensor([7, 2, 9, 0])
    assert torch.equal(Crop((2, 2), True)(images[order], samples[order], 1, 1), whole[order])


def test_a_crop_of_the_padding_alone_is_never_drawn():
    """At the largest offset the image's last pixel is still there."""
    images = torch.full((200, 1, 2, 2), 255, dtype=torch.uint8)
    got = Crop((1, 1), True)(images, torch.arange(200), 0)
    assert int(got.amax((1, 2, 3)).min()) == 255


def test_the_padding_is_an_eighth_of_each_side(make_folder):
    data = load_data(str(make_folder({"train/a": 4, "test/a": 1}, size=(16, 8))), batch_size=4)
    assert data.loaders["train"].whole == Crop((2, 1), True)
    assert data.loaders["test"].whole is not None  # no augmentation, a batch at a time too


# unreadable images


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_training_images_are_replaced_by_the_next_and_named(workers):
    broken = {3, 4, 9}
    made = loader(10, broken, workers=workers, batch_size=5, seed=2)
    batches = list(made.batches(1))
    order = made.order(1).tolist()
    following = {3: 5, 4: 5, 9: 0}  # of the last one the first
    found = [i for batch in batches for i in batch.indices.tolist()]
    assert found == [following.get(i, i) for i in order]
    assert [i for batch in batches for i in batch.labels.tolist()] == found
    assert [int(i) for batch in batches for i in batch.images[:, 0, 0, 0]] == found
    for number, batch in enumerate(batches):
        chosen = order[5 * number : 5 * number + 5]
        passed = {3: {3, 4}, 4: {4}, 9: {9}}
        expected = set().union(*(passed.get(i, set()) for i in chosen))
        assert batch.unreadable == {i: f"cannot read the image number {i}" for i in expected}
    same(list(loader(10, broken, batch_size=5, seed=2).batches(1)), batches)
    same(list(made.batches(1, 1)), batches[1:])


def test_an_unreadable_image_does_not_change_the_others():
    """Their order and their augmentation stay; the replacement has one of its own."""

    def noisy(image):
        return image // 2 + torch.randint(0, 128, image.shape, dtype=torch.uint8)

    whole, partly = (
        list(Loader(Broken(8, b), noisy, 8, shuffled=True).batches(0)) for b in ((), (5,))
    )
    (first,), (second,) = whole, partly
    kept = first.indices != 5
    assert torch.equal(first.images[kept], second.images[kept])
    assert torch.equal(first.indices[kept], second.indices[kept])
    # the same image twice in the batch, not twice the same pixels
    twice = second.indices == 6
    assert int(twice.sum()) == 2
    assert not torch.equal(*second.images[twice])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_test_images_are_left_out_and_named(workers):
    made = loader(10, {0, 5, 8, 9}, shuffled=False, workers=workers)
    batches = list(made.batches(0))
    assert [b.indices.tolist() for b in batches] == [[1, 2, 3], [4, 6, 7], []]
    assert [sorted(b.unreadable) for b in batches] == [[0], [5], [8, 9]]
    with pytest.warns(UserWarning, match="skipped: cannot read the image number") as warned:
        seen = [labels.tolist() for _, labels in made]
    assert seen == [[1, 2, 3], [4, 6, 7]]
    assert len(warned) == 4


def test_only_what_is_wrong_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader(10))
        list(loader(10, shuffled=False))


def test_a_data_set_that_is_all_unreadable_ends():
    """Each search for a replacement is bounded, and the batch is empty."""
    for count in (6, TRIES + 50):
        made = loader(count, range(count), batch_size=3)
        batch = next(iter(made.batches(0)))
        assert len(batch.labels) == 0
        assert 0 < len(batch.unreadable) <= 3 * TRIES


def test_padding_is_black():
    images = torch.full((50, 1, 4, 4), 9, dtype=torch.uint8)
    got = Crop((1, 1), False)(images, torch.arange(50), 0)
    assert set(got.unique().tolist()) == {0, 9}
