"""`ab.inspect`: accuracies with changed gates, what it says of a run, and bad input."""

# N images, C channels, K classes

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from support.processes import (
    forks,
    ranks,
    said,
    wait,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.cli import main
from accuracy_booster.data import load_data, normalise
from accuracy_booster.inspection.batches import batches
from accuracy_booster.inspection.opening import inputs_of
from accuracy_booster.inspection.sentences import summary
from accuracy_booster.inspection.trials import paired, trials
from accuracy_booster.inspection.variants import frozen, rounded, zeroed
from accuracy_booster.surgery.attach import attached
from accuracy_booster.training.engine import load_network
from accuracy_booster.training.open_to_measure import open_measured
from accuracy_booster.training.run_directory import Run

SITES = ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]


def numbers(count, start=0):
    return torch.arange(start, start + count)


# variants


def zero(p, percent, which, **more):
    p = torch.tensor(p)
    return zeroed(percent, which, **more)("a", p, numbers(len(p)))


def test_the_right_channels_are_zeroed():
    p = [[0.1, 0.4, 0.3, 0.2], [0.9, 0.6, 0.7, 0.8]]
    assert (
        zero(p, 25, "highest").tolist()
        == torch.tensor([[0.1, 0, 0.3, 0.2], [0, 0.6, 0.7, 0.8]]).tolist()
    )
    assert (
        zero(p, 50, "lowest").tolist()
        == torch.tensor([[0, 0.4, 0.3, 0], [0.9, 0, 0, 0.8]]).tolist()
    )
    assert torch.equal(zero(p, 0, "highest"), torch.tensor(p))
    assert torch.equal(zero(p, 100, "random"), torch.zeros(2, 4))
    # of equal weights those of the first channels
    assert zero([[0.5, 0.5, 0.5, 0.1]], 50, "highest").tolist()[0][:3] == [0, 0, 0.5]
    assert zero([[0.5, 0.2, 0.2, 0.2]], 50, "lowest").tolist()[0][1:3] == [0, 0]


def test_by_average_the_same_channels_go_for_every_image():
    means = {"a": torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)}
    p = torch.rand(5, 3) + 0.1
    for which, gone in (("highest", 1), ("lowest", 0)):
        after = zeroed(34, which, by="average", means=means)("a", p, numbers(5))
        expected = p.clone()
        expected[:, gone] = 0
        assert torch.equal(after, expected)
    assert (zeroed(34, "random", by="average", means=means)("a", p, numbers(5)) == 0).any(
        0
    ).sum() > 1


@pytest.mark.parametrize(
    ("percent", "channels", "count"),
    [
        *((0, 16, 0), (5, 16, 1), (3, 16, 0), (25, 10, 3), (15, 10, 2), (2.5, 20, 1), (10, 64, 6)),
        *((12.5, 4, 1), (12.4, 4, 0), (100, 7, 7), (50, 1, 1), (20, 2048, 410)),
    ],
)
def test_shares_are_rounded_to_whole_channels(percent, channels, count):
    assert rounded(percent, channels) == count
    if channels > 1:
        p = torch.rand(3, channels) + 0.1
        assert (zeroed(percent, "lowest")("a", p, numbers(3)) == 0).sum(1).tolist() == [count] * 3


def test_weights_for_positions():
    p = torch.rand(4, 6, 5, 5) + 0.1
    gone = (zeroed(34, "highest")("a", p, numbers(4)) == 0).flatten(2)
    assert torch.equal(gone.any(2), gone.all(2))
    order = p.mean((2, 3)).argsort(1)[:, -2:].sort(1)[0]
    assert torch.equal(gone[:, :, 0].nonzero()[:, 1].view(4, 2), order)
    # one weight for all channels stays: it ranks none
    shared = torch.rand(4, 1, 5, 5)
    assert zeroed(100, "highest")("a", shared, numbers(4)) is shared
    mean = {"a": torch.arange(6.0, dtype=torch.float64)}
    fixed = frozen(mean, ["a"])("a", p, numbers(4))
    assert torch.equal(fixed, torch.arange(6.0).view(1, 6, 1, 1).expand(4, 6, 5, 5))
    assert frozen(mean, ["a"])("b", p, numbers(4)) is p


