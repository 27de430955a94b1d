"""Mean and standard deviation of the pixels, and the normalised input."""

# N batch, C channels, H W space

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.datasets import (
    everything,
    raw,
)

from accuracy_booster.data import load_data, normalise


def moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [N, C, H, W], per channel, of pixels in [0, 1]."""
    scaled = pictures.astype(np.float64) / 255
    return scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))


@pytest.mark.parametrize("validation", [0.0, 0.5])
def test_mean_and_std_are_the_training_splits(make_folder, validation):
    steps = {"train/a": 6, "train/b": 6, "val/a": 2}
    data = load_data(str(make_folder(steps)), validation=validation)
    train = [np.frombuffer(image, np.uint8).reshape(3, 8, 8) for image in raw(data, "train")[0]]
    assert len(train) == (6 if validation else 12)
    mean, std = moments(np.stack(train))
    np.testing.assert_allclose(data.mean, mean, atol=5.1e-5)
    np.testing.assert_allclose(data.std, std, atol=5.1e-5)


def test_mean_and_std_of_digits():
    data = load_data("digits")
    train = [np.frombuffer(image, np.uint8).reshape(1, 8, 8) for image in raw(data, "train")[0]]
    mean, std = moments(np.stack(train))
    np.testing.assert_allclose(data.mean, mean, atol=5.1e-5)
    np.testing.assert_allclose(data.std, std, atol=5.1e-5)


def test_given_mean_and_std_are_kept(make_folder):
    root = str(make_folder({"train/a": 1, "val/a": 1}))
    data = load_data(root, mean=[0.0, 0.1, 0.2], std=(0.5, 0.6, 0.7))
    assert (data.mean, data.std) == ((0.0, 0.1, 0.2), (0.5, 0.6, 0.7))
    half = load_data(root, mean=(0.0, 0.1, 0.2))
    assert half.mean == (0.0, 0.1, 0.2)
    assert half.std == load_data(root).std


def test_images_that_are_not_in_memory_get_imagenets_mean_and_std(make_folder):
    root = str(make_folder({"train/a": 1, "val/a": 1}, size=(70, 70)))
    for options in ({}, {"splits": ("test",)}):
        data = load_data(root, **options)
        assert data.mean == (0.485, 0.456, 0.406)
        assert data.std == (0.229, 0.224, 0.225)


def test_images_of_one_colour_do_not_divide_by_zero(make_folder):
    flat = [np.full((8, 8, 3), 40, np.uint8)] * 2
    data = load_data(str(make_folder({"train/a": flat, "val/a": flat})))
    images, _ = everything(data, "test")
    assert normalise(images, data.mean, data.std).isfinite().all()


@pytest.mark.parametrize("chans", [1, 3])
def test_normalise_is_numpys(chans):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, chans, 5, 7), dtype=np.uint8)
    images[0, :, 0, :2] = (0, 255)
    mean, std = (0.4, 0.5, 0.6)[:chans], (0.2, 0.3, 0.25)[:chans]
    shape = (1, chans, 1, 1)
    expected = (images / 255.0 - np.reshape(mean, shape)) / np.reshape(std, shape)
    before = torch.from_numpy(images.copy())
    given = torch.from_numpy(images)
    got = normalise(given, mean, std)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(given, before)
