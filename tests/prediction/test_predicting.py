"""`ab.predict` makes its images as measuring does, from whatever a user has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.trainings import randomise, short, train_digits
from torch import nn

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")
OTHERS = {"interpolation": "bicubic", "crop_pct": 0.8, "mean": (0.4, 0.5, 0.6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """3 classes of images of many sizes, which differ in their brightness; two are turned."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 6)):
        for label, name in enumerate(("dark", "grey", "white")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                shape = rng.integers(40, 130, 2)
                pixels = rng.integers(0, 130, (*shape, 3)) + 60 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                exif = image.getexif()
                exif[0x0112] = 6 if i < 2 else 1
                image.save(root / split / name / f"{i}.png", exif=exif)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of cropped images, at a size and with a crop of its own."""
    options = short(tmp_path_factory.mktemp("runs"), image_size=(24, 32), epochs=2, compile="off")
    return ab.train("resnet8", block="ab", data=str(folder), **options, **OTHERS).output


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_class_is_right_as_often_as_evaluate_says(trained, folder, workers):
    measured = ab.evaluate(trained)
    found = list(ab.predict(trained, folder / "test", batch_size=5, workers=workers))
    assert len(found) == measured.images == 18
    hits = [Path(p.image).parent.name == p.classes[0] for p in found]
    assert 100 * sum(hits) / len(hits) == measured.top1
    assert 0 < sum(hits) < 18, "the case tells nothing: every image is a hit, or none"
    wanted = [measured.answers.classes[k] for k in measured.answers.given]
    assert [p.classes[0] for p in found] == wanted  # both in the order of the paths
    certain = [p.probabilities[0] for p in found]
    assert certain == pytest.approx(measured.answers.probabilities.tolist(), abs=1e-5)
    folded = list(ab.predict(trained, folder / "test", fold=True))
    again = [p.probabilities[0] for p in folded]
    assert again == pytest.approx(certain, abs=1e-4)
    assert again != certain


def test_an_odd_size_without_a_crop_of_its_own(folder, tmp_path):
    """256 / 224 of 32 pixels are 36.6: measuring takes 37, and timm 36 at crop_pct 0.875."""
    options = short(tmp_path, image_size=32, compile="off")
    run = ab.train("resnet8", data=str(folder), **options).output
    wanted = pytest.approx(ab.evaluate(run).answers.probabilities.tolist(), abs=1e-5)
    assert [p.probabilities[0] for p in ab.predict(run, folder / "test")] == wanted
    network = ab.load_run(run)
    assert [p.probabilities[0] for p in ab.predict(network, folder / "test")] == wanted


def test_a_loaded_run_predicts_as_its_directory_does(trained, folder):
    network = ab.load_run(trained)
    found = list(ab.predict(network, folder / "test"))
    assert found == list(ab.predict(trained, folder / "test"))


def test_a_run_of_an_own_network_asks_for_it(folder, tmp_path):
    def own():
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, 3))

    options = short(tmp_path, image_size=32, compile="off")
    run = ab.train(own, block="none", data=str(folder), **options).output
    measured = ab.evaluate(run, model=own)
    found = ab.predict(run, folder / "test", model=own)
    wanted = [measured.answers.classes[k] for k in measured.answers.given]
    assert [p.classes[0] for p in found] == wanted
    with pytest.raises(ValueError, match="model="):
        ab.predict(run, folder / "test")
    with pytest.raises(ValueError, match="is for a run's directory"):
        ab.predict(ab.load_run(run, model=own), folder / "test", model=own)


def test_small_images_are_resized_and_not_cropped(make_folder, tmp_path):
    """A run of small images measures the whole image; so does predict, also for a photograph."""
    data = make_folder({"train/a": 8, "train/b": 8, "test/a": 6, "test/b": 6}, size=(12, 12))
    run = ab.train("resnet8", data=str(data), image_size=16, **short(tmp_path)).output
    measured = ab.evaluate(run)
    found = list(ab.predict(run, data / "test"))
    assert [p.probabilities[0] for p in found] == pytest.approx(
        measured.answers.probabilities.tolist(), abs=1e-5
    )


def test_grey_images_of_a_grey_run(two_digits_run):
    """The digits are grey: a file, an array of one plane and colours of the same grey are alike."""
    run, images, measured = two_digits_run
    arrays = [image[0].numpy() for image in images]
    found = list(ab.predict(run, arrays))
    colours = list(ab.predict(run, [Image.fromarray(a).convert("RGB") for a in arrays]))
    assert [p.probabilities for p in colours] == [p.probabilities for p in found]
    assert [int(p.classes[0]) for p in found] == measured.answers.given[: len(arrays)].tolist()
    assert [p.image for p in found] == list(range(len(arrays)))


@pytest.fixture
def two_digits_run(tmp_path):
    run = train_digits(tmp_path / "run").output
    from accuracy_booster.data import load_data

    images = load_data("digits").loaders["test"].dataset.images.images[:20]
    return run, images, ab.evaluate(run)


def test_a_network_of_timm_is_given_what_timms_own_transform_makes(tmp_path, pixels):
    """Its classes are its `label_names`; the module's mode stays as it was."""
    network = randomise(timm.create_model("test_resnet", num_classes=7)).train()
    names = [f"name {k}" for k in range(7)]
    network.pretrained_cfg = {**network.pretrained_cfg, "label_names": names}
    image = Image.fromarray(pixels("timm", 300, 250))
    image.save(tmp_path / "a.png")
    (found,) = ab.predict(network, tmp_path / "a.png", top=3)
    assert network.training
    config = timm.data.resolve_model_data_config(network)
    x = timm.data.create_transform(**config)(image)[None]
    with torch.no_grad():
        expected = network.eval()(x).softmax(1)[0]
    values, order = expected.topk(3)
    assert found.classes == tuple(names[k] for k in order)
    assert found.probabilities == pytest.approx(values.tolist(), abs=0.01)
    assert found.to_dict()["top"][0] == {
        "class": found.classes[0],
        "probability": found.probabilities[0],
    }
    (own,) = ab.predict(network, image, top=9, classes=[str(k) for k in range(7)])
    assert len(own.classes) == 7
    assert sum(own.probabilities) == pytest.approx(1)


def test_a_generator_is_read_a_few_batches_at_a_time(trained):
    taken = []

    def made():
        for i in range(40):
            taken.append(i)
            yield torch.full((3, 50, 60), i, dtype=torch.uint8)

    found = ab.predict(trained, made(), batch_size=2)
    assert next(found).image == 0
    assert len(taken) == 8  # four batches, of the 40 images
    assert [p.image for p in found] == list(range(1, 40))
    batch = torch.zeros(3, 3, 50, 60, dtype=torch.uint8)
    assert len(list(ab.predict(trained, batch))) == 3


def test_what_cannot_be_read_says_so_and_the_rest_is_predicted(trained, folder, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    good = str(folder / "test/dark/3.png")
    for many in (1, 64):
        images = [tmp_path / "bad.jpg", good, Image.open(good), good]
        first, second, third, fourth = ab.predict(trained, images, batch_size=many)
        assert "bad.jpg: it is no image" in first.unreadable
        assert first.classes == ()
        assert first.to_dict()["unreadable"] == first.unreadable
        assert second.probabilities == pytest.approx(third.probabilities)
        assert (second.image, third.image, fourth.image) == (good, 2, good)


@pytest.mark.parametrize(
    ("images", "options", "says"),
    [
        ([], {}, "no images are given"),
        (None, {}, "images=None must be files, folders, patterns or images"),
        ("nowhere.jpg", {"model": "timm/test_resnet"}, "test_resnet' is a name.*import path"),
        ("nowhere.jpg", {}, "no file or directory 'nowhere.jpg'; check the path"),
        (torch.zeros(3, 4, 4), {}, r"torch.float32 \[3, 4, 4\]; a tensor must be torch.uint8"),
        ("nowhere.jpg", {"top": 0}, "top=0 must be a whole number >= 1"),
        ("nowhere.jpg", {"batch_size": 2.5}, "batch_size=2.5 must be"),
        ("nowhere.jpg", {"classes": ["a"]}, "a run knows the names"),
    ],
)
def test_what_is_refused(trained, images, options, says):
    with pytest.raises(ValueError, match=says):
        list(ab.predict(trained, images, **options))


def test_modules_that_are_refused(pixels):
    with pytest.raises(ValueError, match="this Linear does not say how its images are made"):
        ab.predict(nn.Linear(2, 2), pixels("x", 4, 4))
    with pytest.raises(ValueError, match="expected a run's directory or a network, got int"):
        ab.predict(3, pixels("x", 4, 4))
    network = timm.create_model("test_resnet", num_classes=2)
    for names in (["a", "b", "c"], ["a"]):
        told = f"{len(names)} names of classes, and the network has 2 outputs; give 2 names"
        with pytest.raises(ValueError, match=told):
            next(ab.predict(network, pixels("x", 4, 4), classes=names))
    for wrong in ("ab", 5, [], [1, 2]):
        with pytest.raises(ValueError, match=r"classes=.* must be the names of all outputs"):
            ab.predict(network, pixels("x", 4, 4), classes=wrong)
        with pytest.raises(ValueError, match=r"classes=.* must be the names of all outputs"):
            ab.evaluate(network, "digits", classes=wrong)
