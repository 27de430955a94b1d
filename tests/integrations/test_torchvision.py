"""Boosted names in torchvision: its registry, its weights, and what its scripts do with them."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

import accuracy_booster as ab
from accuracy_booster.integrations.torchvision import register
from accuracy_booster.surgery import attached

pytestmark = pytest.mark.filterwarnings("ignore:the network has", "ignore:the batch norm of")


@pytest.fixture(scope="module", autouse=True)
def names():
    return register()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def made(name="ab_resnet18", **options):
    """A boosted network of 4 classes in eval mode, whose gates and norms have random weights."""
    torch.manual_seed(0)
    model = models.get_model(name, **{"num_classes": 4, **options})
    for key, parameter in model.named_parameters():
        if "recalibrate" in key or parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5 if key.endswith("bias") else 1.0, 0.3)
    return model.eval()


def test_the_registry_has_the_names_and_is_otherwise_as_it_was(names):
    listed = models.list_models(include="ab_*")
    assert listed == names == register()
    bases = {name.removeprefix("ab_").partition(".")[0] for name in names}
    assert bases < {*models.list_models(exclude="ab_*")}
    assert {"resnet50", "mobilenet_v3_small", "fcn_resnet50", "r3d_18"} < bases
    assert not {"vit_b_16", "swin_t", "fasterrcnn_resnet50_fpn", "quantized_resnet50"} & bases
    of_resnet = {n.partition(".")[2] for n in models.list_models(include="ab_resnet50*")}
    assert of_resnet == {"", *ab.list_recipes()}
    # networks of torchvision's own are listed by module
    assert not any(name.startswith("ab_") for name in models.list_models(module=models))


def test_weights_are_those_of_the_base():
    weights = models.get_model_weights("ab_resnet50.se")
    assert weights is models.ResNet50_Weights
    assert models.get_model_weights(models.get_model_builder("ab_resnet18")).DEFAULT
    assert models.get_weight("ResNet50_Weights.IMAGENET1K_V2") in weights


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT", models.ResNet18_Weights.DEFAULT])
def test_a_network_with_weights_computes_what_its_base_does(weights, images, monkeypatch):
    state = models.resnet18().state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    base = models.get_model("resnet18", weights=weights).eval()
    model = models.get_model("ab_resnet18", weights=weights).eval()
    assert len(attached(model)) == 8
    assert torch.equal(model(images), base(images))
    with pytest.raises(ValueError, match="expected value 1000 but got 4"):  # torchvision's
        models.get_model("ab_resnet18", weights=weights, num_classes=4)


@pytest.mark.parametrize("block", ["ab", "se", "eca", "design_e"])
def test_a_block_in_the_name_or_as_an_option(block):
    init = "paper" if block == "design_e" else "identity"
    base = ab.boost(models.resnet18(), block, init=init)
    expected = {name: str(gate) for name, gate in attached(base).items()}
    for model in (
        models.get_model(f"AB_ResNet18.{block}"),  # torchvision ignores case
        models.get_model("ab_resnet18", block=block),
    ):
        assert {name: str(gate) for name, gate in attached(model).items()} == expected


def test_a_script_that_looks_into_the_module_finds_the_name():
    """As pytorch/examples does, which offers what is callable and in lower case."""
    found = {n for n in models.__dict__ if n.islower() and callable(models.__dict__[n])}
    assert {"ab_resnet18", "ab_mobilenet_v2"} < found
    assert len(attached(models.__dict__["ab_resnet18"](num_classes=3))) == 8


def test_segmentation_and_video():
    kwargs = {"weights": None, "weights_backbone": None}
    model = models.get_model("ab_lraspp_mobilenet_v3_large", **kwargs)
    assert all(name.startswith("backbone.") for name in attached(model))
    assert len(attached(models.get_model("ab_r3d_18", input_size=(3, 4, 32, 32)))) == 8


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ab_resnet18.ab", {"block": "se"}, "names two blocks"),
        ("ab_resnet18", {"block": "nonsense"}, "unknown block"),
        ("ab_resnet18", {"where": "nothing"}, "unknown module"),
        ("ab_alexnet", {}, "where='conv'"),
        ("ab_resnet18.nonsense", {}, "Unknown model"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, words):
    with pytest.raises(ValueError, match=words) as error:
        models.get_model(name, **options)
    assert "\n" not in str(error.value)


def test_our_own_create_model_boosts_only_by_its_own_option():
    with pytest.raises(ValueError, match=r"nearest: torchvision/resnet.*give the block apart"):
        ab.create_model("torchvision/ab_resnet18")


def test_what_the_reference_script_does(images, tmp_path):
    """references/classification/train.py: EMA with buffers, checkpoints, resuming, sync norms."""
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    average = torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda a, m, _: 0.5 * a + 0.5 * m, use_buffers=True
    )
    average.update_parameters(model)
    model(images).mean().backward()
    optimizer.step()
    assert model(images).isfinite().all()
    average.update_parameters(model)
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "model_ema": average.state_dict(),
        },
        tmp_path / "checkpoint.pth",
    )
    checkpoint = torch.load(tmp_path / "checkpoint.pth")
    resumed = made()
    of_resumed = torch.optim.swa_utils.AveragedModel(resumed, use_buffers=True)
    resumed.load_state_dict(checkpoint["model"])
    of_resumed.load_state_dict(checkpoint["model_ema"])
    assert torch.equal(resumed(images), model(images))
    assert torch.equal(of_resumed.eval()(images), average.eval()(images))
    for name, one in attached(average.module).items():
        assert not torch.equal(one[0].dense.weight, attached(model)[name][0].dense.weight), name
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert len(attached(synchronised)) == 8
    torch.testing.assert_close(synchronised(images), model(images))
    plain = models.resnet18(num_classes=4)
    with pytest.raises(RuntimeError, match=r"bn2\.recalibrate"):
        plain.load_state_dict(checkpoint["model"])
    with pytest.raises(RuntimeError, match=r"bn2\.recalibrate"):
        resumed.load_state_dict(plain.state_dict())


def test_feature_extractors_have_the_gates(images):
    model = made()
    before = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images))))))
    for extractor in (
        create_feature_extractor(model, {"layer2": "out"}),
        IntermediateLayerGetter(model, {"layer2": "out"}),
    ):
        assert torch.equal(extractor(images)["out"], before)
        assert len(attached(extractor)) == 4
