"""Outputs of every kind give logits, and a network that gives none is told before a run."""

import collections
import dataclasses

import pytest
import torch
import torchvision
from support.trainings import SIZE_32, replace_network
from torch import nn

import accuracy_booster as ab
from accuracy_booster.training.network_outputs import split_outputs

GoogLeNet = torchvision.models.GoogLeNetOutputs
Inception = torchvision.models.inception.InceptionOutputs
MAIN, ONE, TWO = (torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))


@dataclasses.dataclass
class Output:
    """As Hugging Face's: an object with `logits`."""

    logits: torch.Tensor
    hidden_states: tuple = ()


OUTPUTS = {
    "tensor": (MAIN, []),
    "googlenet": (GoogLeNet(MAIN, ONE, TWO), [(0.3, ONE), (0.3, TWO)]),
    "googlenet without aux": (GoogLeNet(MAIN, None, None), []),
    "inception": (Inception(MAIN, ONE), [(0.4, ONE)]),
    "segmentation's dict": (collections.OrderedDict(out=MAIN, aux=ONE), [(0.5, ONE)]),
    "out alone": ({"out": MAIN}, []),
    "dict of logits": ({"logits": MAIN, "features": ONE}, []),
    "object with logits": (Output(MAIN), []),
    "tuple with features": ((MAIN, torch.zeros(5, 64)), []),
    "list": ([MAIN, ONE], [(0.4, ONE)]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_and_auxiliary_logits_of_every_kind_of_output(kind):
    given, expected = OUTPUTS[kind]
    logits, others = split_outputs(given)
    assert logits is MAIN
    assert [weight for weight, _ in others] == [weight for weight, _ in expected]
    assert all(a is b for (_, a), (_, b) in zip(others, expected, strict=True))


def test_a_hugging_face_output():
    modeling = pytest.importorskip("transformers.modeling_outputs")
    output = modeling.ImageClassifierOutput(logits=MAIN, hidden_states=(ONE,))
    assert split_outputs(output)[0] is MAIN
    assert split_outputs(output)[1] == []


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(2, 3, 4, 4), r"a Tensor \[2, 3, 4, 4\]; .*need logits \[N, classes\]"),
        ({"features": MAIN}, "a dict; .*need logits"),
        ((), "a tuple; "),
        (None, "a NoneType; "),
    ],
)
def test_an_output_without_logits_is_told(output, told):
    with pytest.raises(ValueError, match=told):
        split_outputs(output)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda: nn.Conv2d(3, 3, 64), "cannot take images of 3 x 32 x 32 .*another image_size"),
        (lambda: nn.Conv2d(3, 3, 3), r"a Tensor \[2, 3, 30, 30\]; training and measuring need"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), "2 logits, fewer than num_class"),
    ],
)
def test_a_network_that_does_not_fit_is_told_before_the_run(
    network, told, folder, tmp_path, monkeypatch
):
    replace_network(monkeypatch, network)
    with pytest.raises(ValueError, match=told):
        ab.train("resnet8", block="none", data=str(folder), output=str(tmp_path / "run"), **SIZE_32)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_inception_is_refused_for_small_images(folder, tmp_path):
    from accuracy_booster.cli import main

    words = ["train", "--model", "torchvision/inception_v3", "--block", "none", "--data", folder]
    words += ["--image_size", "32", "--batch_size", "8", "--output", tmp_path / "run"]
    assert main([str(word) for word in words]) == 2
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_network_of_one_size_is_refused_for_others(folder, tmp_path, monkeypatch):
    """As timm's ViTs, which assert their size."""
    options = {**SIZE_32, "block": "none", "data": str(folder), "output": str(tmp_path / "run")}
    with pytest.raises(ValueError, match=r"vit.* cannot take images of 3 x 32 x 32 \(.*224"):
        ab.train("timm/vit_tiny_patch16_224", **options)
    replace_network(monkeypatch, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)))
    ab.train("resnet8", **options)
    with pytest.raises(ValueError, match=r"cannot take images of 3 x 16 x 16 .*image_size"):
        ab.evaluate(tmp_path / "run", image_size=16)
