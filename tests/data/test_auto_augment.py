"""timm's augmentation is timm's own, repeatable, and leaves other generators alone."""

# C channels, H W space

import pickle
import random

import numpy as np
import pytest
import timm.data.auto_augment as timms
import torch
from PIL import Image
from support.datasets import one_line

from accuracy_booster.data import load_data
from accuracy_booster.data.auto_augment import AutoAugment

TEXTS = ["rand-m9-mstd0.5-inc1", "augmix-m5-w2-d1", "original-mstd0.5", "v0r", "3a"]


def picture(chans=3, height=20, width=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (chans, height, width), generator=generator, dtype=torch.uint8)


def augmented(augment, image, seed):
    torch.manual_seed(seed)
    return augment(image)


def test_it_is_timms_on_pillows_image():
    settings = {
        "translate_const": int(0.45 * 12),
        "img_mean": (26, 51, 128),
        "interpolation": Image.Resampling.BICUBIC,
    }
    theirs = timms.rand_augment_transform("rand-m6-n3-p1.0", settings)
    ours = AutoAugment("rand-m6-n3-p1.0", (20, 12), (0.1, 0.2, 0.5), "bicubic")
    image = picture()
    changed = 0
    for seed in range(8):
        torch.manual_seed(seed)
        drawn = int(torch.randint(2**31, ()))
        random.seed(drawn)
        np.random.seed(drawn)
        expected = np.array(theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
        got = augmented(ours, image, seed)
        assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)
        changed += not torch.equal(got, image)
    assert changed > 4


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("text", TEXTS)
def test_every_kind_repeats_and_touches_no_other_generator(text, chans):
    augment, image = AutoAugment(text, (20, 12), (0.4,) * chans, "bilinear"), picture(chans)
    again = pickle.loads(pickle.dumps(augment))  # as it is sent to a process
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    results = [augmented(augment, image, seed) for seed in range(40)]
    assert (random.random(), np.random.random()) == expected
    for seed, result in enumerate(results):
        assert (result.shape, result.dtype) == (image.shape, torch.uint8)
        assert torch.equal(result, augmented(again, image, seed))
    assert len({r.numpy().tobytes() for r in results}) > 10


def test_no_bits_are_black():
    """timm posterises to 0 bits at the highest magnitude, which Pillow refuses since 12."""
    augment = AutoAugment("rand-m10-n1-p1.0-inc1", (20, 12), (0.4,) * 3, "bilinear")
    (posterize,) = [o for o in augment._augment.ops if o.name.startswith("Posterize")]
    image = Image.new("RGB", (4, 4), (255, 100, 3))
    assert not np.array(posterize.aug_fn(image, 0)).any()
    assert np.array(posterize.aug_fn(image, 1)).max() == 128


def test_bad_texts():
    for text in ("rand-x9", "original-m9", "rnd-m9", "rand-mfoo7x"):
        with one_line("is no text that timm reads.*rand-m9-mstd0.5-inc1"):
            AutoAugment(text, (8, 8), (0.5,), "bilinear")


@pytest.mark.parametrize("size", [(8, 8), (70, 70)])
def test_training_images_and_no_others_in_any_process(make_folder, size):
    root = make_folder({f"{s}/{c}": 6 for s in ("train", "val") for c in "ab"}, size=size)
    given = {"augment": "none", "image_size": 8, "batch_size": 4, "seed": 2}
    made = load_data(root, auto_augment="rand-m9-n3-p1.0", **given)
    plain = load_data(root, **given)
    workers = load_data(root, auto_augment="rand-m9-n3-p1.0", workers=1, **given)
    batches = list(made.loaders["train"].batches(1))
    for batch, other in zip(batches, workers.loaders["train"].batches(1), strict=True):
        assert torch.equal(batch.images, other.images)
    (late,) = made.loaders["train"].batches(1, start=2)  # as a training that is resumed
    assert torch.equal(late.images, batches[2].images)
    first = next(iter(plain.loaders["train"].batches(1)))
    assert torch.equal(first.indices, batches[0].indices)
    assert not torch.equal(first.images, batches[0].images)
    for a, b in zip(made.loaders["test"], plain.loaders["test"], strict=True):
        assert torch.equal(a[0], b[0])
