"""Batches depend on seed, epoch and position alone; unreadable images are replaced."""

import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import (
    everything,
    image_numbers,
)

from accuracy_booster.data import load_data
from accuracy_booster.data.augmentation import unchanged_batch
from accuracy_booster.data.batches import TRIES, Loader
from accuracy_booster.data.images import Images, TensorImages, UnreadableImage
from accuracy_booster.data.random_streams import IMAGE, ORDER, mix
from accuracy_booster.data.transforms import unchanged


class Broken(Images):
    """Images 0, 1, ... of which some do not decode."""

    def __init__(self, count, broken=()):
        self.labels = torch.arange(count)
        self.broken = set(broken)

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableImage(f"cannot read the image number {index}")
        return torch.full((1, 4, 4), index, dtype=torch.uint8), index


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
                **{
                    "shuffled": made.shuffled,
                    "seed": made.seed,
                    "batch_transform": made.batch_transform,
                },
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
            made = Loader(images, unchanged, 4, shuffled=False, batch_transform=unchanged_batch)
            for batch in made.batches(0, rank=rank, world=world):
                assert 0 < len(batch.labels) <= 4
                seen += batch.labels.tolist()
        assert Counter(seen) == Counter(range(count))


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


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_large_image_is_skipped_and_named(make_folder, png, pixels, workers):
    """The rule: it is found when it is asked for, left out, and a warning of one line names it.

    A worker process must not add its traceback to the line.
    """
    picture = png(pixels("large", 80, 80))
    root = make_folder({"train/a": 1, "val/a": [picture, picture[:9000]]}, size=(80, 80))
    data = load_data(str(root), splits=("test",), workers=workers)
    with pytest.warns(UserWarning, match=re.escape(str(root / "val/a/001.png"))) as warned:
        images, labels = everything(data, "test")
    assert len(images) == len(labels) == 1
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert data.unreadable == []


def test_a_seed_is_an_order(ten):
    first, same, other = (load_data(ten, batch_size=5, seed=seed) for seed in (1, 1, 2))
    epochs = [image_numbers(first, "train") for _ in range(3)]
    assert epochs == [image_numbers(same, "train") for _ in range(3)]
    assert epochs != [image_numbers(other, "train") for _ in range(3)]
    assert epochs[0] != epochs[1]  # each epoch has its own


def test_the_order_does_not_hang_on_the_global_random_state(ten):
    orders = []
    for state in (0, 1):
        torch.manual_seed(state)
        orders.append(image_numbers(load_data(ten, batch_size=5), "train"))
    assert orders[0] == orders[1]


def test_augmentation_belongs_to_the_loaders_seed_the_epoch_and_the_image():
    """The rule: torch's global seed decides nothing in batches; `dataset[i]` draws from it."""
    epochs = []
    for state, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        data = load_data("digits", batch_size=64, seed=seed)
        epochs.append(everything(data, "train")[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    assert not torch.equal(everything(data, "train")[0], epochs[2])  # the next epoch
    dataset = data.loaders["train"].dataset
    drawn = []
    for state in (0, 0, 1, 2, 3):
        torch.manual_seed(state)
        drawn.append(dataset[0][0])
    assert torch.equal(drawn[0], drawn[1])
    assert any(not torch.equal(drawn[0], other) for other in drawn[2:])


def test_training_batches_are_never_ragged(ten):
    data = load_data(ten, batch_size=4, eval_batch_size=4)
    assert len(data.loaders["train"]) == 2
    for _ in range(3):
        batches = image_numbers(data, "train")
        assert [len(batch) for batch in batches] == [4, 4]
        assert len({n for batch in batches for n in batch}) == 8
    assert image_numbers(data, "test") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_labels_follow_their_images(ten):
    for images, labels in load_data(ten, batch_size=3).loaders["train"]:
        assert labels.tolist() == (images[:, 0, 4, 4] // 20 >= 5).int().tolist()


@pytest.mark.parametrize("batch_size", [10, 11, 128])
def test_data_no_larger_than_a_batch(ten, batch_size):
    data = load_data(ten, batch_size=batch_size, eval_batch_size=batch_size)
    for split in ("train", "test"):
        (batch,) = image_numbers(data, split)
        assert sorted(batch) == list(range(10))


def test_measuring_the_training_split(ten):
    data = load_data(ten, splits=("train",), training=False, batch_size=3, eval_batch_size=4)
    assert image_numbers(data, "train") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    images, labels = everything(data, "train")
    assert torch.equal(images, (torch.arange(10) * 20)[:, None, None, None].expand(10, 3, 8, 8))
    assert labels.tolist() == [0] * 5 + [1] * 5


def test_workers_give_the_same_images_in_the_same_order(ten):
    alone, helped = (load_data(ten, batch_size=5, workers=workers) for workers in (0, 1))
    assert image_numbers(alone, "train") == image_numbers(helped, "train")
    assert image_numbers(alone, "test") == image_numbers(helped, "test")
