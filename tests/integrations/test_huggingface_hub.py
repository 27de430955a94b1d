"""Networks with the mixin of huggingface_hub keep their gates when they are saved and loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from support.halved_networks import HALF, Block, all_learned, gate_vectors
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached

hub = pytest.importorskip("huggingface_hub", exc_type=ImportError)
smp = pytest.importorskip("segmentation_models_pytorch", exc_type=ImportError)

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Small(nn.Module, hub.PyTorchModelHubMixin):
    """Its constructor takes no other words than its own."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, width, 1), Block(width)

    def forward(self, x):
        return self.block(self.stem(x))


class Unconfigured(Small):
    """It has no configuration at all."""

    def __init__(self):
        super().__init__()


class Boosts(Small):
    """Its constructor puts the gates on."""

    def __init__(self, width: int = 4):
        super().__init__(width)
        ab.boost(self, "ab", example=IMAGE[:1])


def unet(encoder: str = "resnet18", **options):
    return smp.Unet(encoder, encoder_weights=None, classes=2, **options)


MAKE = {
    "smp, its own encoder": unet,
    "smp, an encoder of timm": lambda: unet("tu-test_resnet"),
    "smp, FPN": lambda: smp.FPN("resnet18", encoder_weights=None, classes=2),
    "a network of ones own": lambda: Small(6),
    "without a configuration": Unconfigured,
}


@pytest.mark.parametrize("make", MAKE.values(), ids=list(MAKE))
@torch.no_grad()
def test_a_network_comes_back_with_its_gates(make, tmp_path):
    model = ab.boost(make(), "ab", example=IMAGE[:1]).eval()
    for parameter in ab.added_parameters(model):
        parameter.normal_()
    model.save_pretrained(tmp_path)
    loaded = [type(model).from_pretrained(tmp_path)]
    if isinstance(model, smp.base.SegmentationModel):
        loaded.append(smp.from_pretrained(tmp_path))
    for other in loaded:
        assert ab.gate_record(other) == ab.gate_record(model)
        assert torch.equal(other(IMAGE), model(IMAGE))
        assert not attached(make()), "other networks stay plain"
    ab.unboost(loaded[0]).save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path)
    assert not attached(plain)
    assert torch.equal(plain(IMAGE), loaded[0](IMAGE))
    config = tmp_path / "config.json"
    assert not config.is_file() or "accuracy_booster" not in json.loads(config.read_text())


def test_a_loaded_network_learns_and_is_saved_again(tmp_path):
    ab.boost(unet().encoder, "ab", example=IMAGE[:1])
    first = unet()
    ab.boost(first.encoder, "ab", init="identity", example=IMAGE[:1])
    first.save_pretrained(tmp_path / "first")
    model = smp.Unet.from_pretrained(tmp_path / "first").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = gate_vectors(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(IMAGE).square().mean().backward()
        optimizer.step()
    assert all_learned(model, before)
    model.save_pretrained(tmp_path / "second")
    again = smp.Unet.from_pretrained(tmp_path / "second")
    with torch.no_grad():
        assert torch.equal(again(IMAGE), model.eval()(IMAGE))


def test_gates_that_the_constructor_makes(tmp_path):
    Boosts(6).save_pretrained(tmp_path)
    assert attached(Boosts.from_pretrained(tmp_path))


def test_a_file_without_a_record_is_told(tmp_path):
    model = ab.boost(Small(), "ab", example=IMAGE[:1])
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"width": 4}))
    with pytest.warns(UserWarning, match="this Small has no gates; boost it"):
        Small.from_pretrained(tmp_path)


def test_a_record_that_does_not_fit_is_an_error(tmp_path):
    ab.boost(Small(), HALF, example=IMAGE[:1]).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("block.bn2", "block.bn7"))
    with pytest.raises(ValueError, match=r"the gates do not fit this Small.*block\.bn7"):
        Small.from_pretrained(tmp_path)


def test_a_folded_network_is_refused(tmp_path):
    folded = ab.fold(ab.boost(unet(), "ab", example=IMAGE[:1]).eval(), example=IMAGE[:1])
    with pytest.raises(ValueError, match="save the network that it was folded from"):
        folded.save_pretrained(tmp_path)


PROCESS = """
import sys, segmentation_models_pytorch as smp
def gated(load, folder):
    return any("recalibrate" in name for name in load(folder).state_dict())
for folder in sys.argv[1:]:
    for load in (smp.from_pretrained, smp.Unet.from_pretrained):
        try:
            print("loaded", gated(load, folder))
        except Exception as e:
            print("error", "recalibrate" in str(e) or "accuracy_booster" in str(e))
import accuracy_booster as ab
ab.integrations.huggingface_hub.register()
for folder in sys.argv[1:]:
    print("loaded", gated(smp.from_pretrained, folder), gated(smp.Unet.from_pretrained, folder))
"""


def test_a_process_that_has_made_no_gate(tmp_path):
    """Loading ends in an error that names the gates. After `register` the gates are there."""
    folders = [tmp_path / encoder for encoder in ("resnet18", "tu-test_resnet")]
    for folder in folders:
        ab.boost(unet(folder.name), "ab", example=IMAGE[:1]).save_pretrained(folder)
    command = [sys.executable, "-c", PROCESS, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith(("loaded", "error"))]
    assert said == ["error True"] * 4 + ["loaded True True"] * 2, done.stderr
