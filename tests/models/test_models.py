"""The networks against the papers' counts, other libraries' networks and a public checkpoint."""

# N batch, C channels, H W space

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from pytorchcv.model_provider import get_model
from pytorchcv.models.preresnet_cifar import get_preresnet_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab
from accuracy_booster.models import MODELS, from_akamaster
from accuracy_booster.models.base import Network
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.surgery import attached

SMALL: dict[str, Callable[..., nn.Module]] = {  # one of each kind, as shallow as it goes
    "resnet8": lambda **options: ResNetCifar(8, **options),
    "resnet14": lambda **options: ResNetCifar(14, **options),
    "preact11": lambda **options: PreActResNet(11, **options),
    "preact11v1": lambda **options: PreActResNet(11, variant="v1", **options),
    "wrn10_1": lambda **options: WideResNet(10, 1, **options),
    "wrn16_2": lambda **options: WideResNet(16, 2, **options),
}


def on_meta(name: str, **options) -> nn.Module:
    """The network without memory or arithmetic: for counting."""
    with torch.device("meta"):
        return ab.create_model(name, **options)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module) -> int:
    """Multiply-adds of the convolutions and the head for one 32x32 image, without biases."""
    model = model.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running moment gets its own value, so that a swap shows."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            fan_in = value[0].numel() if value.ndim > 1 else 1
            scaled = noise / math.sqrt(fan_in) if value.ndim > 1 else 0.3 * noise
            is_scale = value.ndim == 1 and re.search(r"(bn\d?|norm)\.weight|running_var", name)
            value.copy_(scaled.abs() + 0.5 if is_scale else scaled)
    return model


def images(count: int = 2, height: int = 12, width: int = 12, chans: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, chans, height, width, generator=generator, dtype=torch.float64)


# counts


@pytest.mark.parametrize(
    ("name", "classes", "count", "multiply_adds"),
    [
        ("resnet56", 100, 858_868, (125.49e6, 0.01e6)),
        ("resnet164", 100, 1_726_388, (247.670e6, 0.001e6)),
        ("resnet164v1", 100, 1_734_452, (244.524e6, 0.001e6)),
        ("wrn22_10", 100, 26_855_604, (3.828e9, 0.001e9)),
    ],
)
def test_counts_of_the_paper(name, classes, count, multiply_adds):
    """`shared/paper/counting.md`: to within a unit of the last printed digit."""
    model = on_meta(name, num_classes=classes)
    assert parameters(model) == count
    printed, unit = multiply_adds
    assert macs(model) == pytest.approx(printed, abs=unit)


def test_resnet164v1_fits_table_15_once_its_biases_are_counted():
    """The paper prints 1.734M and 246.58M for its base; a bias is one addition per element."""
    model = on_meta("resnet164v1", num_classes=100)
    biased = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biased) == 54
    added = sum(18 * 4 * width * side**2 for width, side in ((16, 32), (32, 16), (64, 8)))
    assert macs(model) + added == pytest.approx(246.588e6, abs=0.001e6)


@pytest.mark.parametrize(
    ("recipe", "printed"),
    [
        ("ab", 1.758),
        ("ab_g16", 1.847),
        ("ab_g8", 1.944),
        ("ab_g4", 2.137),
        ("ab_g2", 2.524),
        ("ab_plus", 3.298),
    ],
)
def test_boosted_resnet164v1_has_the_parameters_of_table_15(recipe, printed):
    model = on_meta("resnet164v1", block=recipe, num_classes=100)
    groups = {"ab": None, "ab_plus": 1}.get(recipe) or int(recipe.partition("_g")[2] or 0)
    squares, channels = 1_548_288, 8_064  # sums of C^2 and C over the 54 blocks
    weights = squares // groups if groups else channels
    assert parameters(model) == 1_734_452 + weights + 2 * channels
    assert parameters(model) / 1e6 == pytest.approx(printed, abs=0.001)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet20", "resnet20_cifar10"),
        ("resnet56", "resnet56_cifar10"),
        ("resnet56", "resnet56_cifar100"),
        ("resnet110", "resnet110_cifar10"),
        ("resnet164", "preresnet164bn_cifar10"),
        ("resnet164", "preresnet164bn_cifar100"),
        ("wrn28_10", "wrn28_10_cifar10"),
        ("wrn16_10", "wrn16_10_cifar10"),
    ],
)
def test_counts_of_pytorchcv(name, theirs):
    """Equal, but for the 1x1 projections (option B) that pytorchcv's ResNets have."""
    with torch.device("meta"):
        other = get_model(theirs)
    ours = on_meta(name, num_classes=other.num_classes)
    projections = [
        m for n, m in other.named_modules() if n.endswith("identity_conv") and theirs[:3] == "res"
    ]
    expected_macs = macs(other)
    if projections:
        assert len(projections) == 2
        expected_macs -= 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert parameters(ours) == parameters(other) - sum(map(parameters, projections))
    assert macs(ours) == expected_macs


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnet_sizes_of_he_et_al(depth, millions):
    """He et al. 2015, Table 6 (10 classes)."""
    digits = len(str(millions).partition(".")[2])
    assert round(parameters(on_meta(f"resnet{depth}")) / 1e6, digits) == millions


