"""`ab.load_run` and `ab.create_model(RUN)`: the network as it was measured, and other loaders."""

# N batch, C channels, H W space

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support.trainings import (
    SIZE_32,
    equal_tensors,
    flip,
    logits_of,
    short,
    train_digits,
    weights,
)
from timm.data import create_transform, resolve_model_data_config

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run of an unboosted network of timm's, and its data: 3 classes of 80 x 90."""
    folder = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(("dark", "grey", "white")):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (80, 90, 3)) + 90 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    ab.train(
        *("timm/test_resnet",),
        **{**short(folder), **SIZE_32, "crop_pct": 0.9},
        block="none",
        data=str(folder / "images"),
        compile="off",
    )
    return folder


def test_the_network_is_the_runs_in_eval_mode_with_what_it_must_be_given(run):
    network = ab.load_run(run)
    assert not network.training
    assert equal_tensors(dict(network.state_dict()), weights(run))
    assert network.classes == tuple("0123456789")
    about = network.pretrained_cfg
    assert (about["num_classes"], about["input_size"]) == (10, (1, 8, 8))
    assert about["label_names"] == list(network.classes)
    assert ab.load_run(run / "model.safetensors").classes == network.classes
    assert next(ab.load_run(str(run), device="meta").parameters()).is_meta


def test_timms_transform_for_a_loaded_network_gives_what_the_run_was_measured_on(plain):
    """Top-1 with timm's own transform and loop is that of the run."""
    network = ab.load_run(plain / "run")
    config = resolve_model_data_config(network)
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 0.9)
    transform = create_transform(**config)
    hits, largest = 0, 0.0
    loaded = ab.data.load_data(plain / "images", image_size=32, crop_pct=0.9)
    mine = loaded.loaders["test"].dataset
    for label, name in enumerate(network.classes):
        for i, file in enumerate(sorted((plain / "images" / "test" / name).iterdir())):
            x = transform(Image.open(file).convert("RGB"))
            hits += int(network(x[None]).argmax()) == label
            mean, std = (torch.tensor(config[n])[:, None, None] for n in ("mean", "std"))
            own = (mine[4 * label + i][0] / 255 - mean) / std
            largest = max(largest, float((own - x).abs().max()))
    assert largest < 0.1, "Pillow and torch resize with differences of a few grey levels"
    assert 100 * hits / 12 == pytest.approx(ab.evaluate(plain / "run").top1)


def test_small_images_are_not_cropped(run):
    """The digits were measured whole, so timm's transform must not cut off their edges."""
    config = resolve_model_data_config(ab.load_run(run))
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    x = create_transform(**config)(image) * config["std"][0] + config["mean"][0]
    torch.testing.assert_close(x[0] * 255, torch.arange(64.0).reshape(8, 8) * 4, atol=0.01, rtol=0)


def test_the_file_says_what_it_holds_and_is_the_same_when_repeated(run, two_runs, tmp_path):
    with safe_open(run / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["block"] == "ab"
    assert metadata["model"] == "resnet8"
    assert metadata["classes"] == '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    assert metadata["input_size"] == "[1, 8, 8]"
    assert {"mean", "std", "interpolation", "crop_pct", "crop_mode", "block_version"} <= set(
        metadata
    )

    again = train_digits(tmp_path / "again").output
    assert (again / "model.safetensors").read_bytes() == (
        two_runs / "s1" / "model.safetensors"
    ).read_bytes()


def test_a_boosted_run_loads_without_this_packages_trainer(run):
    """The recipe of docs/howto/use_a_run.md."""
    network = ab.boost(ab.models.create_model("resnet8", in_chans=1), "ab")
    network.load_state_dict(load_file(run / "model.safetensors"))
    loaded = ab.load_run(run).to(memory_format=torch.contiguous_format)  # as the other one
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(x), loaded(x))


def test_an_unboosted_run_loads_into_timm_without_this_package(plain):
    file = plain / "run" / "model.safetensors"
    by_timm = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(file))
    by_hand = timm.create_model("test_resnet", num_classes=3)
    by_hand.load_state_dict(load_file(file))
    expected = logits_of(ab.load_run(plain / "run"))
    assert torch.equal(logits_of(by_timm), expected)
    assert torch.equal(logits_of(by_hand), expected)


def test_create_model_takes_a_run(run, plain):
    network = ab.create_model(str(run))
    assert network.training
    assert equal_tensors(dict(network.state_dict()), weights(run))
    other = ab.create_model(plain / "run", num_classes=5)
    assert other.get_classifier().out_features == 5
    assert other.pretrained_cfg["num_classes"] == 5
    assert "label_names" not in other.pretrained_cfg
    base = {n: t for n, t in other.state_dict().items() if not n.startswith("fc.")}
    assert equal_tensors(base, {n: weights(plain / "run")[n] for n in base})
    with pytest.raises(ValueError, match="is a run, whose network has its own block, in_chans"):
        ab.create_model(str(run), block="se", in_chans=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"which": "first"}, "which='first' must be 'model' or 'best'"),
        ({"which": "best"}, r"has no best\.safetensors"),
        ({"model": "resnet8"}, "must be a network of your own"),
        ({"model": torch.nn.Linear(2, 2)}, "which its name makes; leave out model"),
    ],
)
def test_what_a_run_does_not_have_is_told(run, options, told):
    with pytest.raises(ValueError, match=told):
        ab.load_run(run, **options)


def test_what_is_no_finished_run_is_told(run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        ab.load_run(tmp_path)
    with pytest.raises(ValueError, match="expected a run's directory, got int"):
        ab.load_run(3)
    flip(run / "model.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        ab.load_run(run)
    (run / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has not ended"):
        ab.create_model(str(run))


def test_a_loaded_network_is_measured_by_the_names_of_its_classes(make_folder, tmp_path):
    """As its run: also on data with some of its classes, and with outputs that have no name."""
    names = ("a", "b", "c")
    data = make_folder({f"{s}/{k}": 6 for s in ("train", "test") for k in names}, name="all")
    some = make_folder({"test/b": 4, "test/c": 5, "train/b": 2, "train/c": 2}, name="some")
    options = short(tmp_path, num_classes=5)
    run = ab.train("resnet8", block="none", data=str(data), **options).output
    network = ab.load_run(run)
    for place in (data, some):
        found = ab.evaluate(network, str(place))
        assert found.loss == pytest.approx(ab.evaluate(run, str(place)).loss)
        assert [c.name for c in found.by_class if c.images] == (
            list(names) if place == data else ["b", "c"]
        )
    other = make_folder({f"{s}/{k}": 2 for s in ("train", "test") for k in "xyz"}, name="other")
    with pytest.raises(ValueError, match="not among the"):
        ab.evaluate(network, str(other))
