"""`ab.fold` computes what the network computes: in float64, against other forms and libraries."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import accuracy_booster as ab
from accuracy_booster.fastpath import folding
from accuracy_booster.fastpath.folded_modules import FoldedGate, GatedConv2d
from accuracy_booster.models.preact_cifar import PreActResNet
from accuracy_booster.surgery import ATTRIBUTE, attached

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]

NETWORKS = {  # the side of its images, the places of its gates
    "resnet8": (12, 3),
    "wrn10_1": (12, 3),
    "preact11": (12, 3),
    "shufflenet_g3": (32, 16),
    "torchvision/resnet18": (32, 8),
    "torchvision/mobilenet_v2": (32, 10),
    "timm/resnet26": (32, 8),
    "timm/regnetx_002": (32, 13),
    "timm/mobilenetv2_050": (32, 10),
    "timm/efficientnet_lite0": (32, 9),
}
FORMS = ["input", "output"]
MEANS = [  # read each channel's mean alone
    *("ab", "ab_plus", "ab_nobn", "ab_plus_nobn", "ab_g2", "se", "eca"),
    *("ge_theta_minus", "design_e", "design_f"),
]
IN_FLOAT64 = 1e-10


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Where descriptors come from, wherever there is a choice."""
    real = folding.choose_form

    def chosen(conv, *given):
        return request.param if folding.has_pooled_form(conv) else real(conv, *given)

    monkeypatch.setattr(folding, "choose_form", chosen)
    return request.param


def randomise(model):
    """Norms far from the identity, so that no mistake hides; maps keep their size."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.weight is not None:
                    sign = torch.randn_like(module.weight).sign()
                    module.weight.uniform_(0.5, 1.5).mul_(sign)
                    module.bias.normal_(std=0.5)
                if module.running_mean is not None:
                    module.running_mean.normal_(std=0.5)
                    module.running_var.uniform_(0.3, 3)
        for gate in attached(model).values():
            for value in gate.parameters():
                value.normal_()
    return model.eval()


def network(name="resnet8", recipe="ab", **options):
    side = NETWORKS.get(name, (32,))[0]
    if name == "preact11":
        model = PreActResNet(11, num_classes=5, variant="v1")
        if recipe is not None:
            ab.boost(model, recipe, example=torch.zeros(1, 3, side, side), **options)
    else:
        model = ab.create_model(
            name, block=recipe, num_classes=5, input_size=(3, side, side), **options
        )
    return randomise(model).double()


def images(name="resnet8", n=2):
    side = NETWORKS.get(name, (32,))[0]
    return torch.randn(n, 3, side, side, dtype=torch.float64)


def difference(model, other, x):
    """max |difference| over max |output|."""
    with torch.no_grad():
        y, again = model(x), other(x)
    assert again.dtype == y.dtype
    assert again.shape == y.shape
    assert y.isfinite().all()
    return float((again - y).abs().max() / y.abs().max())


def norms_left(model):
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, m in model.named_modules() if isinstance(m, kinds)]


class Net(nn.Module):
    """A stem, a residual branch that ends in `last` and `norm`, and a head."""

    def __init__(self, last=None, norm=None, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = last or nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = norm or nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 4)

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def block(self, x):
        return F.relu(self.branch(x) + x)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def boosted(model, recipe="ab", side=7, where=("bn2",), n=3):
    """(the network with gates, images), in float64."""
    x = torch.randn(n, 3, side, side, dtype=torch.float64)
    if recipe is not None:
        ab.boost(model, recipe, example=x[:1].float(), where=list(where))
    return randomise(model).double(), x


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ab", "ab_plus", "se", None])
@pytest.mark.parametrize("name", NETWORKS)
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


@pytest.mark.parametrize("name", ["resnet8", "preact11", "timm/regnetx_002", "shufflenet_g3"])
def test_both_forms_are_the_network(name, form):
    """Grouped and pointwise convolutions too, of other batches and sizes than the example's."""
    model, x = network(name), images(name)
    folded = ab.fold(model, example=x[:1])
    gates = [m for m in folded.modules() if isinstance(m, GatedConv2d)]
    assert len(gates) == NETWORKS[name][1]
    assert all(m.form == form for m in gates)
    side = x.shape[2]
    for n, height, width in ((1, side, side), (5, side, side), (2, side + 9, side + 16)):
        given = torch.randn(n, 3, height, width, dtype=torch.float64)
        assert difference(model, folded, given) < IN_FLOAT64


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
    assert difference(randomise(model), ab.fold(model, example=x[:1]), x) < IN_FLOAT64


