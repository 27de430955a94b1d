"""The paper's ImageNet networks against its counts, torchvision's and pytorchcv's networks."""

# N batch, C channels, H W space

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import pytorchcv.models.shufflenet
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import accuracy_booster as ab
from accuracy_booster.models import libraries
from accuracy_booster.models.shufflenet import ShuffleNet
from accuracy_booster.surgery import attached


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return ab.create_model(name, **options)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running moment gets its own value, so that a swap shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.double().state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            if value.ndim > 1:
                value.copy_(noise / math.sqrt(value[0].numel()))
            elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                value.copy_(0.3 * noise)
    return model


def images(count: int = 2, side: int = 64, chans: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, chans, side, side, generator=generator, dtype=torch.float64)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def assert_same_logits(ours: nn.Module, theirs: nn.Module, side: int = 64) -> None:
    x = images(side=side)
    with torch.no_grad():
        expected, logits = theirs.double().eval()(x), ours.double().eval()(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9 * float(expected.std()))


# counts: shared/paper/counting.md


@pytest.mark.parametrize(
    ("name", "count", "macs"),
    [
        ("resnet50", 25_557_032, pytest.approx(4.089e9, abs=0.001e9)),
        ("resnet50v1", 25_557_032, 3_857_973_248),
        ("resnet152", 60_192_808, None),
        ("resnet152v1", 60_192_808, 11_282_415_616),
        ("wrn18_2", 45_618_216, 6_695_706_624),
        ("resnext101_32x4d", 44_177_704, 7_969_996_800),
        ("shufflenet_g3", 1_865_728, 137_460_672),
    ],
)
def test_counts_of_the_paper(name, count, macs):
    model = on_meta(name)
    assert parameters(model) == count
    if macs is not None:
        assert ab.complexity(model).macs == macs


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_have_the_names_shapes_and_macs_of_torchvision(depth):
    ours = on_meta(f"resnet{depth}")
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    assert ab.complexity(ours).macs == ab.complexity(theirs).macs


@pytest.mark.parametrize("name", ["resnet50v1", "resnet101v1", "resnet152v1"])
def test_v1_has_the_names_of_its_resnet(name):
    assert shapes(on_meta(name)) == shapes(on_meta(name.removesuffix("v1")))


# outputs


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_equal_torchvision(name):
    theirs = randomise(torchvision.models.get_model(name))
    ours = ab.create_model(name).double()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs)


def test_resnet50v1_strides_in_the_first_1x1():
    theirs = randomise(torchvision.models.resnet50())
    ours = ab.create_model("resnet50v1").double()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        elsewhere = theirs.eval()(images())
        assert not torch.allclose(ours.eval()(images()), elsewhere, rtol=1e-3)
    for block in (theirs.layer2[0], theirs.layer3[0], theirs.layer4[0]):
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    assert_same_logits(ours, theirs)


def test_resnext101_32x4d_equals_torchvision():
    theirs = randomise(
        torchvision.models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    )
    ours = ab.create_model("resnext101_32x4d").double()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, side=32)


def wide_resnet18() -> nn.Module:
    """From torchvision's blocks: a stem of 64, stages of 128, 256, 512 and 1024."""
    model = torchvision.models.resnet18()
    inputs = 64
    for stage, width in enumerate((128, 256, 512, 1024)):
        stride = 2 if stage else 1
        projection = nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )
        blocks = BasicBlock(inputs, width, stride, projection), BasicBlock(width, width)
        setattr(model, f"layer{stage + 1}", nn.Sequential(*blocks))
        inputs = width
    model.fc = nn.Linear(inputs, 1000)
    return model


