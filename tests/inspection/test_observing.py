"""`ab.gates`: the weights that it reads, its statistics of them, and what it leaves alone."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torchvision
from support.processes import (
    forks,
    ranks,
    said,
    wait,
)
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.inspection.accumulating import MOST, Accumulator
from accuracy_booster.inspection.gate_statistics import BINS, Gates

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Net(nn.Module):
    """Two convolutions with a block after each, and a head: the blocks are a user's own modules."""

    def __init__(self, block="ab", channels=6, classes=3, **more):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = ab.Recalibrate(channels, block, spatial_size=(8, 8), **more)
        self.mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = ab.Recalibrate(channels, block, spatial_size=(8, 8), **more)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.second(self.mid(self.first(self.stem(x)).tanh()))
        return self.head(x.mean((2, 3)))


def lively(model, seed=0):
    """Parameters and running statistics for which no two images have the same weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in (m for m in model.modules() if isinstance(m, Gate)):
            for name, tensor in [*gate.named_parameters(), *gate.named_buffers()]:
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                    tensor.copy_(noise.abs() + 0.1 if "var" in name else noise)
    return model


def images(count=13, size=8, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, channels, 1, 1, generator=generator)
    return torch.randn(count, channels, size, size, generator=generator) + own


def weights_by_hook(model, batches):
    """{name of a gate module: p[N, C]}, each the quotient of what comes out of it and goes in."""
    model = copy.deepcopy(model).double().eval()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Gate):
            module.register_forward_hook(
                lambda m, args, y, name=name: found.setdefault(name, []).append(
                    (y / args[0]).flatten(2).mean(2)
                )
            )
    with torch.no_grad():
        for x in batches:
            model(x.double())
    return {name: torch.cat(ps) for name, ps in found.items()}


def assert_gates_are(gates, expected, **close):
    """Means and spreads are those of the weights; gates are told apart by their order."""
    close = close or {"rtol": 1e-4, "atol": 1e-5}
    assert len(gates) == len(expected) > 0
    assert max(float(gate.spread.max()) for gate in gates.values()) > 0.01  # there is what to see
    for (site, gate), (name, p) in zip(gates.items(), expected.items(), strict=True):
        one = p if gate.channels > 1 else p.mean(1, keepdim=True)
        assert gate.count == len(p), (site, name)
        torch.testing.assert_close(gate.mean, one.mean(0), **close)
        torch.testing.assert_close(gate.spread, one.std(0, correction=0), **close)


# statistics


@pytest.fixture(params=[1.0, 2.0])
def stored(request):
    """Weights [N, C], labels [N] and the scale, with values in every region and ties."""
    generator = np.random.default_rng(0)
    p = generator.beta(0.5, 0.7, (203, 5))
    p[:, 1] = 0.25  # a constant
    p[:, 2] = np.round(p[:, 2], 1)  # ties
    p[:, 3] *= 0.04  # dead
    labels = generator.integers(0, 4, 203)
    p[:, 4] = 0.2 + 0.15 * labels + 0.05 * generator.random(203)  # told by the class
    return torch.tensor(p * request.param), torch.tensor(labels), request.param


def gathered(p, labels, scale, order, sizes):
    one = Accumulator(p.shape[1], scale)
    for part in torch.as_tensor(order).split(sizes):
        one.add(p[part], None if labels is None else labels[part], part)
    return one


def result(accumulator):
    about = {"site": "a", "recipe": "r", "width": accumulator.channels, "spatial_size": None}
    return accumulator.result(**about, per_position=False, shared=False)


def assert_same(one, other):
    for name in ("mean", "spread", "class_means", "class_share"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)
    for name in ("histogram", "class_counts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for ends in ("highest", "lowest"):
        for name in ("weights", "images"):
            assert torch.equal(
                getattr(getattr(one, ends), name), getattr(getattr(other, ends), name)
            )
    assert one.count == other.count


def test_statistics_are_those_of_the_stored_weights(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 17))
    x, y = p.numpy(), labels.numpy()
    np.testing.assert_allclose(gate.mean, x.mean(0), **EXACT)
    np.testing.assert_allclose(gate.spread, x.std(0), **EXACT)
    for c in range(x.shape[1]):
        counts, _ = np.histogram(x[:, c], BINS, (0, scale))
        # at an edge the two may round differently: only the rounded column has values there
        moved = np.abs(counts - gate.histogram[c].numpy()).sum()
        assert moved == 0 or c == 2
        assert float(gate.entropy[c]) == pytest.approx(
            scipy.stats.entropy(gate.histogram[c].numpy(), base=2), abs=1e-12
        )
        groups = [x[y == k, c] for k in range(4)]
        np.testing.assert_allclose(gate.class_means[:, c], [g.mean() for g in groups], **EXACT)
    np.testing.assert_allclose(gate.below, (x < 0.05 * scale).mean(0), **EXACT)
    np.testing.assert_allclose(gate.above, (x >= 0.95 * scale).mean(0), **EXACT)
    assert gate.saturated == pytest.approx(((x < 0.05 * scale) | (x >= 0.95 * scale)).mean())
    assert gate.dead == [3]
    assert 1 in gate.constant
    assert gate.class_counts.tolist() == np.bincount(y).tolist()


def test_the_share_that_the_class_explains_is_epsilon_squared(stored):
    """By way of scipy's F of the one-way analysis of variance."""
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 50))
    n, k = len(p), 4
    for c in (0, 2, 3, 4):
        groups = [p[labels == j, c].numpy() for j in range(k)]
        f = float(scipy.stats.f_oneway(*groups).statistic)
        expected = max(0.0, (f - 1) * (k - 1) / (f * (k - 1) + n - k))
        assert float(gate.class_share[c]) == pytest.approx(expected, abs=1e-9)
    assert float(gate.class_share[1]) == 0  # a constant: rounding is no variance
    assert float(gate.class_share[4]) > 0.9
    variance = gate.spread.square()
    expected = float((gate.class_share * variance).sum() / variance.sum())
    assert gate.explained == pytest.approx(expected)


