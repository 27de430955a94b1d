"""Networks with several inputs, by position and by name: planned, fused, folded, counted."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis import complexity
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.inputs import as_inputs

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


class Two(nn.Module):
    """An image and a vector of whole numbers, which an embedding adds to the map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.words = nn.Embedding(5, 8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, image, words, *, scale=1.0):
        x = self.stem(image) + self.words(words)[:, :, None, None]
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        return self.head(x.mean((2, 3))) * scale


IMAGE, WORDS = torch.randn(3, 3, 6, 6), torch.tensor([0, 3, 4])
EXAMPLES = {
    "tuple": (IMAGE, WORDS),
    "list": [IMAGE, WORDS],
    "dict": {"words": WORDS, "image": IMAGE, "scale": 2.0},
}


def network(example):
    torch.manual_seed(0)
    net = ab.boost(Two(), "ab", example=example)
    assert list(attached(net)) == ["bn2"]
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else value + 0.3)
    return net.double().eval()


def call(model, example):
    args, kwargs = as_inputs(example)
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    kwargs = {k: v.double() if k == "image" else v for k, v in kwargs.items()}
    return model(*args, **kwargs)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_several_inputs(kind):
    example = EXAMPLES[kind]
    net = network(example)
    expected = call(net, example)
    fused = ab.fuse(copy.deepcopy(net), example=example)
    folded = ab.fold(net, example=example, verify=True)
    for model in (fused, folded):
        assert ab.fast_path(model).taken == 1
        torch.testing.assert_close(call(model, example), expected, rtol=1e-9, atol=1e-9)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("batch", [1, 3])
def test_several_inputs_are_counted(kind, batch):
    """By hand: three convolutions on 36 positions, the head, and AB's 8."""
    found = complexity(network(EXAMPLES[kind]), example=EXAMPLES[kind], batch_size=batch)
    assert found.base.macs == batch * (36 * 9 * 8 * (3 + 8 + 8) + 8 * 4)
    assert found.extra.macs == batch * 8
    assert (found.input_size, found.batch_size) == ((3, 6, 6), batch)


def test_an_example_of_one_tensor_counts_as_its_size():
    net = ab.create_model("resnet8", block="ab")
    by_size = complexity(net, (3, 16, 16), batch_size=2).to_dict()
    assert complexity(net, example=torch.zeros(4, 3, 16, 16), batch_size=2).to_dict() == by_size


BAD = {
    "text": ("image.png", "example=str is no input: give a tensor"),
    "numbers": ((1, 2), r"no tensor with values but \(1, 2\); give a tensor"),
    "empty": (torch.zeros(0, 3, 4, 4), r"no tensor with values but \[0, 3, 4, 4\]"),
    "names": ({1: IMAGE}, "example=dict is no input"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_example_is_refused(case):
    example, message = BAD[case]
    net = network(EXAMPLES["tuple"])
    for work in (ab.fuse, ab.fold):
        with pytest.raises(ValueError, match=message):
            work(copy.deepcopy(net), example=example)
    with pytest.raises(ValueError, match=message):
        complexity(net, example=example)


def test_one_of_two_inputs_is_refused_with_its_shape():
    net = network(EXAMPLES["tuple"])
    with pytest.raises(
        ValueError, match=r"Two cannot take the example \(\[3, 3, 6, 6\]\): .*words"
    ):
        ab.fold(net, example=(IMAGE,))
    with pytest.raises(ValueError, match="give one of them"):
        complexity(net, (3, 6, 6), example=(IMAGE, WORDS))