# outputs


def option_a(state: dict[str, torch.Tensor], depth: int, x: torch.Tensor, training: bool):
    """A CIFAR ResNet of He et al. 2015 from its tensors in order of execution."""
    tensors = iter(state.values())

    def norm(x):
        weight, bias, mean, var, _ = islice(tensors, 5)
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        weight, bias, mean, var = (v[:, None, None] for v in (weight, bias, mean, var))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv3(x, stride=1):
        return F.conv2d(x, next(tensors), None, stride, 1)

    x = norm(conv3(x)).relu()
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            branch = norm(conv3(norm(conv3(x, stride)).relu()))
            if stride == 2:
                channels = x.shape[1]
                shortcut = torch.zeros_like(branch)
                shortcut[:, channels // 2 : channels // 2 + channels] = x[:, :, ::2, ::2]
                x = shortcut
            x = (x + branch).relu()
    return F.linear(x.mean((2, 3)), next(tensors), next(tensors))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("depth", "height", "width"), [(8, 32, 32), (20, 12, 12), (14, 17, 19), (8, 5, 1)]
)
def test_resnet_equals_a_functional_one(depth, height, width, training):
    model = randomise(ResNetCifar(depth, num_classes=7)).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(3, height, width)
    torch.testing.assert_close(
        model(x), option_a(state, depth, x, training), rtol=1e-9, atol=1e-9, check_dtype=True
    )


def to_v1(theirs: nn.Module) -> nn.Module:
    """pytorchcv's pre-activation ResNet with the stride in the 1x1 and biases in the third conv."""
    for stage in (theirs.features.stage1, theirs.features.stage2, theirs.features.stage3):
        for unit in stage:
            first, middle, last = (block.conv for block in unit.body.children())
            first.stride, middle.stride = middle.stride, first.stride
            last.bias = nn.Parameter(torch.zeros(last.out_channels))
    return theirs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: PreActResNet(11), lambda: get_preresnet_cifar(10, 11, True)),
        (lambda: PreActResNet(20), lambda: get_preresnet_cifar(10, 20, True)),
        (
            lambda: PreActResNet(20, variant="v1"),
            lambda: to_v1(get_preresnet_cifar(10, 20, True)),
        ),
        (lambda: WideResNet(10, 1), lambda: get_wrn_cifar(10, 10, 1)),
        (lambda: WideResNet(16, 2), lambda: get_wrn_cifar(10, 16, 2)),
    ],
    ids=["preact11", "preact20", "preact20v1", "wrn10_1", "wrn16_2"],
)
def test_preact_networks_equal_pytorchcv(ours, theirs, training):
    model, other = randomise(ours()).train(training), theirs().double().train(training)
    other.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs takes 32x32 images alone
    source, target = model.state_dict(), other.state_dict()
    assert len(source) == len(target)
    for value, copy in zip(source.values(), target.values(), strict=True):
        assert value.shape == copy.shape
        copy.copy_(value)
    x = images()
    torch.testing.assert_close(model(x), other(x), rtol=1e-9, atol=1e-9)
    for value, copy in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(value, copy, rtol=1e-9, atol=1e-9)


