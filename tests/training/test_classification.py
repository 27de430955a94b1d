"""The loss of classification: auxiliary heads and label smoothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from support.trainings import (
    SIZE_32,
    new_trainer,
    replace_network,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.data import normalise


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_is_torchs(tmp_path, smoothing):
    made = new_trainer(tmp_path, label_smoothing=smoothing)
    batch = next(iter(made.loaders["train"].batches(0)))
    made.network.eval()
    loss, _ = made.task.loss(made.network, batch)
    with torch.no_grad():
        logits = made.network(normalise(batch.images, made.data.mean, made.data.std))
    smooth = torch.full((32, 10), smoothing / 10)
    smooth[torch.arange(32), batch.labels] += 1 - smoothing
    by_hand = -(smooth * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    torchs = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    assert loss.item() == torchs.item()


GoogLeNet = torchvision.models.GoogLeNetOutputs
Inception = torchvision.models.inception.InceptionOutputs


class Small(nn.Module):
    """A stand-in of GoogLeNet or Inception v3: auxiliary heads that give logits in training."""

    def __init__(self, kind, classes=3):
        super().__init__()
        self.kind = kind
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.aux1, self.aux2, self.fc = (nn.Linear(8, classes) for _ in range(3))

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if not self.training:
            return self.fc(y)
        if self.kind is GoogLeNet:
            return GoogLeNet(self.fc(y), self.aux2(y), self.aux1(y))
        return self.kind(self.fc(y), self.aux1(y))


@pytest.mark.parametrize(("kind", "weights"), [(GoogLeNet, (0.3, 0.3)), (Inception, (0.4,))])
def test_the_loss_adds_auxiliary_heads(kind, weights, folder, tmp_path, monkeypatch):
    replace_network(monkeypatch, lambda: Small(kind))
    options = {
        **SIZE_32,
        "batch_size": 24,
        "augment": "none",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    result = ab.train(
        "resnet8", block="none", data=str(folder), output=str(tmp_path / "run"), **options
    )
    torch.manual_seed(0)
    model = Small(kind)
    data = ab.data.load_data(str(folder), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = data.loaders["train"].dataset.images
    x, labels = (images.images.float() / 255 - 0.5) / 0.5, images.labels
    y = model.conv(x).mean((2, 3))
    own = [F.cross_entropy(head(y), labels) for head in (model.aux1, model.aux2)]
    expected = F.cross_entropy(model.fc(y), labels)
    expected = expected + sum(w * loss for w, loss in zip(weights, own, strict=False))
    # one step of all images: the loss that the run logs is that of the fresh network
    assert result.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-4)
    final = load_file(tmp_path / "run" / "model.safetensors")
    fresh = model.state_dict()
    moved = [n for n in ("aux1.weight", "aux2.weight") if not torch.equal(final[n], fresh[n])]
    assert moved == ["aux1.weight", "aux2.weight"][: len(weights)]


def test_googlenet_trains_and_is_measured(make_folder, tmp_path):
    data = make_folder({f"{s}/{c}": 4 for s in ("train", "test") for c in "ab"}, size=(32, 32))
    result = ab.train(
        *("torchvision/googlenet",),
        **{**SIZE_32, "block": "none", "data": str(data), "output": str(tmp_path / "run")},
    )
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert final["aux1.fc2.weight"].shape == final["aux2.fc2.weight"].shape == (2, 1024)
    # three heads of two classes: about (1 + 0.3 + 0.3) log 2 before the first step
    assert 0.8 * 1.6 * math.log(2) < result.history[0]["train_loss"] < 3 * 1.6 * math.log(2)
    assert ab.evaluate(tmp_path / "run").top1 == result.test.top1