CONVS = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x3 dilated": {"kernel_size": (5, 3), "padding": (4, 1), "dilation": (2, 1)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8},
    "grouped 1x1": {"kernel_size": 1, "groups": 4},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "same": {"kernel_size": 3, "padding": "same"},
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recipe", ["ab", "ab_g2", "se", "eca"])
@pytest.mark.parametrize("conv", CONVS)
def test_every_kind_of_convolution(conv, recipe, bias, form):
    model, x = boosted(Net(nn.Conv2d(8, 8, bias=bias, **CONVS[conv])), recipe)
    folded = ab.fold(model, example=x[:1])
    assert ab.fast_path(folded).taken == 1
    for given in (x, torch.randn(1, 3, 2, 9, dtype=torch.float64)):
        assert difference(model, folded, given) < IN_FLOAT64
    assert norms_left(folded) == []


NORMS = {
    "no affine": lambda: nn.BatchNorm2d(8, affine=False),
    "eps": lambda: nn.BatchNorm2d(8, eps=0.3),
    "sync": lambda: nn.SyncBatchNorm(8),
    "momentum none": lambda: nn.BatchNorm2d(8, momentum=None),
}


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("norm", NORMS)
def test_every_kind_of_norm(norm, recipe, form):
    model, x = boosted(Net(norm=NORMS[norm]()), recipe)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert norms_left(folded) == []


@pytest.mark.parametrize("where", [["conv2"], ["bn1", "bn2"], ["bn1"], ["conv1", "bn2"]])
def test_gates_at_other_places(where, form):
    model, x = boosted(Net(), where=where)
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert ab.fast_path(folded).taken == len(where)


@pytest.mark.parametrize("name", ["torchvision/densenet121", "torchvision/vgg11_bn"])
def test_plain_networks_of_torchvision(name):
    side = 64
    model = ab.create_model(name, num_classes=5)
    model = randomise(model).double()
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    before = len(norms_left(model))
    folded = ab.fold(model, example=x, verify=True)
    assert difference(model, folded, x) < IN_FLOAT64
    # densenet's norms before the first convolution of a layer, and after a concatenation, stay
    assert len(norms_left(folded)) == (62 if "densenet" in name else 0) < before


def test_a_norm_is_folded_as_torch_folds_it():
    """Weights and biases against torch's own fuse_conv_bn_eval."""
    conv, norm = nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8, eps=1e-3)
    model = randomise(nn.Sequential(conv, norm)).double()
    theirs = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    ours = folding.fold_norm(model[0], model[1])
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(layout, form):
    model, x = network("resnet8"), images("resnet8")
    folded = ab.fold(model.to(memory_format=layout), example=x[:1])
    assert difference(model, folded, x.contiguous(memory_format=layout)) < IN_FLOAT64


