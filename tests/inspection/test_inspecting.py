"""`ab.inspect` of runs and modules: what it finds, and bad input."""

# N images, C channels, K classes

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from support.inspected_runs import SITES
from support.processes import (
    forks,
    ranks,
    said,
    wait,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.data import load_data, normalise
from accuracy_booster.inspection.sentences import summary
from accuracy_booster.surgery.listing import attached
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run


def network_of(run):
    return load_network(*Run.open(run)).eval()


def test_a_run(run, found):
    data = load_data("digits")
    x, y = zip(*load_data("digits").loaders["test"], strict=True)
    x, y = normalise(torch.cat(x), data.mean, data.std), torch.cat(y)
    assert found.images == found.gates.images == len(y)
    assert found.top1 == ab.evaluate(run).top1 > 30
    net = network_of(run)
    own = ab.gates(net, [(x, y)])
    assert list(found.gates) == list(own) == list(found.frozen) == SITES
    for site in SITES:
        torch.testing.assert_close(found.gates[site].mean, own[site].mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.gates[site].class_counts, y.bincount())
    hits = []
    for site in (*SITES, None):
        plain = copy.deepcopy(net)
        for name, block in attached(plain).items():
            if site in (name, None):
                mean = own[name].mean.float()
                block[0].weigh = lambda d, mean=mean: mean.expand(len(d[0]), -1)
        with torch.no_grad():
            hits.append(100 * float((plain(x).argmax(1) == y).double().mean()))
    outcomes = [found.frozen[site].top1 for site in SITES] + [found.all_frozen.top1]
    assert outcomes == pytest.approx(hits)
    rows = {(z.percent, z.which): z.outcome for z in found.zeroed}
    assert list(rows) == [(p, w) for p in (0, 10, 50) for w in ("highest", "lowest", "random")]
    assert all(rows[0, which].top1 == found.top1 for which in ("highest", "lowest", "random"))
    assert rows[50, "highest"].change < -5
    assert found.layer == SITES[2]
    assert (found.by, found.split) == ("image", "test")
    assert found.title == "resnet8 with ab on digits"


def test_the_pictures_are_the_data_sets(found):
    images = load_data("digits").loaders["test"].dataset
    assert found.pictures
    for number, picture in found.pictures.items():
        assert torch.equal(picture, images[number][0])
        assert found.labels[number] == images[number][1]
    for gate in found.gates.values():
        channel = int(gate.spread.argmax())
        for ends in (gate.highest, gate.lowest):
            assert set(ends.images[channel, :4].tolist()) <= set(found.pictures)


def test_the_first_images_and_another_ranking(run, found):
    few = ab.inspect(run, images=130, percents=(50,), by="average", layer="Conv2_1", workers=0)
    assert (few.images, few.gates.images, few.by, few.layer) == (130, 130, "average", SITES[0])
    first = load_data("digits").loaders["test"].dataset
    labels = torch.tensor([first[i][1] for i in range(130)])
    assert torch.equal(few.gates[SITES[0]].class_counts, labels.bincount(minlength=10))
    assert few.all_frozen.low < few.all_frozen.high
    again = ab.inspect(run, images=130, percents=(50,), by="average", layer=SITES[0])
    assert again.to_dict() == few.to_dict()
    other = ab.inspect(run, images=130, percents=(50,), seed=5)
    assert other.zeroed[0].outcome != few.zeroed[0].outcome
    none = ab.inspect(run, images=20, percents=())
    assert none.zeroed == ()


def test_other_splits(run):
    data = load_data("digits")
    train = ab.inspect(run, split="train", percents=())
    assert train.images == len(data.loaders["train"].dataset)
    assert train.split == "train"
    assert train.top1 == ab.evaluate(run, split="train").top1
    number = next(iter(train.pictures))
    _, label = load_data("digits", splits=("train",)).loaders["train"].dataset.images[number]
    assert train.labels[number] == label


def test_a_module(run, found):
    net = network_of(run).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    config = Run.open(run)[1]
    of_run = {"mean": config.mean, "std": config.std, "eval_batch_size": 100}
    for model in (net, torch.compile(net, backend="eager"), nn.DataParallel(net)):
        one = ab.inspect(model, "digits", percents=(10,), device="cpu", **of_run)
        assert one.top1 == found.top1
        assert one.frozen == found.frozen
        assert one.zeroed == found.zeroed[3:6]
    assert one.title == "ResNetCifar on digits"
    assert all(module.training for module in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_heads_order_of_classes_is_looked_up(make_folder):
    torch.manual_seed(0)
    net = ab.create_model("resnet8", block="ab", num_classes=3)
    folder = str(make_folder({"train/b": 2, "train/c": 2, "val/b": 6, "val/c": 5}, (32, 32)))
    given = {"image_size": 32, "percents": (50,), "device": "cpu"}
    for classes, outputs in ((["a", "b", "c"], [1, 2]), (["c", "a", "b"], [2, 0])):
        one = ab.inspect(net, folder, classes=classes, **given)
        assert (
            one.top1 == ab.evaluate(net, folder, classes=classes, image_size=32, device="cpu").top1
        )
        assert one.gates.classes == tuple(classes)
        counts = one.gates[SITES[0]].class_counts.tolist()
        assert [counts[k] for k in outputs] == [6, 5]


def test_classes_named_by_their_outputs(make_folder):
    """Folders 1 and 4 of a network with five outputs, which always says 4."""
    net = ab.create_model("resnet8", block="ab", num_classes=5)
    nn.init.zeros_(net.fc.weight)
    net.fc.bias.data = torch.tensor([0.0, 0, 0, 0, 9])
    folder = str(make_folder({"train/1": 2, "train/4": 2, "val/1": 1, "val/4": 3}, (32, 32)))
    one = ab.inspect(net, folder, image_size=32, device="cpu", percents=(50,))
    assert one.top1 == one.all_frozen.top1 == one.zeroed[0].outcome.top1 == 75
    assert one.gates.classes == ("1", "4")


@pytest.mark.parametrize("kept", ["in memory", "in files"])
def test_broken_images(make_folder, png, pixels, kept):
    """Those in memory are found when they are read, and have no number; those in files later."""
    torch.manual_seed(0)
    net = ab.create_model("resnet8", block="ab", num_classes=2)
    side = 32 if kept == "in memory" else 80
    good = [pixels(f"{i}", side, side) for i in range(5)]
    broken = [*good[:2], png(good[0])[:60], *good[2:]]
    folders = {"train/a": 2, "train/b": 2, "val/a": broken, "val/b": good}
    folder = str(make_folder(folders, (side, side)))
    given = {"image_size": 32, "percents": (), "device": "cpu", "eval_batch_size": 4}
    for workers in (0, 2):
        with pytest.warns(UserWarning, match=r"left out, .*002.png"):
            one = ab.inspect(net, folder, workers=workers, **given)
        assert one.images == one.gates.images == 10
        assert one.gates[SITES[0]].class_counts.tolist() == [5, 5]
        shown = {int(i) for g in one.gates.values() for i in g.highest.images.flatten()}
        numbers = {*range(10)} if kept == "in memory" else {*range(11)} - {2}
        assert set(one.pictures) <= shown <= numbers
    with pytest.warns(UserWarning, match="left out"):
        few = ab.inspect(net, folder, images=3, **given)
    assert few.images == few.gates.images == (3 if kept == "in memory" else 2)
    with pytest.raises(RuntimeError, match="1 image cannot be read, more than bad_images=0"):
        ab.inspect(net, folder, bad_images=0, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "layer4.0.bn2"}, r"unknown layer 'layer4.0.bn2'; nearest: layer3.0.bn2"),
        ({"layer": "Conv5_1"}, r"unknown layer 'Conv5_1'; nearest: Conv4_1"),
        ({"layer": 4}, "unknown layer 4"),
        ({"percents": (5, 101)}, "percent=101 must be a number from 0 to 100"),
        ({"percents": (float("nan"),)}, "percent=nan must be a number"),
        ({"percents": 5}, r"percents=5 must be several numbers, such as \(5, 10, 25\)"),
        ({"percents": "5,10"}, "percents='5,10' must be several numbers"),
        ({"by": "mean"}, "unknown ranking 'mean'; known: average, image"),
        ({"split": "val"}, "split='val' must be 'test', 'train' or 'validation'"),
        ({"split": "validation"}, "digits has no validation split, and the run held none out"),
        ({"images": 0}, "images=0 must be a whole number >= 1"),
        ({"images": 2.5}, "images=2.5 must be a whole number >= 1"),
        ({"batch": 5}, "unknown option 'batch'"),
        ({"data": "cifar11"}, "unknown data set 'cifar11'"),
        ({"classes": ["a"]}, "classes=... is for a module"),
    ],
)
def test_bad_input_is_told_in_one_line(run, given, message):
    with pytest.raises(ValueError, match=message) as e:
        ab.inspect(run, **given)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300