def test_extremes_are_the_first_of_equal_weights(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.randperm(len(p)), 29))
    for ends, sign in ((gate.highest, -1), (gate.lowest, 1)):
        for c in range(p.shape[1]):
            order = sorted(range(len(p)), key=lambda i, c=c, s=sign: (s * float(p[i, c]), i))[:MOST]
            assert ends.images[c].tolist() == order
            assert torch.equal(ends.weights[c], p[order, c])


def test_the_order_and_the_size_of_batches_do_not_matter(stored):
    p, labels, scale = stored
    one = result(gathered(p, labels, scale, torch.arange(len(p)), len(p)))
    for seed, sizes in ((0, 1), (1, 64)):
        order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
        assert_same(result(gathered(p, labels, scale, order, sizes)), one)


def test_merged_accumulators_are_one(stored):
    p, labels, scale = stored
    labels = labels.clone()
    labels[:60].clamp_(max=1)  # the first has seen fewer classes
    parts = [torch.arange(60), torch.arange(60, 61), torch.arange(0), torch.arange(61, len(p))]
    merged = Accumulator(p.shape[1], scale)
    for part in parts:
        one = Accumulator(p.shape[1], scale)
        if len(part):
            one.add(p[part], labels[part], part)
        merged.merge(one)
    whole = gathered(p, labels, scale, torch.arange(len(p)), 10)
    assert_same(result(merged), result(whole))


def test_small_spreads_around_a_large_mean_are_not_lost():
    p = 1 + 1e-7 * torch.randn(1000, 2, dtype=torch.float64)
    gate = result(gathered(p, None, 2.0, torch.arange(1000), 7))
    torch.testing.assert_close(gate.spread, p.std(0, correction=0), rtol=1e-6, atol=0)
    assert gate.class_share is None
    assert gate.explained is None


def test_classes_that_tell_channels_apart(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 50))
    (found,) = gate.separating(3, 0, most=1)
    one, other = (float(p[labels == k, 4].mean()) for k in (3, 0))
    assert (found.channel, found.one, found.other) == (4, *map(pytest.approx, (one, other)))
    spread = float(p[:, 4].std(correction=0))
    assert found.distance == pytest.approx((one - other) / spread)
    names = tuple("abcde")
    gates = Gates({"x": gate, "y": gate}, network="n", images=len(p), classes=names)
    assert [s.channel for s in gates.separating("d", "a", most=2)] == [4, 4]
    with pytest.raises(ValueError, match=r"unknown class 'f'; known: a, b, c, d, e"):
        gates.separating("f", 0)
    with pytest.raises(ValueError, match="class 4 has no images"):
        gate.separating(4, 0)