def test_wrn18_2_equals_one_of_torchvisions_blocks():
    theirs = randomise(wide_resnet18())
    ours = ab.create_model("wrn18_2").double()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, side=32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shufflenet_equals_pytorchcv(groups, training, monkeypatch):
    """But for the order of the concatenation, which the paper does not give."""
    theirs_module = pytorchcv.models.shufflenet
    theirs = randomise(theirs_module.get_shufflenet(groups, 1.0))
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs takes 224x224 images alone
    swapped = SimpleNamespace(cat=lambda tensors, dim: torch.cat(tensors[::-1], dim))
    monkeypatch.setattr(theirs_module, "torch", swapped)
    ours = ShuffleNet(groups).double()
    source, target = theirs.state_dict(), ours.state_dict()
    for value, copy in zip(source.values(), target.values(), strict=True):
        assert value.shape == copy.shape
        copy.copy_(value)
    x = images(side=48)
    logits = ours.train(training)(x)
    torch.testing.assert_close(logits, theirs.train(training)(x), rtol=1e-9, atol=1e-9)
    for ours_moment, moment in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours_moment, moment, rtol=1e-9, atol=1e-9)


# gates


def test_shufflenet_has_16_gates_on_the_branches():
    model = on_meta("shufflenet_g3")
    gates = attached(on_meta("shufflenet_g3", block="ab"))
    channels = [gate.channels for gate in gates.values()]
    assert list(gates) == model.recalibration_sites
    assert channels == [216, *[240] * 3, 240, *[480] * 7, 480, *[960] * 3]  # C_out - C_in first
    assert sum(channels) == 7_896
    assert sum(c * c for c in channels) == 4_885_056


def test_a_shuffle_unit_is_its_shortcut_where_its_site_gives_zero():
    """So the site stands before the concatenation or the sum."""
    model = randomise(ab.create_model("shufflenet_g3")).eval()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for site in model.recalibration_sites:
        unit = site.rpartition(".")[0]
        model.get_submodule(site).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
        model.get_submodule(unit).register_forward_hook(
            lambda m, args, out, unit=unit: seen.__setitem__(unit, (args[0].clone(), out.clone()))
        )
    with torch.no_grad():
        model(images())
    assert len(seen) == 16
    for unit, (x, out) in seen.items():
        expected = x
        if unit.endswith(".0"):
            pooled = F.avg_pool2d(x, 3, 2, padding=1)
            expected = F.pad(pooled, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        torch.testing.assert_close(out, expected.relu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet18", 8, "bn2"),
        ("resnet50", 16, "bn3"),
        ("resnet50v1", 16, "bn3"),
        ("resnet152v1", 50, "bn3"),
        ("wrn18_2", 8, "bn2"),
        ("resnext101_32x4d", 33, "bn3"),
    ],
)
def test_each_residual_block_has_a_gate_on_its_last_norm(name, count, last):
    gates = attached(on_meta(name, block="ab"))
    assert len(gates) == count
    assert {site.rpartition(".")[2] for site in gates} == {last}


QUICK = ["resnet18", "wrn18_2", "shufflenet_g3"]


@pytest.mark.parametrize("name", QUICK)
def test_a_boosted_network_has_a_gradient_on_every_parameter(name):
    torch.manual_seed(0)
    model = ab.create_model(name, block="ab_plus", num_classes=3)
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*QUICK, "resnet50v1"])
def test_identity_keeps_the_output_bit_for_bit(name, training):
    torch.manual_seed(0)
    model = ab.create_model(name, num_classes=5).train(training)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        assert before.std() > 0
        assert torch.equal(ab.boost(model, "ab", init="identity")(x), before)


@pytest.mark.parametrize("name", [*QUICK, "resnet50v1"])
@pytest.mark.parametrize("recipe", [None, "ab"])
def test_num_classes_and_in_chans(name, recipe):
    model = on_meta(name, block=recipe, num_classes=7, in_chans=1).eval()
    assert model(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 7)
    assert model.default_cfg["input_size"] == (1, 224, 224)
    with pytest.raises(RuntimeError):
        model(torch.empty(2, 3, 32, 32, device="meta"))


@pytest.mark.parametrize(
    ("name", "features"),
    [("resnet18", 512), ("resnet50v1", 2048), ("wrn18_2", 1024), ("shufflenet_g3", 960)],
)
def test_num_classes_0_gives_features(name, features):
    model = on_meta(name, block="ab", num_classes=0).eval()
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, features)