# --- what it leaves alone -------------------------------------------------------------------------


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_networks_fold_in_float64(dtype, form):
    """Only the weights are looked at: not every CPU convolves in 16 bits."""
    conv, norm = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
    randomise(nn.Sequential(conv, norm)).to(dtype)
    ours = folding.fold_norm(conv, norm)
    exact = folding.fold_norm(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    assert ours.weight.dtype == ours.bias.dtype == dtype
    torch.testing.assert_close(ours.weight, exact.weight.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(ours.bias, exact.bias.to(dtype), rtol=0, atol=0)
    gate = ab.Recalibrate(8, "ab").to(dtype).eval()
    folded = folding.fold_gate(ours, gate, form)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}


# --- what it refuses ------------------------------------------------------------------------------


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


def test_verifying_finds_a_wrong_fold(monkeypatch):
    model, x = network(), images()
    real = folding.fold_norm

    def wrong(conv, norm):
        new = real(conv, norm)
        with torch.no_grad():
            new.bias.add_(1e-3)
        return new

    monkeypatch.setattr(folding, "fold_norm", wrong)
    for given in (x, x[:1] * 0):  # zeros are no test: it then takes random images
        with pytest.raises(RuntimeError, match="from the exact output"):
            ab.fold(model, example=given, verify=True)
    assert difference(model, ab.fold(model, example=x), x) > 1e-5


# --- what stays unfolded and right ----------------------------------------------------------------


class Twice(Net):
    """A convolution that two norms read in turn."""

    def __init__(self):
        super().__init__()
        self.bn3 = nn.BatchNorm2d(8)

    def branch(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(F.relu(self.bn3(self.conv2(x)))))


class Shared(Net):
    """A convolution's output that two norms read."""

    def __init__(self):
        super().__init__()
        self.bn3 = nn.BatchNorm2d(8)

    def branch(self, x):
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.bn2(z) * self.bn3(z).sigmoid()


class Skip(Net):
    """A convolution's output that is read past its norm."""

    def branch(self, x):
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.bn2(z) + z


class OneNorm(Net):
    """A norm that runs after two convolutions."""

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn2(self.conv1(x)))))