def test_data_of_other_classes(run, make_folder):
    folders = {f"{split}/{c}": 2 for split in ("train", "val") for c in ("cat", "dog")}
    folder = str(make_folder(folders, (32, 32)))
    with pytest.raises(ValueError, match="class") as e:
        ab.inspect(run, folder)
    assert "\n" not in str(e.value)
    passes = []
    net = ab.create_model("resnet8", block="ab", num_classes=2, in_chans=2)
    net.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=r"takes images of 2 channels, .* has 3"):
        ab.inspect(net, folder, image_size=32, device="cpu")
    net = ab.create_model("resnet8", block="ab", num_classes=10)
    net.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=r"has 10 outputs and .* has 2 classes \(cat, dog\)"):
        ab.inspect(net, folder, image_size=32, device="cpu")
    small = ab.create_model("resnet8", block="ab", num_classes=3, in_chans=1)
    with pytest.raises(ValueError, match="digits has 10 classes, more than the head's 3"):
        ab.inspect(small, "digits", device="cpu")
    assert len(passes) <= 1  # it is told before the pass over the data


def test_networks_without_gates(tmp_path):
    with pytest.raises(ValueError, match="has no gates; give a network that was boosted"):
        ab.inspect(ab.create_model("resnet8", in_chans=1), "digits", device="cpu")
    with pytest.raises(ValueError, match="which data"):
        ab.inspect(ab.create_model("resnet8", block="ab", num_classes=10))
    with pytest.raises(ValueError):
        ab.inspect(tmp_path / "none")
    off = ab.create_model("resnet8", block="ab", in_chans=1)
    with ab.disabled(off), pytest.raises(ValueError, match="none of the gates ran"):
        ab.inspect(off, "digits", device="cpu")


