"""ResNets for CIFAR against a functional one, and a public checkpoint."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    images,
    on_meta,
    parameters,
    randomise,
)
from support.recorded_files import real, recorded

import accuracy_booster as ab
from accuracy_booster.models import from_akamaster
from accuracy_booster.models.resnet_cifar import ResNetCifar


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnet_sizes_of_he_et_al(depth, millions):
    """He et al. 2015, Table 6 (10 classes)."""
    digits = len(str(millions).partition(".")[2])
    assert round(parameters(on_meta(f"resnet{depth}")) / 1e6, digits) == millions


def option_a(state: dict[str, torch.Tensor], depth: int, x: torch.Tensor, training: bool):
    """A CIFAR ResNet of He et al. 2015 from its tensors in order of execution."""
    tensors = iter(state.values())

    def norm(x):
        weight, bias, mean, var, _ = islice(tensors, 5)
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        weight, bias, mean, var = (v[:, None, None] for v in (weight, bias, mean, var))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv3(x, stride=1):
        return F.conv2d(x, next(tensors), None, stride, 1)

    x = norm(conv3(x)).relu()
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            branch = norm(conv3(norm(conv3(x, stride)).relu()))
            if stride == 2:
                channels = x.shape[1]
                shortcut = torch.zeros_like(branch)
                shortcut[:, channels // 2 : channels // 2 + channels] = x[:, :, ::2, ::2]
                x = shortcut
            x = (x + branch).relu()
    return F.linear(x.mean((2, 3)), next(tensors), next(tensors))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("depth", "height", "width"), [(8, 32, 32), (20, 12, 12), (14, 17, 19), (8, 5, 1)]
)
def test_resnet_equals_a_functional_one(depth, height, width, training):
    model = randomise(ResNetCifar(depth, num_classes=7)).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(3, height, width)
    torch.testing.assert_close(
        model(x), option_a(state, depth, x, training), rtol=1e-9, atol=1e-9, check_dtype=True
    )


def test_the_public_checkpoint_fits_by_names_and_shapes():
    """akamaster's ResNet-20, from a record: it lacks the counters of batches, and fits."""
    record = recorded("resnet20_cifar10")["state_dict"]
    mapped = from_akamaster({key: torch.zeros(shape) for key, shape in record.items()})
    own = {key: list(value.shape) for key, value in on_meta("resnet20").state_dict().items()}
    needed = {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    assert {key: list(value.shape) for key, value in mapped.items()} == needed
    assert sum(value.numel() for key, value in mapped.items() if "running" not in key) == 269_722
    ab.create_model("resnet20").load_state_dict(mapped)


def test_public_checkpoint_scores_its_accuracy(shared):
    """akamaster's ResNet-20: 91.73 % on CIFAR-10, exactly."""
    weights, data = real(shared, "weights/resnet20_cifar10.th"), real(shared, "data/cifar10")
    stored = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    shapes = {key: list(value.shape) for key, value in stored.items()}
    assert shapes == recorded("resnet20_cifar10")["state_dict"], "the record is of another file"
    model = ab.create_model("resnet20")
    model.load_state_dict(from_akamaster(stored))
    metrics = ab.evaluate(model, data=str(data))
    assert metrics.images == 10_000
    assert metrics.top1 == pytest.approx(91.73, abs=1e-3)  # one image is 0.01


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_akamaster_names_map_to_ours(name, prefix):
    ours = on_meta(name).state_dict()
    theirs = {
        prefix + key.replace("fc.", "linear."): torch.full((), float(i))
        for i, key in enumerate(ours)
    }
    mapped = from_akamaster(theirs)
    assert list(mapped) == list(ours)
    assert [int(value) for value in mapped.values()] == list(range(len(ours)))
