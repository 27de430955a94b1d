"""The heads of networks: which layers they are, and how they get other classes."""

import pytest
import torch
from support.trainings import (
    logits_of,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models import classifier
from accuracy_booster.models.heads import heads

HEADS = [
    ("squeezenet1_1", ["classifier.1"], (10, 512, 1, 1)),
    ("vgg11", ["classifier.6"], (10, 4096)),
    ("densenet121", ["classifier"], (10, 1024)),
    ("mobilenet_v3_small", ["classifier.3"], (10, 1024)),
    ("inception_v3", ["AuxLogits.fc", "fc"], (10, 2048)),
    ("googlenet", ["aux1.fc2", "aux2.fc2", "fc"], (10, 1024)),
]


@pytest.mark.parametrize(("name", "expected", "shape"), HEADS)
def test_torchvisions_heads_get_other_classes(name, expected, shape):
    with torch.device("meta"):
        model = ab.create_model(f"torchvision/{name}", num_classes=10)
    assert list(heads(model)) == expected
    assert classifier(model)[0] == expected[-1]
    assert {layer.weight.shape[0] for layer in heads(model).values()} == {10}
    assert classifier(model)[1].weight.shape == shape


def test_a_head_that_is_a_convolution_gives_so_many_logits():
    model = ab.create_model("torchvision/squeezenet1_1", num_classes=10)
    assert logits_of(model, 64).shape == (4, 10)


def test_heads_are_those_that_timm_names_and_no_layer_of_as_many_outputs():
    with torch.device("meta"):
        two = ab.create_model("timm/deit_tiny_distilled_patch16_224", num_classes=5)
        other = ab.create_model("timm/resnetv2_50x1_bit", num_classes=5)
    assert list(heads(two)) == ["head", "head_dist"]
    assert list(heads(other)) == ["head.fc"]
    assert isinstance(classifier(other)[1], nn.Conv2d)
    # a hidden layer that happens to give as many values as there are classes is no head
    plain = nn.Sequential(nn.Sequential(nn.Linear(4, 6)), nn.Linear(6, 6))
    assert list(heads(plain)) == ["1"]
    boosted = ab.create_model("resnet8", block="se", num_classes=64)
    assert list(heads(boosted)) == ["fc"]
