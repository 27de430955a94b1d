"""Data sets that the caller gives, as loaders: which split is which, pixels, workers, streams."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torchvision
from support.datasets import everything, is_in_memory, one_line
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.transforms import v2

from accuracy_booster.data import load_data
from accuracy_booster.data.dataset_source import dataset_name, dataset_source, given_splits


class Squares(Dataset):
    """Squares of a colour for each class."""

    classes = ("dark", "grey", "light")

    def __init__(self, count=12, side=8, transform=None):
        self.targets = [i % 3 for i in range(count)]
        self.side, self.transform = side, transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = torch.full((3, self.side, self.side), 80 * self.targets[index] + index % 7)
        image = image.to(torch.uint8)
        return (image if self.transform is None else self.transform(image)), self.targets[index]


def load(data, **options):
    source = dataset_source(given_splits(data), dataset_name(data))
    return load_data(source, **{"batch_size": 4, **options})


def test_one_two_and_several_data_sets():
    one, other, third = Squares(), Squares(6), Squares(3)
    assert given_splits(one) == {"train": one}
    assert given_splits((one, other)) == {"train": one, "test": other}
    named = {"train": one, "val": third, "test": other}
    assert given_splits(named) == {"train": one, "test": other, "validation": third}
    assert given_splits({"train": one, "valid": other}) == {"train": one, "test": other}
    assert dataset_name(named) == "dataset/Squares"
    assert dataset_name(Subset(Subset(one, [0, 1, 2]), [1])) == "dataset/Squares"


def test_pixels_labels_and_names_are_those_of_the_items():
    data = load((Squares(), Squares(5)))
    assert data.classes == Squares.classes
    assert data.input_size == (3, 8, 8)
    assert is_in_memory(data, "train")
    images, labels = everything(data, "test")
    assert torch.equal(images, torch.stack([Squares()[i][0] for i in range(5)]))
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert data.marks["train"]["images"] == 12


def test_a_random_transform_stays_random():
    """Images kept in memory would be the same in each epoch."""
    flip = v2.RandomApply([v2.Lambda(lambda image: 255 - image)])
    data = load((Squares(transform=flip), Squares(5)), augment="none")
    assert not is_in_memory(data, "train")
    assert is_in_memory(data, "test")
    epochs = [
        {
            int(n): int(i[0, 0, 0])
            for b in data.loaders["train"].batches(e)
            for n, i in zip(b.indices, b.images, strict=True)
        }
        for e in (0, 1, 0)
    ]
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2], "it depends on the seed and the epoch alone"


def test_large_images_are_cropped_as_other_data_are():
    data = load((Squares(side=80), Squares(5, side=80)), image_size=40, crop_pct=1.0)
    assert data.augment == "resized_crop"
    images, _ = everything(data, "test")
    assert images.shape == (5, 3, 40, 40)
    assert images[:, 0, 0, 0].tolist() == [int(Squares()[i][0][0, 0, 0]) for i in range(5)]
    assert not data.whole


def test_grey_images():
    grey = v2.Lambda(lambda image: image[:1])
    data = load((Squares(transform=grey), Squares(5, transform=grey)))
    assert data.input_size == (1, 8, 8)


def test_one_data_set_needs_a_share_to_measure_on():
    with one_line(r"has no test split: it is one data set; give data=\(train, test\), or .*"):
        load(Squares())
    data = load(Squares(40), validation=0.25)
    assert (len(data.loaders["train"].dataset), len(data.loaders["test"].dataset)) == (30, 10)


@pytest.mark.forks
def test_processes_load_the_same_images():
    flip = v2.RandomHorizontalFlip()

    def batches(workers):
        loader = load((Squares(side=80, transform=flip), Squares(4)), image_size=8, workers=workers)
        found = list(loader.loaders["train"].batches(0))
        return [b.images for b in found]

    for one, other in zip(batches(0), batches(1), strict=True):
        assert torch.equal(one, other)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class NoLength:
    def __getitem__(self, index):
        return None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Stream(), "is a stream"),
        (NoLength(), "has no length"),
        ((Squares(), Squares(), Squares()), r"two data sets \(train, test\)"),
        ((Squares(), "photos"), r"part 2 of data, .photos., is no data set.*two data sets"),
        (
            (DataLoader(Squares()), Squares()),
            r"part 1 of data, of the type DataLoader, .*\.dataset.*mapping",
        ),
        ({"train": Squares(), "holdout": Squares()}, "of which ..holdout.. are none"),
        (3, "the train split is 3, and a data set has"),
        ({"train": Squares(), "test": Stream()}, "the test data set, Stream, is a stream"),
    ],
    ids=["stream", "length", "three", "text", "loader", "names", "number", "stream in a mapping"],
)
def test_what_is_no_data_set_is_told(data, told):
    with pytest.raises(ValueError, match=told):
        given_splits(data)


def test_normalised_images_are_refused_when_the_data_are_opened():
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])])
    with one_line(r"has values from .* outside \[0, 1\]; leave Normalize out.*"):
        load((Squares(transform=normalise), Squares()))


def test_an_empty_data_set_is_told():
    with one_line("the test split of dataset/Squares holds no images"):
        load((Squares(), Squares(0)))


def test_torchvisions_fake_data():
    fake = torchvision.datasets.FakeData(8, (3, 12, 10), 3)
    data = load((fake, fake), augment="none")
    images, labels = everything(data, "test")
    assert images.shape == (8, 3, 12, 10)
    assert labels.tolist() == [int(fake[i][1]) for i in range(8)]