def test_public_checkpoint_scores_its_accuracy(shared):
    """akamaster's ResNet-20: 91.73 % on CIFAR-10, exactly."""
    weights, data = shared / "weights/resnet20_cifar10.th", shared / "data/cifar10"
    for path in (weights, data):
        if not path.exists():
            pytest.skip(f"needs {path}, which is absent")
    stored = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    model = ab.create_model("resnet20")
    model.load_state_dict(from_akamaster(stored))
    metrics = ab.evaluate(model, data=str(data))
    assert metrics.images == 10_000
    assert metrics.top1 == pytest.approx(91.73, abs=1e-3)  # one image is 0.01


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_akamaster_names_map_to_ours(name, prefix):
    ours = on_meta(name).state_dict()
    theirs = {
        prefix + key.replace("fc.", "linear."): torch.full((), float(i))
        for i, key in enumerate(ours)
    }
    mapped = from_akamaster(theirs)
    assert list(mapped) == list(ours)
    assert [int(value) for value in mapped.values()] == list(range(len(ours)))


# structure


def order(model: nn.Module, x: torch.Tensor) -> tuple[list[str], list[str]]:
    """The leaf modules as registered, and as they run."""
    registered = [name for name, module in model.named_modules() if not list(module.children())]
    run: list[str] = []
    for leaf in registered:
        model.get_submodule(leaf).register_forward_hook(lambda *_, leaf=leaf: run.append(leaf))
    model.eval()(x)
    return registered, run


@pytest.mark.parametrize("name", [n for n in ab.list_models() if isinstance(on_meta(n), Network)])
def test_modules_are_registered_in_the_order_of_execution(name):
    """Of our own classes; timm's use one activation several times."""
    registered, run = order(on_meta(name), torch.empty(1, 3, 8, 8, device="meta"))
    assert run == registered


@pytest.mark.parametrize("recipe", ["ab", "se", "design_o"])
@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_modules_of_a_boosted_network_too(name, recipe):
    registered, run = order(ab.create_model(name, block=recipe), torch.zeros(1, 3, 8, 8))
    assert run == registered


def test_a_boosted_network_runs_on_the_meta_device():
    """Where large networks are counted without memory."""
    model = on_meta("resnet8", block="ab").eval()
    assert model(torch.empty(1, 3, 8, 8, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet20", 9, "bn2"),
        ("resnet56", 27, "bn2"),
        ("resnet110", 54, "bn2"),
        ("resnet164", 54, "conv3"),
        ("resnet164v1", 54, "conv3"),
        ("wrn22_10", 9, "conv2"),
        ("wrn16_2", 6, "conv2"),
    ],
)
def test_recalibration_sites_are_counted_and_named(name, count, last):
    model = on_meta(name)
    sites = model.recalibration_sites
    assert len(sites) == len(set(sites)) == count
    assert {site.rpartition(".")[2] for site in sites} == {last}
    gates = attached(on_meta(name, block="ab"))
    assert list(gates) == sites


@pytest.mark.parametrize("name", SMALL)
def test_a_block_is_its_shortcut_where_its_site_gives_zero(name):
    model = randomise(SMALL[name]()).eval()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for site in model.recalibration_sites:
        block = site.rpartition(".")[0]
        model.get_submodule(site).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
        model.get_submodule(block).register_forward_hook(
            lambda m, args, out, block=block: seen.__setitem__(block, (args[0], out))
        )
    model(images())
    assert len(seen) == len(model.recalibration_sites)
    changes = 0
    for name, (x, out) in seen.items():
        block = model.get_submodule(name)
        if name.startswith("layer1") or not name.endswith(".0"):
            expected = x
        else:
            changes += 1
            expected = x[:, :, ::2, ::2]
        if isinstance(model, ResNetCifar):
            extra = (out.shape[1] - x.shape[1]) // 2
            expected = F.pad(expected, (0, 0, 0, 0, extra, extra)).relu()
        elif isinstance(block.downsample, nn.Conv2d):
            stride = x.shape[2] // out.shape[2]
            expected = F.conv2d(block.bn1(x).relu(), block.downsample.weight, None, stride)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert changes == 2


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_start_from_he_initialisation(name):
    """N(0, 2 / (k * k * outputs)); zero biases."""
    torch.manual_seed(0)
    model = SMALL[name]()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            outputs, area = module.out_channels, module.kernel_size[0] ** 2
            values = module.weight.detach()
            tolerance = 5 / math.sqrt(2 * values.numel())
            assert values.std() / math.sqrt(2 / (outputs * area)) == pytest.approx(1, abs=tolerance)
            assert module.bias is None or not module.bias.any()


