"""`create_model`: blocks, classes, channels, and one line for bad arguments."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    QUICK,
    on_meta,
    order,
)

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.models.shufflenet import ShuffleNet
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("recipe", ["ab", "se", "design_o"])
@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_modules_of_a_boosted_network_too(name, recipe):
    registered, run = order(ab.create_model(name, block=recipe), torch.zeros(1, 3, 8, 8))
    assert run == registered


def test_a_boosted_network_runs_on_the_meta_device():
    """Where large networks are counted without memory."""
    model = on_meta("resnet8", block="ab").eval()
    assert model(torch.empty(1, 3, 8, 8, device="meta")).shape == (1, 10)


@pytest.mark.parametrize("recipe", ["ab", "ab_plus", "se", "cbam", "eca", "design_e"])
@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_base_weights_are_the_same_with_and_without_gates(name, recipe):
    torch.manual_seed(3)
    plain = ab.create_model(name).state_dict()
    torch.manual_seed(3)
    boosted = ab.create_model(name, block=recipe).state_dict()
    assert [key for key in boosted if ".recalibrate." not in key] == list(plain)
    for key, value in plain.items():
        assert torch.equal(value, boosted[key]), key
    assert len(boosted) > len(plain) or recipe == "design_e"
    torch.manual_seed(4)
    other = ab.create_model(name).state_dict()
    assert not torch.equal(plain["conv1.weight"], other["conv1.weight"])


def test_recipe_none_is_the_plain_network():
    for recipe in (None, "none"):
        model = ab.create_model("resnet8", block=recipe)
        assert not attached(model)
        assert not any("recalibrate" in name for name, _ in model.named_modules())


def test_a_parsed_recipe_and_its_text_make_the_same_network():
    text = "gap | dense(groups=4) | bn | sigmoid"
    keys = [
        list(ab.create_model("resnet8", block=recipe).state_dict())
        for recipe in ("ab_g4", text, ab.recipe(text))
    ]
    assert keys[0] == keys[1] == keys[2]


def test_in_chans_with_a_recipe():
    model = ab.create_model("resnet8", block="ab", in_chans=1, num_classes=4)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


SPATIAL = {
    *("ge_theta_bn", "ge_theta_plus_bn"),
    *("ge_theta", "ge_theta_plus", "ge_theta_plus_ab"),
    *("design_g", "design_g_bn", "design_h", "design_h_bn"),
}


def test_which_recipes_need_the_spatial_size():
    assert {n for n in ab.list_recipes() if ab.recipe(n).needs_spatial_size} == SPATIAL


@pytest.mark.parametrize("recipe", sorted(SPATIAL))
def test_recipes_of_one_size_ask_for_it_and_work_with_it(recipe):
    with pytest.raises(ValueError, match="input_size"):
        ab.create_model("resnet8", block=recipe)
    for height, width in ((16, 16), (8, 20), (9, 13)):
        model = ab.create_model("resnet8", block=recipe, input_size=(3, height, width))
        sizes = [gate.spatial_size for gate in attached(model).values()]
        halves = [(-(-height // k), -(-width // k)) for k in (1, 2, 4)]
        assert sizes == halves
        logits = model(torch.randn(3, 3, height, width))
        assert logits.shape == (3, 10)
        assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetCifar(21), r"depth=21 .*6n \+ 2"),
        (lambda: ResNetCifar(2), r"depth=2 .*6n \+ 2"),
        (lambda: PreActResNet(21), r"depth=21 .*9n \+ 2"),
        (lambda: PreActResNet(2), r"depth=2 .*9n \+ 2"),
        (lambda: PreActResNet(11, variant="v2"), "v2.*'standard' or 'v1'"),
        (lambda: ab.create_model("wrn12_2"), r"depth=12 .*6n \+ 4"),
        (lambda: ab.create_model("wrn4_1"), r"depth=4 .*6n \+ 4"),
        (lambda: ab.create_model("wrn10_0"), "width=0"),
        (lambda: ab.create_model("resnet8", num_classes=-1), "num_classes=-1"),
        (lambda: ab.create_model("resnet8", block="sa"), "sa.*nearest.*se"),
        (lambda: ab.create_model("resnet8", block="gap | dens | sigmoid"), "position 6.*dense"),
        (lambda: ab.create_model("resnet8", block="ab_g3"), "layer1.0.bn2.*groups=3.*16"),
        (lambda: ab.create_model("resnet8", block="ab", input_size=(1, 8, 8)), "in_chans = 3"),
        (lambda: ab.create_model("resnet8", block="ab", input_size=(3, 8)), r"\(C, H, W\)"),
        (lambda: ab.create_model("resnet8", block="ab", input_size=(3, 0, 0)), "each >= 1"),
    ],
)
def test_bad_arguments_get_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", [None, "ab"])
def test_num_classes_0_gives_features(recipe):
    model = ab.create_model("resnet8", block=recipe, num_classes=0)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 64)


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
def test_num_classes_0_gives_features_of_imagenet_networks(name, features):
    model = on_meta(name, block="ab", num_classes=0).eval()
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, features)


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
def test_bad_arguments_of_imagenet_networks_get_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["ab_plus", None])
def test_the_former_name_of_block_warns(text):
    with pytest.warns(DeprecationWarning, match=r"now create_model\(block=") as warned:
        model = ab.create_model("resnet8", recipe=text)
    assert [w.filename for w in warned] == [__file__], "the warning points elsewhere"
    expected = ab.create_model("resnet8", block=text).state_dict()
    assert list(model.state_dict()) == list(expected)


def test_block_under_both_names_is_refused():
    with pytest.raises(ValueError, match=r"block='ab' and recipe='se'.*give block= alone"):
        ab.create_model("resnet8", block="ab", recipe="se")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((3, {}), "model=3 must be a name"),
        (("resnet8", {"num_classes": "a"}), "num_classes='a' must be a whole number"),
        (("resnet8", {"num_classes": True}), "num_classes=True must be a whole number"),
        (("resnet8", {"in_chans": 1.5}), "in_chans=1.5 must be a whole number"),
    ],
)
def test_arguments_of_another_type_are_told(arguments, told):
    name, options = arguments
    with pytest.raises(ValueError, match=told):
        ab.create_model(name, **options)
