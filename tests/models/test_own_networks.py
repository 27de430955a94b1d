"""Networks that the caller gives: copied, made by functions, refused; a new head."""

# N batch, C channels, H W space

from __future__ import annotations

import functools

import pytest
import timm
import torch
import torchvision
from support.boosting import EXAMPLE, ResidualNet, net
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.heads import classifier
from accuracy_booster.models.own_networks import fit_head, is_own, own_network

SIZE = (3, 16, 16)


def test_a_module_is_copied_and_stays_as_it_was():
    module = net().half()
    module.stem.weight.grad = torch.ones_like(module.stem.weight)
    own = own_network(module)
    made = own()
    assert (own.name, own.trained) == ("own/ResidualNet", True)
    assert made is not module
    assert made.stem.weight.dtype == torch.float32
    assert made.stem.weight.grad is None
    assert module.stem.weight.dtype == torch.float16
    assert module.stem.weight.grad is not None
    torch.testing.assert_close(made.stem.weight, module.stem.weight.float())


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel]
)
def test_wrappers_around_a_module_are_taken_off(wrap):
    module = net()
    own = own_network(wrap(module))
    assert own.name == "own/ResidualNet"
    assert own().state_dict().keys() == module.state_dict().keys()


def test_functions_classes_and_what_they_take():
    own = own_network(functools.partial(ResidualNet, width=8))
    assert (own.name, own.trained, own.takes) == ("own/ResidualNet", False, ())
    assert own(7, 1).head.out_features == 5

    def make(num_classes, in_chans=3):
        return nn.Sequential(nn.Conv2d(in_chans, 4, 1), nn.Flatten(), nn.Linear(4, num_classes))

    made = own_network(make)(7, 1)
    assert (made[0].in_channels, made[2].out_features) == (1, 7)
    assert own_network(lambda: net()).name == "own/network"


def test_names_are_no_own_networks():
    assert own_network("resnet8") is None
    assert own_network("timm/resnet18") is None
    assert [is_own(n) for n in ("own/X", "a.b:c", "f.py:c", "timm/x", "resnet8")] == [
        *(True, True, True, False, False)
    ]


def needs_width(width):
    return width


def fails():
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "must be a network's name, a module, or a function"),
        (needs_width, "needs the arguments width; .*lambda: needs_width"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), "lazy modules.*run an image through it first"),
        (torch.nn.Conv2d(3, 4, 3, device="meta"), "meta device"),
        (nn.Sequential(nn.DataParallel(nn.Conv2d(3, 4, 1))), "wrapped in DataParallel"),
        (torch.jit.trace(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4)), "TorchScript"),
        (ab.fuse(ab.boost(net(), example=EXAMPLE)), "is fused; give ab.unfuse"),
    ],
    ids=["number", "arguments", "lazy", "meta", "part", "script", "fused"],
)
def test_what_cannot_be_trained_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        own_network(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (fails, "own/fails cannot be made: KeyError: 'weights'"),
        (lambda: 3, "own/network gave 3, and a network is an nn.Module"),
        (lambda: nn.LazyLinear(3), "lazy modules"),
    ],
    ids=["raises", "number", "lazy"],
)
def test_what_a_function_gives_is_checked(given, told):
    with pytest.raises(ValueError, match=told):
        own_network(given)()


def test_a_module_that_cannot_be_copied_asks_for_a_function():
    module = net()
    module.stem.lock = (i for i in ())  # a generator
    with pytest.raises(ValueError, match=r"cannot be copied \(TypeError.*give a function"):
        own_network(module)()


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("test_resnet", num_classes=7),
        lambda: torchvision.models.squeezenet1_1(num_classes=7),
        lambda: net(classes=7),
    ],
    ids=["timm", "convolution", "own"],
)
def test_a_head_for_another_number_of_classes_is_new(make):
    network = make()
    size = (3, 64, 64)
    assert fit_head(network, 7, size) == ""
    assert fit_head(network, 4, size).startswith("a new head for 4 classes")
    assert network.eval()(torch.zeros(2, *size)).shape == (2, 4)
    assert getattr(network, "num_classes", 4) == 4


def test_the_last_linear_layer_of_a_network_need_not_be_its_head():
    """Where the network gives as many logits as there are classes, nothing is replaced."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 4)
            self.scale = nn.Linear(3, 3)

        def forward(self, x):
            x = x.mean((2, 3))
            return self.head(x * self.scale(x).sigmoid())

    network = Odd()
    assert classifier(network)[0] == "scale"
    assert fit_head(network, 4, SIZE) == ""
    with pytest.raises(ValueError, match=r"gives 4 logits.*\(scale is not it\)"):
        fit_head(network, 2, SIZE)


def test_images_of_other_channels_are_refused():
    own = own_network(net())
    own.check_channels(own(), 3)
    with pytest.raises(ValueError, match="takes images of 3 channels, and the data have 1"):
        own.check_channels(own(), 1)