def test_the_memory_does_not_grow_with_the_images():
    net, held = nn.Sequential(ab.Recalibrate(2, "ab", spatial_size=1)), []

    def loader():
        for i in range(1001):
            if i in (20, 1000):
                gc.collect()  # what other tests have left in cycles
                held.append(sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor))
            yield torch.full((1, 2, 1, 1), i / 1000), torch.tensor([i % 2])

    found = ab.gates(net, loader())
    assert found.images == found["0"].count == 1001
    assert held[0] == held[1] > 0
    one = Accumulator(2, 1.0)
    for i in range(20_000 // 100):
        one.add(torch.rand(100, 2), torch.arange(100) % 3, torch.arange(100) + 100 * i)
    sizes = [t.numel() for t in vars(one).values() if isinstance(t, torch.Tensor)]
    sizes += [t.numel() for ends in one.extremes.values() for t in (ends.weights, ends.images)]
    assert one.count == 20_000
    assert sum(sizes) < 2 * (2 + BINS + 4 * MOST + 3 * 3 + 3)


# the weights that are read


@pytest.mark.parametrize("name", ab.list_recipes())
def test_weights_are_what_each_recipe_multiplies_with(name):
    torch.manual_seed(0)
    net = lively(Net(name))
    batches = images(9, seed=3).split(4)
    gates = ab.gates(net, batches)
    assert_gates_are(gates, weights_by_hook(net, batches))
    sites = ["first", "first#2", "second", "second#2"] if name == "cbam" else ["first", "second"]
    assert list(gates) == sites
    for gate in gates.values():
        assert gate.scale == ab.recipe(name).gates[0].scale
        assert gate.shared == gate.site.endswith("#2")
        assert (gate.width, gate.spatial_size) == (6, (8, 8))
        assert gate.per_position == (gate.shared or name in POSITIONS)
    assert set(gates.means()) == {s for s in sites if "#2" not in s and name not in POSITIONS}


POSITIONS = ("design_i", "design_j", "design_k", "design_l", "dw3_bn", "dw9_bn")


def test_a_scale_of_two():
    torch.manual_seed(0)
    net = lively(Net("gap | dense(groups=C) | bn | sigmoid(scale=2)"))
    batches = images(40).split(20)
    gates = ab.gates(net, batches)
    assert_gates_are(gates, weights_by_hook(net, batches))
    assert gates["first"].scale == 2
    assert float(gates["first"].highest.weights.max()) > 1.05
    for site, p in zip(gates, weights_by_hook(net, batches).values(), strict=True):
        expected = ((p < 0.1) | (p > 1.9)).double().mean()
        assert gates[site].saturated == pytest.approx(float(expected))


class Twice(nn.Module):
    """One gated module runs twice in a pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.gate = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, x):
        return self.gate(self.conv(self.gate(self.conv(x)).relu())).mean((2, 3))


def test_a_gate_that_runs_twice_has_the_mean_of_both_passes():
    torch.manual_seed(0)
    net = lively(Twice())
    (gate,) = ab.gates(net, [images(5)]).values()
    (p,) = weights_by_hook(net, [images(5)]).values()
    first, second = p.split(5)
    assert (first - second).abs().max() > 0.01
    torch.testing.assert_close(gate.mean, ((first + second) / 2).mean(0), rtol=1e-4, atol=1e-5)
    assert (gate.count, gate.highest.images.shape) == (5, (3, 5))


class Regions(nn.Module):
    """Some gates see several maps of an image, or maps that belong to no image."""

    def __init__(self):
        super().__init__()
        self.frames = ab.Recalibrate(3, "ab", spatial_size=(8, 8))
        self.regions = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, x):  # [N, 2, 3, 8, 8]
        y = self.frames(x.flatten(0, 1))
        return self.regions(torch.cat([y, y[:1]])).mean()


def test_maps_that_are_not_one_for_each_image():
    net = lively(Regions())
    x = torch.randn(4, 2, 3, 8, 8)
    gates = ab.gates(net, [(x, torch.tensor([0, 1, 0, 1]))])
    frames, regions = weights_by_hook(net, [x]).values()
    torch.testing.assert_close(gates["frames"].mean, frames.mean(0), rtol=1e-4, atol=1e-5)
    by_image = frames.unflatten(0, (4, 2)).mean(1)
    torch.testing.assert_close(
        gates["frames"].highest.weights[:, 0], by_image.amax(0), rtol=1e-4, atol=1e-5
    )
    assert gates["frames"].count == 4
    assert gates["frames"].class_counts.tolist() == [2, 2]
    torch.testing.assert_close(gates["regions"].mean, regions.mean(0), rtol=1e-4, atol=1e-5)
    assert gates["regions"].count == 9
    assert gates["regions"].highest is None
    assert gates["regions"].class_means is None


def boosted(name, block="ab"):
    torch.manual_seed(0)
    if name.startswith("timm/"):
        full = {"zero_init_last": False} if "resnet" in name else {}  # 0 / 0
        net = timm.create_model(name[5:], num_classes=5, **full)
    else:
        net = torchvision.models.get_model(name, num_classes=5)
    return lively(ab.boost(net, block, example=torch.zeros(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("resnet18", "ab"),
        ("resnet18", "cbam"),
        ("resnext50_32x4d", "ab_plus"),
        ("timm/convnext_atto", "ab"),  # channels last
        ("timm/resnet10t", "se"),
    ],
)
def test_networks_of_other_libraries(name, block):
    net = boosted(name, block)
    batches = images(6, size=32).split(4)
    assert_gates_are(ab.gates(net, batches), weights_by_hook(net, batches), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_detector_of_ultralytics(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    net = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    net = lively(ab.boost(net, "ab", example=torch.zeros(1, 3, 64, 64)))
    x = 30 * images(3, size=64)
    boxes = {"cls": torch.zeros(5, 1), "bboxes": torch.rand(5, 4), "batch_idx": torch.zeros(5)}
    gates = ab.gates(net, [{"img": x, **boxes}])
    assert_gates_are(gates, weights_by_hook(net, [x]), rtol=1e-3, atol=1e-4)
    assert all(gate.class_means is None for gate in gates.values())


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_hugging_face_on_dicts():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    net = lively(ab.boost(transformers.ResNetForImageClassification(config), "ab"))
    x, y = images(6, size=32), torch.tensor([0, 1, 2, 0, 1, 2])
    dicts = [{"pixel_values": a, "labels": b} for a, b in zip(x.split(4), y.split(4), strict=True)]
    gates = ab.gates(net, dicts, classes=["a", "b", "c"])
    assert_gates_are(gates, weights_by_hook(net, x.split(4)), rtol=1e-3, atol=1e-4)
    assert gates.classes == ("a", "b", "c")
    assert all(gate.class_counts.tolist() == [2, 2, 2] for gate in gates.values())


def test_fused_materialised_and_wrapped_networks_give_the_same():
    net = boosted("resnet18")
    batches = images(5, size=32).split(3)
    expected = weights_by_hook(net, batches)
    fused = ab.fuse(copy.deepcopy(net), example=torch.zeros(1, 3, 32, 32))
    assert ab.fast_path(fused).taken == 8
    wrapped = {
        "fused": fused,
        "materialised": ab.materialize(net)[0],
        "parallel": nn.DataParallel(net),
        "averaged": torch.optim.swa_utils.AveragedModel(net),
        "compiled": torch.compile(net, backend="eager"),
    }
    plain = ab.gates(net, batches)
    assert next(iter(plain)) == "layer1.0.bn2"
    for name, other in wrapped.items():
        gates = ab.gates(other, batches)
        assert list(gates) == list(plain), name
        assert_gates_are(gates, expected)
        # layer by layer, whatever it is: to the last bit
        assert all(torch.equal(gates[site].mean, plain[site].mean) for site in plain), name


def test_nothing_is_compiled_for_the_pass():
    """A gate that is read is another one for a compiler, and it would start anew."""
    counted = []

    def backend(graph, inputs):
        counted.append(graph)
        return graph

    net = Net().eval()
    net.mid = torch.compile(net.mid, backend=backend)
    net.compile(backend=backend)
    with torch.no_grad():
        net(images(4))
    before = len(counted)
    assert before
    assert len(ab.gates(net, [images(4)])) == 2
    assert len(counted) == before


def test_gates_come_in_the_order_in_which_they_run():
    class Reversed(Net):
        def forward(self, x):
            return self.head(self.first(self.second(self.stem(x))).mean((2, 3)))

    gates = ab.gates(Reversed(), [images(4)])
    assert list(gates) == ["second", "first"]
    assert gates.places() == {"second": "Conv2_1", "first": "Conv2_2"}
    assert gates.find() == "second"


def test_networks_of_sixteen_bits():
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        net = lively(Net("design_i")).to(dtype)
        gates = ab.gates(net, [images(6)])
        expected = weights_by_hook(net, [images(6)])
        assert_gates_are(gates, expected, rtol=0.05, atol=0.02)
        assert gates["first"].mean.dtype is torch.float64
        # the mean over 64 positions is not rounded to 16 bits
        lows = gates["first"].lowest.weights
        assert not torch.equal(lows, lows.to(dtype).double())


# loaders


@pytest.fixture
def net():
    torch.manual_seed(0)
    return lively(Net())


X, Y = images(13), torch.arange(13) % 3


def pairs(x=X, y=Y, size=5):
    return [*zip(x.split(size), y.split(size), strict=True)]


def one_hot(mixed=0.0):
    return nn.functional.one_hot(Y, 3).float() * (1 - mixed) + mixed / 3


LOADERS = {
    "pairs": lambda: pairs(),
    "lists": lambda: [list(pair) for pair in pairs()],
    "generator": lambda: (pair for pair in pairs()),
    "dicts": lambda: [{"image": x, "label": y} for x, y in pairs()],
    "dicts of another name": lambda: [{"x": x, "targets": y, "name": ["a"]} for x, y in pairs()],
    "more items": lambda: [(x, y, torch.arange(len(x))) for x, y in pairs()],
    "one-hot": lambda: pairs(y=one_hot()),
    "whole one-hot": lambda: pairs(y=nn.functional.one_hot(Y, 3)),
    "mixed": lambda: pairs(y=one_hot(0.3)),
    "a column": lambda: pairs(y=Y[:, None]),
    "lists of numbers": lambda: [(x, y.tolist()) for x, y in pairs()],
    "small numbers": lambda: pairs(y=Y.to(torch.uint8)),
    "float64": lambda: pairs(X.double()),
    "one at a time": lambda: pairs(size=1),
    "two workers": lambda: DataLoader(TensorDataset(X, Y), 5, num_workers=2),
}


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("kind", LOADERS)
def test_loaders_of_images_and_classes(net, kind):
    gates = ab.gates(net, LOADERS[kind]())
    expected = weights_by_hook(net, [X])
    assert_gates_are(gates, expected)
    assert gates.images == 13
    for gate, p in zip(gates.values(), expected.values(), strict=True):
        assert gate.class_counts.tolist() == [5, 4, 4]
        means = torch.stack([p[k == Y].mean(0) for k in range(3)])
        torch.testing.assert_close(gate.class_means, means, rtol=1e-4, atol=1e-5)
        assert torch.equal(gate.highest.images[:, 0], p.argmax(0))


def test_sixteen_bit_images_are_given_the_networks_type(net):
    assert_gates_are(ab.gates(net, [X.half()]), weights_by_hook(net, [X.half()]))


MULTI = torch.tensor([[1.0, 1, 0]]).repeat(13, 1)
UNLABELLED = {
    "tensors": lambda: X.split(5),
    "images in a tuple": lambda: [(x,) for x in X.split(5)],
    "detection": lambda: [(x, [{"boxes": torch.rand(2, 4)} for _ in x]) for x in X.split(5)],
    "one without": lambda: pairs(y=torch.where(torch.arange(13) == 7, -1, Y)),
    "ignored": lambda: pairs(y=torch.where(torch.arange(13) < 7, -100, Y)),
    "none": lambda: pairs(y=torch.full((13,), -1)),
    "numbers to fit": lambda: pairs(y=torch.rand(13)),
    "masks": lambda: pairs(y=torch.zeros(13, 8, 8, dtype=torch.long)),
    "several classes each": lambda: pairs(y=MULTI),
    "several classes each, whole": lambda: pairs(y=MULTI.long()),
    "words": lambda: [(x, ["cat"] * len(x)) for x in X.split(5)],
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_loaders_without_the_class_of_every_image(net, kind):
    gates = ab.gates(net, UNLABELLED[kind]())
    assert_gates_are(gates, weights_by_hook(net, [X]))
    for gate in gates.values():
        assert gate.class_means is gate.class_counts is gate.class_share is None


def test_the_first_images_alone(net):
    for count in (1, 5, 7, 13, 100):
        gates = ab.gates(net, pairs(), images=count)
        assert gates.images == min(count, 13)
        assert_first = weights_by_hook(net, [X[:count]])["first.0"]
        torch.testing.assert_close(gates["first"].mean, assert_first.mean(0), rtol=1e-4, atol=1e-5)
        assert int(gates["first"].class_counts.sum()) == min(count, 13)
    read = []

    def endless():
        while True:
            read.append(1)
            yield X

    assert ab.gates(net, endless(), images=26).images == 26
    assert len(read) == 2


def test_names_must_fit_the_labels(net):
    names = ("cat", "dog", "eel", "fox")  # no image is of the last
    assert ab.gates(net, pairs(), classes=names).classes == names
    assert ab.gates(net, pairs()).classes == ("0", "1", "2")
    with pytest.raises(ValueError, match="label 2, and classes= has 1 names; name all"):
        ab.gates(net, pairs(), classes=["cat"])
    with pytest.raises(ValueError, match="names 'cat' twice"):
        ab.gates(net, pairs(), classes=["cat", "dog", "cat"])


def test_labels_that_are_no_classes_are_told(net):
    with pytest.warns(UserWarning, match=r"labels, \[5\], are no class numbers \[13\]"):
        gates = ab.gates(net, [(X, torch.arange(5))], classes=["a", "b"])
    with pytest.raises(ValueError, match="the images have no labels"):
        gates.separating("a", "b")
    labelled = ab.gates(net, pairs(), classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="'a' and 'a' are one class"):
        labelled.separating("a", "a")


def test_gates_are_a_mapping(net):
    gates = ab.gates(net, pairs())
    assert "nowhere" not in gates
    assert "" not in gates
    assert gates.get("nowhere") is None
    with pytest.raises(KeyError, match="unknown layer 'nowhere'"):
        gates["nowhere"]
    with pytest.raises(ValueError, match="unknown layer 'nowhere'"):
        gates.find("nowhere")
    with pytest.raises(ValueError, match="loader=None cannot be iterated"):
        ab.gates(net, None)


class Two(nn.Module):
    """An image and a number for each of its channels."""

    def __init__(self):
        super().__init__()
        self.gate = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, image, shift):
        return self.gate(image + shift[:, :, None, None]).mean()


def test_a_network_with_two_inputs():
    net, shift = lively(Two()), torch.randn(13, 3)
    expected = weights_by_hook(nn.Sequential(net.gate), [X + shift[:, :, None, None]])
    example = (X[:1], shift[:1])
    rows = [*zip(X.split(5), shift.split(5), Y.split(5), strict=True)]
    named = [{"shift": b, "image": a, "labels": c, "other": 1} for a, b, c in rows]
    by_name = dict(zip(("image", "shift"), example, strict=True))
    for loader, given in ((rows, example), (named, by_name), (named, None)):
        gates = ab.gates(net, loader, example=given, images=12)
        assert gates["gate"].class_counts.tolist() == [4, 4, 4]
        assert_gates_are(ab.gates(net, loader, example=given), expected)
    assert ab.gates(net, [row[:2] for row in rows], example=example)["gate"].class_means is None
    with pytest.raises(ValueError, match="has 1 items, and example= has 2 inputs; let the loader"):
        ab.gates(net, [X], example=example)
    with pytest.raises(ValueError, match="names 'shift', which a batch of the loader lacks"):
        ab.gates(net, [{"image": X}], example=by_name)
    with pytest.raises(ValueError, match=r"example= names inputs.*\[13, 3, 8, 8\]; let the loader"):
        ab.gates(net, [X], example=by_name)
    with pytest.raises(ValueError, match=r"Two cannot take .*\[13, 3, 8, 8\].*give.*example="):
        ab.gates(net, [X])


# what cannot be done


def poisoned(value):
    net = lively(Net())
    net.second[0].bn.bias.data[2] = value
    return net


BYTES = (X * 10).clamp(0, 255).to(torch.uint8)
WRONG = {
    "uint8": (lambda: (Net(), [BYTES]), "images of uint8.*x.float"),
    "int64": (lambda: (Net(), [BYTES.long()]), "images of int64.*x.float"),
    "channels": (
        lambda: (Net(), [images(2, channels=1)]),
        r"Net cannot take .*\[2, 1, 8, 8\]",
    ),
    "no batch": (lambda: (Net(), [X[0]]), r"\[3, 8, 8\]"),
    "a tensor": (
        lambda: (Net(), X),
        r"one tensor, .*; give batches, such as \[im",
    ),
    "arrays": (lambda: (Net(), [X.numpy()]), "it must be tensors: images"),
    "a dict of others": (lambda: (Net(), [{"pictures": X}]), "which of pictures"),
    "nothing": (lambda: (Net(), []), "yields no images"),
    "empty": (lambda: (Net(), [(X[:0], Y[:0])]), "yields no images"),
    "plain": (lambda: (torchvision.models.resnet18(), [X]), "has no gates; give a network"),
    "no module": (lambda: ("resnet18", [X]), "expected an nn.Module, got str"),
    "meta": (lambda: (Net().to("meta"), [X]), "Net is on the meta device.*load its weights"),
    "NaN": (lambda: (poisoned(float("nan")), [X]), "the gate at 'second' gives weights.*NaN"),
    "NaN image": (lambda: (Net(), [X * float("nan")]), "the gate at 'first' gives weights.*NaN"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_errors_say_what_to_give(kind):
    make, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as e:
        ab.gates(*make())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3"])
def test_a_number_of_images_that_is_none(net, count):
    with pytest.raises(ValueError, match=f"images={count!r} must be a whole number >= 1"):
        ab.gates(net, pairs(), images=count)


def test_a_folded_network(net):
    model = boosted("resnet18").eval()
    folded = ab.fold(model, example=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"folded for inference.*give the network that was"):
        ab.gates(folded, [images(2, size=32)])


def test_infinite_logits_are_saturated_weights(net):
    gate = ab.gates(poisoned(float("inf")), [X])["second"]
    assert float(gate.mean[2]) == 1
    assert float(gate.above[2]) == 1


def test_gates_that_do_not_run(net):
    net.second.enabled = False
    gates = ab.gates(net, pairs())
    assert (list(gates), gates.silent) == (["first"], ("second",))
    net.first.enabled = False
    gates = ab.gates(net, pairs())
    assert (list(gates), gates.silent) == ([], ("first", "second"))
    with pytest.raises(ValueError, match="none of the gates ran"):
        gates.find()


def test_names_of_layers():
    gates = ab.gates(boosted("resnet18", "cbam"), [images(2, size=32)])
    assert gates.places()["layer3.1.bn2"] == "Conv4_2"
    assert gates.find() == "layer4.0.bn2"
    for name in ("layer3.1.bn2", "layer3.1", "Conv4_2", "conv4_2"):
        assert gates.find(name) == "layer3.1.bn2"
    assert gates.find("layer3.1.bn2#2") == "layer3.1.bn2#2"
    assert gates["Conv4_2"] is gates["layer3.1"]
    with pytest.raises(ValueError, match=r"unknown layer 'layer3.2.bn2'; nearest:.*layer3.1.bn2"):
        gates.find("layer3.2.bn2")
    with pytest.raises(ValueError, match=r"unknown layer 'layer3'; nearest:.*layer3.0.bn2"):
        gates.find("layer3")


# nothing changes


def state_of(net):
    return {
        "tensors": {k: v.clone() for k, v in net.state_dict().items()},
        "training": {name: m.training for name, m in net.named_modules()},
        "gradients": torch.is_grad_enabled(),
        "needs": [p.requires_grad for p in net.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ],
        "attributes": {name: sorted(m.__dict__) for name, m in net.named_modules()},
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("ends", ["well", "in the loader", "in the pass", "by NaN"])
def test_nothing_changes(net, ends):
    net.train()
    net.mid.eval()
    net.second[0].bn.eval()
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 2 and ends == "in the pass":
            raise KeyError("a fault")

    net.mid.register_forward_pre_hook(fail)
    with torch.no_grad():
        copied = copy.deepcopy(net).eval()(X)
    before, calls[:] = state_of(net), []

    def loader():
        for number, x in enumerate(X.split(5)):
            if number == 1 and ends == "in the loader":
                raise OSError("a fault")
            yield x * float("nan") if ends == "by NaN" else x

    if ends == "well":
        ab.gates(net, loader())
    else:
        with pytest.raises((ValueError, OSError), match=r"fault|NaN"):
            ab.gates(net, loader())
    after = state_of(net)
    for name in before:
        if name in ("tensors",):
            assert all(torch.equal(before[name][k], after[name][k]) for k in before[name])
        elif name == "random":
            assert torch.equal(before[name], after[name])
        else:
            assert before[name] == after[name], name
    assert all(m.change is None for m in net.modules() if isinstance(m, Gate))
    calls[:] = [1] * 5
    with torch.no_grad():
        assert torch.equal(net.eval()(X), copied)


def test_a_fused_network_runs_fused_again():
    from accuracy_booster.ops import backend

    fused = ab.fuse(boosted("resnet18").eval(), example=torch.zeros(1, 3, 32, 32))
    x = images(2, size=32)
    with torch.no_grad():
        before = fused(x)
        ab.gates(fused, [x])
        assert torch.equal(fused(x), before)
    assert not backend.is_plain()


# two processes


def of_two(check, folder):
    """Run `check(rank)` in two processes that know each other."""

    def work(rank):
        torch.distributed.init_process_group("gloo")
        check(rank)
        torch.distributed.destroy_process_group()

    ended = [wait(pid) for pid in ranks(work, folder)]
    assert ended == [0, 0], said(folder)


def assert_same_gates(gates, expected):
    assert list(gates) == list(expected)
    assert gates.images == expected.images
    for one, other in zip(gates.values(), expected.values(), strict=True):
        # batches of other sizes round differently
        for name in ("mean", "spread", "class_means", "class_share"):
            a, b = getattr(one, name), getattr(other, name)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert (one.count, one.histogram.sum()) == (other.count, other.histogram.sum())
        assert torch.equal(one.class_counts, other.class_counts)
        assert torch.equal(one.highest.images, other.highest.images)
        assert torch.equal(one.lowest.images, other.lowest.images)


@forks
def test_two_processes_are_as_one(net, tmp_path):
    """13 images are no even number: the sampler gives one of them twice."""
    whole, first = ab.gates(net, pairs()), ab.gates(net, pairs(), images=7)
    data = TensorDataset(X, Y)

    def check(rank):
        sampler = DistributedSampler(data, shuffle=False)
        loader = DataLoader(data, 3, sampler=sampler)
        assert_same_gates(ab.gates(net, loader), whole)
        assert_same_gates(ab.gates(net, loader, images=7), first)
        own = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 3, False))
        parallel = nn.parallel.DistributedDataParallel(net)
        assert_same_gates(ab.gates(parallel, own), whole)
        # a loader of one's own: every second image
        mine = pairs(X[rank::2], Y[rank::2], 3)
        assert_same_gates(ab.gates(net, mine), whole)
        assert_same_gates(ab.gates(net, mine, images=7), first)
        # only the first process has images
        alone = ab.gates(net, [] if rank else pairs(), images=2)
        assert (alone.images, len(alone)) == (1, 2)

    of_two(check, tmp_path)


@forks
def test_an_error_in_one_process_is_raised_in_both(net, tmp_path):
    def check(rank):
        loader = [X, BYTES] if rank else X.split(2)
        with pytest.raises(ValueError, match="images of uint8") as e:
            ab.gates(net, loader)
        assert str(e.value).startswith("process 1: ") == (rank == 0)
        with pytest.raises(ValueError, match="yields no images"):
            ab.gates(net, [])

    of_two(check, tmp_path)
