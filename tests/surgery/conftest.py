"""What the tests of `surgery` share: a fixed seed, and networks."""

import copy

import pytest
import torch
import torchvision
from support.attaching import (
    NETWORKS,
)
from support.gated_branches import (
    CLOSE,
    SIZE,
)
from support.gates import force, halved
from support.networks import randomise

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def resnet():
    """A boosted ResNet-10 with gates at 0.5, images, and what it gives."""
    torch.manual_seed(1)
    block = torchvision.models.resnet.BasicBlock
    base = randomise(torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5)).eval()
    x = torch.randn(SIZE)
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1])).eval()
    expected = halved(copy.deepcopy(base), attached(model))(x).detach()
    torch.testing.assert_close(model(x), expected, **CLOSE)
    return model, x, expected


@pytest.fixture(params=NETWORKS)
def network(request):
    """(a network with running statistics of its own, the names of its sites, its input's size)."""
    build, names, size = NETWORKS[request.param]
    model = build()
    with torch.no_grad():
        model.train()(torch.randn(4, *size))
    return model.eval(), names, size