def test_options_reach_timm():
    assert on_meta("resnet18", drop_rate=0.25).drop_rate == 0.25
    assert on_meta("timm/resnet18", drop_rate=0.25).drop_rate == 0.25


@pytest.mark.parametrize("name", QUICK)
def test_no_norm_starts_at_zero(name):
    """As torchvision's: a gate on a norm that gives zeros would get no gradient."""
    model = ab.create_model(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.all() for norm in norms)


# weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[nn.Module, Path]:
    """torchvision's ResNet-18 with weights of its own, and the file that holds them."""
    model = randomise(torchvision.models.resnet18()).float().eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


def load(name: str, trained: tuple[nn.Module, Path], monkeypatch, tmp_path, **options):
    """A pretrained network whose library finds the weights on this disk."""
    if name.startswith("torchvision/"):
        url = torchvision.models.ResNet18_Weights.DEFAULT.url
        place = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
        place.parent.mkdir(parents=True)
        place.write_bytes(trained[1].read_bytes())
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
    else:
        options["pretrained_cfg_overlay"] = {"file": str(trained[1])}
    monkeypatch.setattr(libraries, "_reachable", lambda address: False)
    return ab.create_model(name, pretrained=True, **options).eval()


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("boosted", [{}, {"block": "ab", "init": "identity"}])
def test_pretrained_weights_are_loaded(name, boosted, trained, monkeypatch, tmp_path):
    model = load(name, trained, monkeypatch, tmp_path, **boosted)
    assert len(attached(model)) == (8 if boosted else 0)
    x = images(side=64).float()
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained[0](x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_pretrained_weights_with_another_head(name, trained, monkeypatch, tmp_path):
    model = load(name, trained, monkeypatch, tmp_path, num_classes=4)
    assert model.fc.weight.shape == (4, 512)
    assert torch.equal(model.layer4[1].conv2.weight, trained[0].layer4[1].conv2.weight)


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "timm/resnet26"])
def test_without_a_network_timm_fails_at_once(name, setting, monkeypatch, tmp_path):
    constants = huggingface_hub.constants
    monkeypatch.setattr(libraries, "_reachable", lambda address: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", setting)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"{name}.*network") as caught:
        ab.create_model(name, pretrained=True)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is setting


def test_without_a_network_torchvision_fails_in_one_line(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"torchvision/resnet18.*unreachable") as caught:
        ab.create_model("torchvision/resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


def test_an_address_that_refuses_is_not_reachable(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(libraries.urllib.request, "getproxies", dict)
    monkeypatch.setattr(libraries.socket, "create_connection", refuse)
    assert not libraries._reachable("https://huggingface.co")
    monkeypatch.setattr(libraries.urllib.request, "getproxies", lambda: {"https": "proxy"})
    assert libraries._reachable("https://huggingface.co")  # the proxy knows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ab.create_model("resnet50v1", pretrained=True), "'resnet50v1'.*resnet50, "),
        (lambda: ab.create_model("shufflenet_g3", pretrained=True), "'shufflenet_g3'.*resnet18"),
        (lambda: ab.create_model("resnet20", pretrained=True), "'resnet20'.*resnet18"),
        (lambda: on_meta("resnet18", drop="x"), "resnet18: .*'drop'"),
        (lambda: on_meta("shufflenet_g3", drop_rate=0.1), "shufflenet_g3: .*'drop_rate'"),
        (lambda: on_meta("timm/resnet18", drop="x"), "timm/resnet18: .*'drop'"),
        (lambda: on_meta("torchvision/resnet18", drop="x"), "torchvision/resnet18: .*'drop'"),
        (lambda: on_meta("torchvision/resnet18", in_chans=1), "in_chans=1"),
        (lambda: ShuffleNet(5), "groups=5.*1, 2, 3, 4, 8"),
        (lambda: on_meta("shufflenet_g3", num_classes=-1), "num_classes=-1"),
        (lambda: ab.create_model("resnet51"), "resnet51.*resnet50"),
    ],
)
def test_bad_arguments_get_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
