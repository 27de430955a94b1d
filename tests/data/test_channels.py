"""Folders that are read as grey, and images in memory that are made grey or colour."""

# N images, C channels, H W space

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import one_line, raw
from torch.utils.data import Dataset

from accuracy_booster.data import load_data
from accuracy_booster.data.channels import convert
from accuracy_booster.data.dataset_source import dataset_source
from accuracy_booster.data.images import TensorImages


@pytest.mark.parametrize("size", [(8, 8), (70, 66)])
def test_a_folder_is_read_as_pillow_makes_it_grey(make_folder, pixels, size):
    colour = [pixels(str(i), *size) for i in range(3)]
    grey = [picture[..., 0].copy() for picture in colour]  # saved as mode L
    root = make_folder({"train/a": colour, "train/b": grey, "val/a": colour, "val/b": grey})
    data = load_data(root, in_chans=1)
    expected = [np.array(Image.fromarray(picture).convert("L")) for picture in colour] + grey
    assert data.input_size[0] == 1
    assert (len(data.mean), len(data.std)) == (1, 1)
    assert raw(data, "test")[0] == [picture.tobytes() for picture in expected]
    images, _ = next(iter(data.loaders["train"]))
    assert images.shape == (6, *data.input_size)
    if size == (8, 8):
        mean = np.mean([picture / 255 for picture in expected])
        assert data.mean == (pytest.approx(mean, abs=1e-4),)
    else:
        assert data.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert load_data(root).in_chans == 3  # as before, without being asked
    assert load_data(root, in_chans=3).marks == load_data(root).marks == data.marks


def test_images_in_memory(pixels):
    plain, colour = load_data("digits"), load_data("digits", in_chans=3)
    before, after = (d.loaders["test"].dataset.images.images for d in (plain, colour))
    assert torch.equal(after, before.repeat(1, 3, 1, 1))
    assert len(colour.mean) == 3
    pictures = [pixels(str(i), 16, 12) for i in range(4)]
    images = TensorImages(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2), [0] * 4)
    convert(images, 1, "x")
    expected = np.stack([np.array(Image.fromarray(p).convert("L")) for p in pictures])
    assert np.array_equal(images.images[:, 0].numpy(), expected)


class Gradients(Dataset):
    """A data set of the caller's, of colour images."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        rows = torch.arange(3 * 66 * 70).reshape(3, 66, 70) * (index + 1)
        return (rows % 256).to(torch.uint8), index % 2


def test_a_data_set_of_the_callers_is_read_as_grey():
    source = dataset_source({"train": Gradients(), "test": Gradients()}, "dataset/Gradients")
    data = load_data(source, in_chans=1, image_size=16)
    image, _ = data.loaders["test"].dataset.images[5]
    expected = Image.fromarray(Gradients()[5][0].permute(1, 2, 0).numpy()).convert("L")
    assert np.array_equal(image[0].numpy(), np.array(expected))
    assert next(iter(data.loaders["train"]))[0].shape == (8, 1, 16, 16)


def test_other_numbers_of_channels(make_folder):
    root = make_folder({"train/a": 1, "val/a": 1})
    with one_line("in_chans=4, but .* has images of 3 channels: only grey"):
        load_data(root, in_chans=4)
    with one_line("in_chans=2, but digits has images of 1 channel:"):
        load_data("digits", in_chans=2)
