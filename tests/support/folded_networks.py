"""Networks to fold, images for them, and how far two networks differ."""

# N batch, C channels, H W space

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet
from support.networks import randomise

# {name: the side of its images, the number of its sites}
NETWORKS = {
    "resnet8": (12, 3),
    "wrn10_1": (12, 3),
    "preact11": (12, 3),
    "shufflenet_g3": (32, 16),
    "torchvision/resnet18": (32, 8),
    "torchvision/mobilenet_v2": (32, 10),
    "timm/resnet26": (32, 8),
    "timm/regnetx_002": (32, 13),
    "timm/mobilenetv2_050": (32, 10),
    "timm/efficientnet_lite0": (32, 9),
}
IN_FLOAT64 = 1e-10


def network(name="resnet8", recipe="ab", **options):
    """One of NETWORKS with 5 classes, far from the identity, in float64 and eval mode."""
    side = NETWORKS.get(name, (32,))[0]
    if name == "preact11":
        model = PreActResNet(11, num_classes=5, variant="v1")
        if recipe is not None:
            ab.boost(model, recipe, example=torch.zeros(1, 3, side, side), **options)
    else:
        model = ab.create_model(
            name, recipe=recipe, num_classes=5, input_size=(3, side, side), **options
        )
    return randomise(model, signs=True).double().eval()


def images(name="resnet8", n=2):
    """n random images for one of NETWORKS, in float64."""
    side = NETWORKS.get(name, (32,))[0]
    return torch.randn(n, 3, side, side, dtype=torch.float64)


def difference(model, other, x):
    """max |difference| over max |output|."""
    with torch.no_grad():
        y, again = model(x), other(x)
    assert again.dtype == y.dtype
    assert again.shape == y.shape
    assert y.isfinite().all()
    return float((again - y).abs().max() / y.abs().max())


def norms_left(model):
    """The names of batch norms."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, m in model.named_modules() if isinstance(m, kinds)]


class OneBranch(nn.Module):
    """A stem, one residual branch that ends in the layer `last` and `norm`, and a head."""

    def __init__(self, last=None, norm=None, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = last or nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = norm or nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 4)

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def block(self, x):
        return F.relu(self.branch(x) + x)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def boosted(model, recipe="ab", side=7, where=("bn2",), n=3):
    """(the network with gates far from the identity, images), in float64 and eval mode."""
    x = torch.randn(n, 3, side, side, dtype=torch.float64)
    if recipe is not None:
        ab.boost(model, recipe, example=x[:1].float(), where=list(where))
    return randomise(model, signs=True).double().eval(), x


def tied():
    """One whose convolutions share a weight."""
    model = OneBranch()
    model.conv2.weight = model.conv1.weight
    return model