def test_random_channels_belong_to_the_image_the_gate_and_the_seed():
    p, change = torch.rand(50, 40) + 0.1, zeroed(20, "random", seed=3)
    whole = change("a", p, numbers(50))
    parts = [change("a", part, numbers(len(part), 7 * i)) for i, part in enumerate(p.split(7))]
    assert torch.equal(torch.cat(parts), whole)
    for other in (change("b", p, numbers(50)), zeroed(20, "random", seed=4)("a", p, numbers(50))):
        assert not torch.equal(other == 0, whole == 0)
    gone = whole == 0
    assert gone.sum(1).tolist() == [8] * 50
    assert len({tuple(row) for row in gone.tolist()}) == 50
    # every channel as often as any other: 20 % of 20,000 images, within 5 standard deviations
    many = zeroed(20, "random")("a", torch.ones(20_000, 10), numbers(20_000))
    assert ((many == 0).double().mean(0) - 0.2).abs().max() < 5 * (0.16 / 20_000) ** 0.5
    pairs = torch.corrcoef((many == 0).double().t()).fill_diagonal_(-1 / 9)
    assert (pairs + 1 / 9).abs().max() < 5 / 20_000**0.5


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan"), float("inf"), "5", None])
def test_percentages_out_of_range(percent):
    with pytest.raises(ValueError, match=r"percent=.* must be a number from 0 to 100"):
        zeroed(percent, "highest")


def test_unknown_words():
    with pytest.raises(ValueError, match="unknown choice of channels 'high'; nearest: highest"):
        zeroed(5, "high")
    with pytest.raises(ValueError, match="unknown ranking 'averages'; nearest: average"):
        zeroed(5, "highest", by="averages")


# accuracies


class Net(nn.Module):
    """Classes that the gates decide."""

    def __init__(self, block="ab", channels=8, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = ab.Recalibrate(channels, block, spatial_size=(4, 4))
        self.mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = ab.Recalibrate(channels, block, spatial_size=(4, 4))
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.second(self.mid(self.first(self.stem(x)).relu())).mean((2, 3)))


@pytest.fixture(params=["ab", "cbam", "design_i"])
def net(request):
    torch.manual_seed(0)
    net = Net(request.param)
    with torch.no_grad():
        for gate in (m for m in net.modules() if isinstance(m, Gate)):
            for parameter in gate.parameters():
                parameter.normal_(std=2)
        net.mid.weight.mul_(5)
        net.head.bias.zero_()
    return net.eval()