class Between(Net):
    """Something stands between convolution and norm."""

    def branch(self, x):
        return self.bn2(F.relu(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Returned(Net):
    """A convolution's output is returned too."""

    def forward(self, x):
        x = self.stem(x)
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return torch.cat([self.head(F.relu(self.bn2(z) + x).mean((2, 3))), z.mean((2, 3))], 1)


class Apart(Net):
    """The same as a pair, so that nothing but the caller reads the convolution's output."""

    def forward(self, x):
        x = self.stem(x)
        z = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return self.head(F.relu(self.bn2(z) + x).mean((2, 3))), z


class Sum(Net):
    """The sum before the ReLU, and the branch, are returned too."""

    def forward(self, x):
        x = self.stem(x)
        y = self.branch(x)
        total = y + x
        return self.head(F.relu(total).mean((2, 3))), total, y


def tied():
    model = Net()
    model.conv2.weight = model.conv1.weight
    return model


def without_statistics():
    return Net(norm=nn.BatchNorm2d(8, track_running_stats=False))


def by_weight_norm():
    return Net(weight_norm(nn.Conv2d(8, 8, 3, padding=1)))


def transposed():
    return Net(nn.ConvTranspose2d(8, 8, 3, padding=1))


ODD = {  # the norms that stay, without gates
    Twice: {"bn2", "bn3"},
    Shared: {"bn2", "bn3"},
    Skip: {"bn2"},
    OneNorm: {"bn2"},
    Between: {"bn2"},
    Returned: {"bn2"},
    tied: set(),
    without_statistics: {"bn2"},
    by_weight_norm: {"bn2"},
    transposed: {"bn2"},
}


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("build", ODD, ids=lambda f: f.__name__)
def test_odd_networks_stay_right(build, recipe, form):
    model, x = boosted(build(), recipe)
    folded = ab.fold(model, example=x[:1], verify=True)
    assert difference(model, folded, x) < IN_FLOAT64
    if recipe is None:
        unused = {"bn1"} if build is OneNorm else set()
        assert set(norms_left(folded)) - unused == ODD[build]
    elif build is not tied:
        (place,) = ab.fast_path(folded).places
        assert not place.fast
        assert place.how
        assert len(attached(folded)) == 1


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("build", [Apart, Sum])
def test_maps_that_are_returned_stay_right(build, recipe, form):
    model, x = boosted(build(), recipe)
    folded = ab.fold(model, example=x[:1])
    with torch.no_grad():
        for found, expected in zip(folded(x), model(x), strict=True):
            assert isinstance(found, torch.Tensor)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_a_tied_weight_is_folded_twice():
    model, x = boosted(tied())
    folded = ab.fold(model, example=x[:1])
    assert model.conv1.weight is model.conv2.weight
    assert norms_left(folded) == []
    assert difference(model, folded, x) < IN_FLOAT64


@pytest.mark.parametrize("module", ["conv1", "bn1", "conv2", "bn2"])
@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("recipe", ["ab", None])
def test_a_users_hook_sees_and_changes_what_it_did(module, pre, recipe, form):
    model = Net()
    seen = []
    if pre:
        model.get_submodule(module).register_forward_pre_hook(lambda m, a: (2 * a[0],))
    else:
        model.get_submodule(module).register_forward_hook(lambda m, a, y: seen.append(y) or 2 * y)
    model, x = boosted(model, recipe)
    folded = ab.fold(model, example=x[:1])
    seen.clear()
    assert difference(model, folded, x) < IN_FLOAT64
    if not pre:
        first, second = seen
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("pre", [False, True])
def test_a_hook_on_a_convolution_with_a_gate(pre, form):
    model, x = Net(), None
    if pre:
        model.conv2.register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    else:
        model.conv2.register_forward_hook(lambda m, a, y: 2 * y + 1)
    model, x = boosted(model, where=["conv2"])
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    (place,) = ab.fast_path(folded).places
    assert not place.fast
    assert "hook" in place.how


class Branch(nn.Module):
    """x + branch(x): the branch is a module whose output its last norm gives."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        layers = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        self.branch = nn.Sequential(*layers, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.path = nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        return F.relu(self.path(self.branch(x)) + x)


@pytest.mark.parametrize("name", ["branch", "path"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_on_what_hands_the_map_on_see_tensors(name, when, form):
    model, x = boosted(Branch(), where=["branch.4"])
    seen = []

    def register(network):
        network.get_submodule(name).register_forward_hook(lambda m, a, y: seen.append(y))

    if when == "before":
        register(model)
    folded = ab.fold(model, example=x[:1])
    assert ab.fast_path(folded).taken == 1
    if when == "after":
        register(model)
        register(folded)
    seen.clear()
    assert difference(model, folded, x) < IN_FLOAT64
    torch.testing.assert_close(*seen, rtol=1e-10, atol=1e-11)


def test_a_branch_that_is_a_module_copies(form):
    model, x = boosted(Branch(), where=["branch.4"])
    fused = ab.fuse(copy.deepcopy(model), example=x[:1])
    for other in (fused, ab.fold(model, example=x[:1])):
        for again in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
            seen = []
            again.branch.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y))
            assert difference(model, again, x) < IN_FLOAT64
            assert isinstance(seen[0], torch.Tensor)
            assert list(again.state_dict()) == list(other.state_dict())
            assert len(list(again.modules())) == len(list(other.modules()))


def test_the_gate_is_known_from_fewer_numbers():
    """No norm is left in a folded gate: one affine map and a sigmoid, or two with a ReLU."""
    for recipe, stages in (("ab", 1), ("ab_plus", 1), ("se", 2), ("eca", 1)):
        folded = ab.fold(network(recipe=recipe), example=images()[:1])
        gates = [m for m in folded.modules() if isinstance(m, FoldedGate)]
        assert len(gates) == 3
        for gate in gates:
            assert len(gate.stages) == stages
            p = gate(torch.randn(4, next(gate.parameters()).shape[-1], dtype=torch.float64))
            assert p.shape[0] == 4
            assert ((p >= 0) & (p <= 1)).all()
            assert (p.std(0) > 0).any()


@pytest.mark.parametrize("recipe", ["ab", "se"])
def test_a_network_where_every_convolution_has_a_gate(recipe, form):
    model = ab.create_model(
        "resnet8", block=recipe, where="conv", num_classes=5, input_size=(3, 12, 12)
    )
    model, x = randomise(model).double(), images()
    folded = ab.fold(model, example=x[:1])
    assert difference(model, folded, x) < IN_FLOAT64
    assert ab.fast_path(folded).taken == len(attached(model))


# --- trained weights ------------------------------------------------------------------------------


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