def test_a_run_without_a_block(tmp_path):
    ab.train(model="resnet8", block="none", epochs=1, device="cpu", output=str(tmp_path / "plain"))
    with pytest.raises(ValueError, match=r"trained without a block, so it.*--block ab"):
        ab.inspect(tmp_path / "plain")


def test_a_gate_that_does_not_run_is_named(run):
    net = network_of(run)
    attached(net)[SITES[2]].enabled = False
    one = ab.inspect(net, "digits", percents=(), device="cpu", images=50)
    assert one.gates.silent == (SITES[2],)
    assert list(one.frozen) == SITES[:2]
    assert one.layer == SITES[1]  # of those that ran
    assert f"1 gate never ran: {SITES[2]}." in summary(one)


@forks
def test_two_processes_find_what_one_does(run, found, tmp_path):
    told = json.dumps(found.to_dict())
    few = ab.inspect(run, images=131, percents=())

    def work(rank):
        both = ab.inspect(run, percents=(0, 10, 50))
        a, b = both.to_dict(), json.loads(told)
        for one, other in zip(a.pop("gates"), b.pop("gates"), strict=True):
            assert one["count"] == other["count"]
            np.testing.assert_allclose(one["mean"], other["mean"], atol=2e-6)
            np.testing.assert_allclose(one["class_share"], other["class_share"], atol=1e-5)
        assert a == b
        assert set(both.pictures) == set(found.pictures)
        assert ab.inspect(run, images=131, percents=()).frozen == few.frozen

    ended = [wait(pid) for pid in ranks(work, tmp_path)]
    assert ended == [0, 0], said(tmp_path)


@forks
def test_an_error_in_one_process_is_raised_in_both(run, tmp_path):
    from accuracy_booster.inspection import inspecting

    def work(rank):
        real = inspecting.inputs_of

        def inputs_of(opened, images):
            for number, inputs in enumerate(real(opened, images)):
                if rank == 1 and number == 1:
                    raise OSError("the disk is gone")
                yield inputs

        inspecting.inputs_of = inputs_of
        with pytest.raises((OSError, ValueError), match="the disk is gone") as e:
            ab.inspect(run, percents=())
        assert ("process 1: " in str(e.value)) == (rank == 0)

    ended = [wait(pid) for pid in ranks(work, tmp_path)]
    assert ended == [0, 0], said(tmp_path)