X = torch.randn(61, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + torch.randn(
    61, 3, 1, 1, generator=torch.Generator().manual_seed(2)
)
Y = torch.arange(61) % 4


def loader(size=10):
    return [*zip(X.split(size), Y.split(size), strict=True)]


def measured(net, variants, size=10):
    return trials(net, batches(loader(size), net), variants)


def answers(net, change=lambda site, number, p: p):
    """Classes by a network of which hooks put x * change(p) in place of each gate's output."""
    net = copy.deepcopy(net)
    gates = {"first": net.first, "second": net.second}
    for site, block in gates.items():
        for number, gate in enumerate(block):

            def hook(gate, args, y, name=site if number == 0 else f"{site}#{number + 1}"):
                p = change(name, gate, gate.weigh(gate.describe(args[0])))
                return args[0] * (p if p.ndim > 2 else p[:, :, None, None])

            gate.register_forward_hook(hook)
    with torch.no_grad():
        return net(X).argmax(1)


def without(percent, largest):
    def change(site, gate, p):
        if p.shape[1] == 1:
            return p
        score = p.flatten(2).mean(2) if p.ndim > 2 else p
        sign, count = -1 if largest else 1, rounded(percent, p.shape[1])
        orders = [sorted(range(len(row)), key=(sign * row).tolist().__getitem__) for row in score]
        gone = torch.tensor(orders)[:, :count]  # of equal ones the first
        keep = torch.ones_like(score).scatter(1, gone, 0)
        return p * keep.view(*keep.shape, *[1] * (p.ndim - 2))

    return change


def assert_outcome(outcome, before, after):
    right, now = before == Y, after == Y
    assert outcome.top1 == pytest.approx(100 * float(now.double().mean()))
    assert outcome.change == pytest.approx(100 * float(now.double().mean() - right.double().mean()))
    gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
    assert outcome == paired(int(right.sum()), len(Y), gained, lost)
    assert outcome.low < outcome.change < outcome.high


def test_accuracies_are_those_of_networks_with_changed_gates(net):
    gates = ab.gates(net, loader())
    means = {site: gate.mean for site, gate in gates.items()}
    variants = {f"{k} {n}": zeroed(n, k) for k in ("highest", "lowest") for n in (0, 25, 50, 100)}
    variants |= {site: frozen(means, [site]) for site in means}
    variants["all"] = frozen(means, list(means))
    top1, count, outcomes = measured(net, variants)
    before = answers(net)
    assert (top1, count) == (pytest.approx(100 * float((before == Y).double().mean())), 61)
    for name in ("highest 0", "lowest 0"):  # Table 16's first row
        assert (outcomes[name].top1, outcomes[name].change) == (top1, 0)
        assert not outcomes[name].tells
    seen = set()
    for which in ("highest", "lowest"):
        for percent in (25, 50, 100):
            after = answers(net, without(percent, which == "highest"))
            assert_outcome(outcomes[f"{which} {percent}"], before, after)
            seen.add(tuple(after.tolist()))

    def constant(site, gate, p, sites):
        if site not in sites:
            return p
        return means[site].float().view(1, -1, *[1] * (p.ndim - 2)).expand_as(p)

    for name, sites in {**{site: [site] for site in means}, "all": list(means)}.items():
        after = answers(net, partial(constant, sites=sites))
        assert_outcome(outcomes[name], before, after)
        seen.add(tuple(after.tolist()))
    assert len(seen) > 4  # they do change the answers
    assert all("weigh" not in module.__dict__ for module in net.modules())
    assert torch.equal(answers(net), before)


def test_accuracies_do_not_depend_on_the_batches(net):
    variants = {which: zeroed(30, which, seed=1) for which in ("highest", "lowest", "random")}
    first = measured(net, variants, 61)
    assert measured(net, variants, 7) == measured(net, variants, 1) == first
    other = {"random": zeroed(30, "random", seed=2)}
    assert measured(net, other)[2]["random"] != first[2]["random"] or net.first[0].recipe != "ab"


def test_constants_in_the_network_are_what_freezing_measures():
    """`ab.merge` makes a network of constants; its answers are the frozen network's."""
    torch.manual_seed(0)
    net = ab.create_model("resnet8", block="ab", num_classes=4).eval()
    for gate in attached(net).values():
        nn.init.normal_(gate[0].bn.weight, std=2)
    x = torch.randn(40, 3, 32, 32)
    y = torch.arange(40) % 4
    gates = ab.gates(net, [x])
    plain = copy.deepcopy(net)
    for site, gate in gates.items():
        block = attached(plain)[site]
        block[0].weigh = lambda d, mean=gate.mean: mean.float().expand(len(d[0]), -1)
    means = {site: gate.mean for site, gate in gates.items()}
    found = trials(net, batches([(x, y)], net), {"all": frozen(means, list(means))})
    with torch.no_grad():
        expected = 100 * float((plain(x).argmax(1) == y).double().mean())
    assert found[2]["all"].top1 == pytest.approx(expected)


def test_accuracies_need_the_class_of_each_image(net):
    for wrong in ([X], [(X, torch.where(Y == 1, -1, Y))], [(X, torch.rand(61))]):
        with pytest.raises(ValueError, match=r"need the class of each image.*labels >= 0"):
            trials(net, batches(wrong, net), {})
    with pytest.raises(ValueError, match="yields no images"):
        trials(net, batches([], net), {})


def test_the_interval_is_that_of_matched_pairs():
    """For many images it is the mean of -1, 0 and 1 with its standard error."""
    n, gained, lost = 40_000, 900, 1300
    found = paired(30_000, n, gained, lost)
    values = np.repeat([1, -1, 0], [gained, lost, n - gained - lost])
    half = 1.959964 * values.std() / n**0.5
    assert found.change == pytest.approx(100 * values.mean())
    assert found.low == pytest.approx(100 * (values.mean() - half), abs=0.005)
    assert found.high == pytest.approx(100 * (values.mean() + half), abs=0.005)
    assert found.tells
    none = paired(50, 100, 0, 0)
    assert none.change == 0
    assert none.low == -none.high < -1
    # and by hand, for few: b=3.5 and c=1.5 of 12
    few = paired(5, 10, 3, 1)
    half = 1.959964 * ((5 / 12 - (2 / 12) ** 2) / 12) ** 0.5
    assert (few.low, few.high) == pytest.approx((100 * (1 / 6 - half), 100 * (1 / 6 + half)))


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.03), (0.005, 0.0)])
def test_the_interval_holds_the_true_change_as_often_as_it_says(shares):
    generator, n = np.random.default_rng(0), 200
    counts = generator.multinomial(n, [*shares, 1 - sum(shares)], 4000)
    true = 100 * (shares[0] - shares[1])
    found = [paired(100, n, int(b), int(c)) for b, c, _ in counts]
    held = np.mean([one.low <= true <= one.high for one in found])
    assert held > 0.94


# a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A ResNet-8 with AB, trained on digits for one epoch; nobody changes it."""
    where = tmp_path_factory.mktemp("inspect") / "run"
    given = {"model": "resnet8", "block": "ab", "epochs": 1, "device": "cpu", "compile": "off"}
    ab.train(**given, batch_size=64, eval_batch_size=100, output=str(where))
    return where


@pytest.fixture(scope="module")
def found(run):
    return ab.inspect(run, percents=(0, 10, 50))


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


