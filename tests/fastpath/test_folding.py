"""`ab.fold` computes what the network computes, in float64 and against other libraries."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from support.folded_networks import (
    IN_FLOAT64,
    MEANS,
    OneBranch,
    boosted,
    norms_left,
    tied,
)
from support.gated_networks import NETWORKS, difference, images, network
from support.networks import randomise
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import ATTRIBUTE, attached

pytestmark = WARNINGS_ARE_ERRORS
# layer norms, and convolutions whose weights are standardised, are not folded
MERGED_ONLY = ("timm/convnext_atto", "timm/edgenext_xx_small", "timm/nf_regnet_b0")
FOLDED = [name for name in NETWORKS if name not in MERGED_ONLY]


@pytest.mark.parametrize("recipe", ["ab", "ab_plus", "se", None])
@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_network_is_the_network(name, recipe):
    model, x = network(name, recipe), images(name)
    folded = ab.fold(model, example=x[:1], verify=recipe == "ab_plus")
    assert difference(model, folded, x) < IN_FLOAT64
    report = ab.fast_path(folded)
    assert report.kind == "folded"
    assert report.taken == (0 if recipe is None else NETWORKS[name][1]), str(report)
    assert attached(folded) == {}
    left = norms_left(folded)
    if name not in ("wrn10_1", "preact11"):  # theirs come before the convolutions
        assert left == []
    if recipe != "ab":
        return
    single = copy.deepcopy(model).float()
    folded = ab.fold(single, example=x[:1], verify=True)
    with torch.no_grad():  # a deep network amplifies rounding: it is compared with itself
        exact, before, after = model(x), single(x.float()), folded(x.float())
    errors = [float((y - exact).abs().max() / exact.abs().max()) for y in (before, after)]
    assert errors[1] < max(1e-5, 3 * errors[0]), errors


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("recipe", [*ab.list_recipes(), "ab_g2", "ab_g4"])
def test_every_recipe(name, recipe, form):
    model, x = network(name, recipe), images(name)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    report = ab.fast_path(folded)
    fast = recipe in MEANS or recipe == "ab_g4"
    assert report.taken == (3 if fast else 0), str(report)
    if not fast:
        assert all("more than each channel's mean" in p.how for p in report.places)
        assert len(attached(folded)) == 3


@pytest.mark.parametrize("recipe", MEANS)
def test_gates_that_start_at_the_identity(recipe, form):
    """p = 2 sigmoid(...): the factor of two is not lost."""
    model = network(recipe=None)
    x = images()
    bare = copy.deepcopy(model)
    if recipe in ("ge_theta_minus", "design_e"):
        with pytest.raises(ValueError):
            ab.boost(model, recipe, example=x[:1], init="identity")
        return
    ab.boost(model, recipe, example=x[:1], init="identity").eval()
    folded = ab.fold(model, example=x[:1])
    assert difference(bare, folded, x) < IN_FLOAT64
    assert difference(randomise(model, signs=True), ab.fold(model, example=x[:1]), x) < IN_FLOAT64


NORMS = {
    "no affine": lambda: nn.BatchNorm2d(8, affine=False),
    "eps": lambda: nn.BatchNorm2d(8, eps=0.3),
    "sync": lambda: nn.SyncBatchNorm(8),
    "momentum none": lambda: nn.BatchNorm2d(8, momentum=None),
}


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("norm", NORMS)
def test_every_kind_of_norm(norm, recipe, form):
    model, x = boosted(OneBranch(norm=NORMS[norm]()), recipe)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert norms_left(folded) == []


@pytest.mark.parametrize("where", [["conv2"], ["bn1", "bn2"], ["bn1"], ["conv1", "bn2"]])
def test_gates_at_other_places(where, form):
    model, x = boosted(OneBranch(), where=where)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert ab.fast_path(folded).taken == len(where)


@pytest.mark.parametrize("name", ["torchvision/densenet121", "torchvision/vgg11_bn"])
def test_plain_networks_of_torchvision(name):
    side = 64
    model = ab.create_model(name, num_classes=5)
    model = randomise(model, signs=True).double().eval()
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    before = len(norms_left(model))
    folded = ab.fold(model, example=x, verify=True)
    assert difference(model, folded, x) < IN_FLOAT64
    # densenet's norms before the first convolution of a layer, and after a concatenation, stay
    assert len(norms_left(folded)) == (62 if "densenet" in name else 0) < before


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1", "timm/regnetx_002"])
@pytest.mark.parametrize("fuse", [False, True])
def test_the_model_itself_does_not_change(name, fuse):
    model, x = network(name), images(name, 4)
    if fuse:
        ab.fuse(model, example=x[:1])
    state = copy.deepcopy(model.state_dict())
    before = [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()]
    hooks = [list(m._forward_hooks.values()) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        y = model(x)
    folded = ab.fold(model, example=x[:1])
    assert folded is not model
    with torch.no_grad():
        for value in folded.parameters():
            value.zero_()
        assert torch.equal(model(x), y)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()] == before
    assert [list(m._forward_hooks.values()) for m in model.modules()] == hooks
    assert [p.requires_grad for p in model.parameters()] == flags
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_fused_network_folds():
    model, x = network(), images()
    fused = ab.fuse(copy.deepcopy(model), example=x[:1])
    folded = ab.fold(fused, example=x[:1], verify=True)
    assert difference(model, folded, x) < IN_FLOAT64
    assert ab.fast_path(folded).taken == ab.fast_path(fused).taken == 3
    assert ab.fast_path(fused).kind == "fused"


def test_a_folded_network_still_has_gradients():
    model, x = network(), images()
    folded = ab.fold(model, example=x[:1])
    grads = []
    for other in (model, folded):
        given = x.clone().requires_grad_()
        other(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)
    assert all(p.grad is not None for p in folded.parameters())


def traced(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, (x,))


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_copies_compilers_and_exporters(name, form):
    model, x = network(name), images(name)
    folded = ab.fold(model, example=x[:1])
    with torch.no_grad():
        y = folded(x)
        for other in (
            copy.deepcopy(folded),
            pickle.loads(pickle.dumps(folded)),
            torch.compile(folded, backend="aot_eager", fullgraph=True),
            torch.export.export(folded, (x,)).module(),
            traced(folded, x),
        ):
            torch.testing.assert_close(other(x), y, rtol=1e-10, atol=1e-11)
        again = copy.deepcopy(folded)
        again.load_state_dict(folded.state_dict())
        assert ab.fast_path(pickle.loads(pickle.dumps(folded))) == ab.fast_path(folded)


def test_a_folded_network_moves_as_one():
    folded = ab.fold(network(), example=images()[:1])
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert {p.dtype for p in folded.to(dtype).parameters()} == {dtype}
    assert {p.device.type for p in folded.to("meta").parameters()} == {"meta"}


@pytest.mark.parametrize("module", ["", "layer1.0.bn1", "layer2.0.bn2", "gate"])
def test_training_mode_is_refused(module):
    model, x = network(), images()
    if module == "gate":
        module = f"layer1.0.bn2.{ATTRIBUTE}.0.bn"
    model.get_submodule(module).train()
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)") as caught:
        ab.fold(model, example=x[:1])
    assert module in str(caught.value)
    assert len(attached(model)) == 3


def test_what_cannot_be_folded_is_refused():
    model, x = network(), images()
    with pytest.raises(ValueError, match="folded already"):
        ab.fold(ab.fold(model, example=x[:1]), example=x[:1])
    for wrapped, words in (
        (torch.compile(model, backend="eager"), r"compile"),
        (nn.DataParallel(model), r"model\.module"),
        (None, "expected an nn.Module"),
    ):
        with pytest.raises(ValueError, match=words):
            ab.fold(wrapped, example=x[:1])
    with pytest.raises(ValueError, match="cannot take an image"):
        ab.fold(model, example=x[:1, :2])
    with pytest.raises(ValueError, match="folded already"):
        ab.fuse(ab.fold(model, example=x[:1]), example=x[:1])


def test_a_tied_weight_is_folded_twice():
    model, x = boosted(tied())
    folded = ab.fold(model, example=x[:1])
    assert model.conv1.weight is model.conv2.weight
    assert norms_left(folded) == []
    assert difference(model, folded, x) < IN_FLOAT64


@pytest.mark.parametrize("recipe", ["ab", "se"])
def test_a_network_where_every_convolution_has_a_gate(recipe, form):
    model = ab.create_model(
        "resnet8", block=recipe, where="conv", num_classes=5, input_size=(3, 12, 12)
    )
    model, x = randomise(model, signs=True).double().eval(), images()
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert ab.fast_path(folded).taken == len(attached(model))


@pytest.mark.parametrize("recipe", ["ab", "se", None])
def test_a_trained_network(recipe, shared):
    """akamaster's ResNet-20 on images of CIFAR-10 and on noise, in float32."""
    from accuracy_booster.data import load_data, normalise
    from accuracy_booster.models.resnet_cifar import from_akamaster

    weights, place = shared / "weights/resnet20_cifar10.th", shared / "data/cifar10"
    for path in (weights, place):
        if not path.exists():
            pytest.skip(f"needs {path}, which is absent")
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    model = ab.create_model("resnet20")
    model.load_state_dict(from_akamaster(stored["state_dict"]))
    model.eval()
    data = load_data(place, splits=("test",), eval_batch_size=64)
    pixels, labels = next(iter(data.loaders["test"]))
    x = normalise(pixels, data.mean, data.std)
    with torch.no_grad():
        before = model(x)
    if recipe is not None:
        ab.boost(model, recipe, init="identity").eval()
    folded = ab.fold(model, example=x, verify=True)
    assert norms_left(folded) == []
    assert difference(model, folded, x) < 1e-5
    assert difference(model, folded, torch.randn(8, 3, 32, 32)) < 1e-5
    with torch.no_grad():
        after = folded(x)
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert (after.argmax(1) == labels).float().mean() > 0.85