# create_model


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


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("chans", [1, 4])
def test_in_chans_and_num_classes(name, chans):
    model = SMALL[name](in_chans=chans, num_classes=5).double()
    assert model(images(chans=chans)).shape == (2, 5)
    with pytest.raises(RuntimeError):
        model(images(chans=3))


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
    ("name", "nearest"),
    [
        ("resnet57", "resnet56"),
        ("ResNet56", "resnet56"),
        ("wrn22-10", "wrn22_10"),
        ("x", "wrn16_4"),
    ],
)
def test_unknown_names_give_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*{nearest}") as caught:
        ab.create_model(name)
    assert "\n" not in str(caught.value)


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


def test_a_wide_network_of_any_depth_and_width():
    model = ab.create_model("wrn10_3", num_classes=4)
    assert model.num_features == 3 * 64
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


# timm's conventions


@pytest.mark.parametrize("name", SMALL)
def test_head_and_features_follow_timm(name):
    model = randomise(SMALL[name](num_classes=6)).eval()
    x = images()
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (2, model.num_features, 3, 3)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(model.forward_head(features), model(x))
    assert model(x).shape == (2, model.num_classes) == (2, 6)
    assert model.get_classifier().in_features == model.num_features
    model.reset_classifier(11)
    assert model.num_classes == model.get_classifier().out_features == 11
    assert model.double()(x).shape == (2, 11)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), pooled)
    assert not list(model.get_classifier().parameters())


@pytest.mark.parametrize("recipe", [None, "ab"])
def test_num_classes_0_gives_features(recipe):
    model = ab.create_model("resnet8", block=recipe, num_classes=0)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 64)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet1?", {"resnet14", "resnet18"}),
        ("resnet1[16]*", {"resnet110", "resnet164", "resnet164v1"}),
        ("wrn*_10", {"wrn22_10", "wrn28_10"}),
        ("resnet164", {"resnet164"}),
        ("*v1", {"resnet164v1", "resnet50v1", "resnet101v1", "resnet152v1"}),
        ("*net_g?", {"shufflenet_g3"}),
        ("resnet", set()),
    ],
)
def test_list_models_filters(pattern, names):
    found = ab.list_models(pattern)
    assert len(found) == len(set(found))
    assert set(found) == names


def test_list_models_lists_the_papers_networks():
    papers = {*(f"resnet{d}" for d in (20, 32, 44, 56, 110)), "resnet164", "wrn22_10"}
    assert papers | {"resnet164v1"} <= set(ab.list_models())
    assert ab.list_models() == list(MODELS)


# every registered model


@pytest.mark.parametrize("recipe", [None, "ab"])
@pytest.mark.parametrize("name", [n for n in ab.list_models() if not re.match("wrn2._10", n)])
def test_forward_and_backward_reach_every_parameter(name, recipe):
    torch.manual_seed(0)
    model = ab.create_model(name, block=recipe, num_classes=3)
    x = torch.randn(4, 3, 8, 8)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        dead = name == "resnet164v1" and parameter_name.endswith("conv3.bias")
        # (without gates, every way from those biases leads through a norm that removes the mean)
        assert dead or parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("height", "width"), [(17, 19), (8, 32), (3, 5), (1, 1)])
def test_odd_input_sizes(name, height, width):
    model = randomise(SMALL[name]()).eval()
    x = images(2, height, width)
    quarter = tuple(math.ceil(math.ceil(side / 2) / 2) for side in (height, width))
    assert model.forward_features(x).shape[2:] == quarter
    logits = model(x)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    torch.testing.assert_close(model(x[1:]), logits[1:])


@pytest.mark.parametrize("name", SMALL)
def test_the_input_is_left_as_it_was(name):
    """The in-place ReLUs must not reach the caller's images."""
    model, x = SMALL[name]().double(), images()
    before = x.clone()
    model(x)
    assert torch.equal(x, before)