def test_everything_is_told_as_json(found):
    told = found.to_dict()
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    assert again["top1"] == found.top1
    assert [gate["site"] for gate in again["gates"]] == SITES
    assert again["frozen"][SITES[0]]["low"] == found.frozen[SITES[0]].low
    assert len(again["zeroed"]) == 9
    assert again["images"] == sum(again["gates"][0]["histogram"]) / again["gates"][0]["channels"]


def test_the_first_images_and_another_ranking(run, found):
    few = ab.inspect(run, images=130, percents=(50,), by="average", layer="Conv2_1", workers=0)
    assert (few.images, few.gates.images, few.by, few.layer) == (130, 130, "average", SITES[0])
    first = load_data("digits").loaders["test"].dataset
    labels = torch.tensor([first[i][1] for i in range(130)])
    assert torch.equal(few.gates[SITES[0]].class_counts, labels.bincount(minlength=10))
    assert not few.all_frozen.low < few.all_frozen.high < few.all_frozen.low
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
    with pytest.raises(RuntimeError, match="images cannot be read, more than bad_images=0"):
        ab.inspect(net, folder, bad_images=0, **given)


# bad input


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
    net = network_of(run)
    net.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=r"takes images of 1 channels, .* has 3"):
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


def test_gates_that_alone_do_nothing_are_frozen_together(run):
    one = ab.inspect(run, images=40, percents=())
    assert list(one.idle) == [site for site, found in one.frozen.items() if not found.tells]
    assert len(one.idle) > 1  # 40 images tell little
    means, opened = {s: g.mean for s, g in one.gates.items()}, open_measured(run)
    few = inputs_of(opened, 40)
    _, _, outcomes = trials(opened.network, few, {"x": frozen(means, one.idle)})
    assert one.idle_frozen == outcomes["x"]
    assert one.to_dict()["idle"] == list(one.idle)
    needed = replace(one.all_frozen, low=1.0, high=2.0)
    part = replace(one, frozen={**one.frozen, "more": needed})
    assert any("frozen together, change it by" in line for line in summary(part))


# two processes


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


# the command


def command(capsys, *words):
    code = main(["inspect", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command(run, found, capsys, tmp_path):
    report = tmp_path / "report.html"
    code, out, _ = command(capsys, run, "--percents", "0,10,50", "--output", report)
    assert code == 0
    assert report.read_text().startswith("<!")
    for line in (
        f"The network is right on {found.top1:.2f} %",
        "Conv4_1",
        "random: top-1 %",
        str(report),
    ):
        assert line in out
    code, out, _ = command(capsys, run, "--percents=0,10,50", "--output", report, "--json")
    told = json.loads(out)
    assert told.pop("report") == str(report)
    assert (code, told) == (0, json.loads(json.dumps(found.to_dict())))
    code, out, _ = command(capsys, run, "--percents", "5", "--images", 20, "--layer", "conv2_1")
    assert code == 0
    assert "zeroed" in out
    code, out, _ = command(capsys, run, "--percents", "none", "--images", 20)
    assert code == 0
    assert "zeroed" not in out
    assert (run / "gates.html").is_file()
    more = ("--percents", "none", "--separate", "3,8")
    code, out, _ = command(capsys, run, *more, "--output", report, "--json")
    told = json.loads(out)["separating"]
    wanted = found.gates.separating("3", "8")
    assert [(s["site"], s["channel"]) for s in told] == [(s.site, s.channel) for s in wanted]
    code, out, _ = command(capsys, run, *more, "--output", report)
    assert f"{wanted[0].distance:+.2f}" in out
    assert "mean, 3" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "Conv9_1"], "unknown layer 'Conv9_1'"),
        (["--percents", "5,x"], "--percents='5,x' must be numbers such as 5,10,25, or none"),
        (["--percents", "nan"], "percent=nan must be a number from 0 to 100"),
        (["--by", "mean"], "unknown ranking 'mean'"),
        (["--split", "val"], "split='val' must be"),
        (["--images", "0"], "images=0 must be a whole number >= 1"),
        (["--images", "many"], "--images"),
        (["--output", "."], ". is a directory; give the file to write, such as gates.html"),
        (["--layer", "4"], "unknown layer '4'"),
        (["--separate", "3"], "--separate='3' names 1 classes; give two, as cat,dog"),
        (["--separate", "3,cat"], "unknown class 'cat'; known: 0, 1, 2"),
        (["--layers", "a"], "unknown option '--layers'"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(run, capsys, words, message):
    code, out, err = command(capsys, run, *words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_the_commands_help(capsys):
    with pytest.raises(SystemExit) as e:
        main(["inspect", "--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0
    for word in ("RUN", "--layer", "--percents", "--by", "--images", "--output", "--split"):
        assert word.lower() in out.lower()
