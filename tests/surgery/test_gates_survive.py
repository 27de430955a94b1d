"""A gate never goes missing without a word, and acts once, whatever is done to a network."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy
import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

import accuracy_booster as ab
from accuracy_booster.surgery import attached

SIZE = (2, 3, 32, 32)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def force(model, p=0.5):
    """Make every gate's weight p, whatever the images: its norm gives logit(p) alone."""
    for gate in attached(model).values():
        norm = gate[0].bn
        nn.init.zeros_(norm.weight)
        nn.init.constant_(
            norm.bias, float(torch.logit(torch.tensor(p / gate.recipe.gates[0].scale)))
        )
    return model


def randomise(model, seed=0):
    """Norms that are no identities, and a fixed start for the rest."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def halved(model, names):
    """The network with the outputs of the named modules halved."""
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, args, y: y / 2)
    return model


@pytest.fixture
def resnet():
    """A boosted ResNet-18 with gates at 0.5, images, what it gives, and what its base gives."""
    torch.manual_seed(1)
    base = randomise(torchvision.models.resnet18(num_classes=5)).eval()
    x = torch.randn(SIZE)
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1])).eval()
    expected = halved(copy.deepcopy(base), attached(model))(x).detach()
    torch.testing.assert_close(model(x), expected, **CLOSE)
    return model, x, expected


def assert_gated(network, x, expected):
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, **CLOSE)


# torch.fx and quantisation


def test_symbolic_trace_keeps_the_gates(resnet):
    model, x, expected = resnet
    assert_gated(torch.fx.symbolic_trace(model), x, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", ["optimization.fuse", "fuse_fx", "prepare_fx"])
def test_fx_tools_keep_the_gates(resnet, tool):
    model, x, expected = resnet
    if tool == "optimization.fuse":
        from torch.fx.experimental.optimization import fuse

        assert_gated(fuse(model), x, expected)
        return
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import fuse_fx, prepare_fx

    if tool == "fuse_fx":
        assert_gated(fuse_fx(model), x, expected)
    else:
        assert_gated(prepare_fx(model, get_default_qconfig_mapping(), (x,)), x, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("qat", [False, True])
def test_eager_fusing_refuses_and_says_what_to_do(resnet, qat):
    from torch.ao.quantization import fuse_modules, fuse_modules_qat

    model, x, expected = resnet
    run = fuse_modules_qat if qat else fuse_modules
    model.train(qat)
    pair = [["layer1.0.conv2", "layer1.0.bn2"]]
    with pytest.raises((AssertionError, NotImplementedError), match=r"ab\.materialize\(model\)"):
        run(model, pair)
    assert_gated(model.eval(), x, expected)
    ordinary, _ = ab.materialize(model.train(qat))
    fused = run(ordinary, [["layer1.0.conv2", "layer1.0.bn2.base"]])
    assert_gated(fused.eval(), x, expected)


# modules that are rebuilt, replaced or removed


def frozen_by_timm(model):
    return timm.layers.freeze_batch_norm_2d(model)


def rebuilt_by_class(model):
    """As code does that copies each norm by its class."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.BatchNorm2d):
                new = child.__class__(child.num_features)
                new.load_state_dict({k: v for k, v in child.state_dict().items() if "." not in k})
                setattr(module, name, new.train(child.training))
    return model


def written_past_the_hook(model):
    """As code does that writes into `_modules`, which no hook of torch sees."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.BatchNorm2d):
                module._modules[name] = timm.layers.freeze_batch_norm_2d(child)
    return model


REBUILDERS = [
    nn.SyncBatchNorm.convert_sync_batchnorm,
    frozen_by_timm,
    rebuilt_by_class,
    written_past_the_hook,
]


@pytest.mark.filterwarnings("ignore:a tool rebuilt .* and dropped its gate")
@pytest.mark.parametrize("rebuild", REBUILDERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("how", ["eager", "compiled", "export", "saved", "unboost"])
def test_gates_go_onto_rebuilt_norms(resnet, rebuild, how, tmp_path):
    model, x, expected = resnet
    names = list(attached(model))
    model = rebuild(model).eval()
    assert list(attached(model)) == names
    if how == "compiled":  # without a pass before
        assert_gated(torch.compile(model, backend="eager"), x, expected)
        torch._dynamo.reset()
    elif how == "export":
        assert_gated(torch.export.export(model, (x,)).module(), x, expected)
    elif how == "saved":
        ab.save(model, tmp_path, full=True)
    elif how == "unboost":
        ab.unboost(model)
        assert not attached(model)
        assert not any(".recalibrate." in key for key in model.state_dict())
    if how != "unboost":
        assert_gated(model, x, expected)


def test_gates_that_a_tool_drops_are_missed_aloud_and_repaired(resnet):
    model, x, expected = resnet
    names = {name for name, _ in model.named_parameters()}
    copied = written_past_the_hook(copy.deepcopy(model))
    with pytest.warns(UserWarning, match=r"dropped its gate.*optimizer.*ab\.repair\(model\)"):
        assert_gated(copied, x, expected)
    model = written_past_the_hook(model.double()).eval()
    assert ab.repair(model) is model
    gates = {name for name in names if ".recalibrate." in name}
    assert gates <= {name for name, _ in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_gated(model, x.double(), expected.double())


def test_a_rebuilt_network_compiles_whole_with_its_gates_or_not_at_all(resnet):
    model, x, expected = resnet
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert_gated(torch.compile(synced, backend="eager", fullgraph=True), x, expected)
    torch._dynamo.reset()
    model = written_past_the_hook(model).eval()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()


def test_an_identity_in_place_of_a_norm_gets_its_gate(resnet):
    model, x, _ = resnet
    model.layer1[0].bn2 = nn.Identity()
    base = ab.unboost(copy.deepcopy(model))
    assert_gated(model, x, halved(base, attached(model))(x).detach())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_removed_norm_is_an_error_that_says_what_to_do(resnet, compiled):
    model, x, _ = resnet
    block = model.layer1[0]
    del block.bn2
    block.forward = lambda x: block.conv1(x)  # as ultralytics' fuse does
    network = torch.compile(model, backend="eager") if compiled else model
    with pytest.raises(RuntimeError, match=r"'bn2'.*removed.*ab\.unboost.*ab\.fold"):
        network(x)
    torch._dynamo.reset()
    ab.unboost(model)(x)


class Steps(nn.Module):
    """A residual block whose branch is a Sequential."""

    def __init__(self, *steps):
        super().__init__()
        self.b = nn.Sequential(*steps)

    def forward(self, x):
        return torch.relu(x + self.b(x))


def steps():
    return [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)]


def test_a_step_removed_before_a_gated_one_moves_the_gate():
    x = torch.randn(2, 4, 6, 6)
    model = force(ab.boost(Steps(*steps()), "ab", example=x[:1], where=["b.3"])).eval()
    base = ab.unboost(copy.deepcopy(model))
    del model.b[2], base.b[2]
    assert_gated(model, x, halved(base, ["b.2"])(x).detach())
    assert list(attached(model)) == ["b.2"]


def test_a_gated_step_removed_is_an_error_though_another_takes_its_number():
    x = torch.randn(2, 4, 6, 6)
    model = ab.boost(Steps(*steps(), nn.Tanh()), "ab", example=x[:1], where=["b.3"]).eval()
    del model.b[3]
    with pytest.raises(RuntimeError, match=r"'3'.*removed after boosting"):
        model(x)


def test_a_gate_whose_norm_is_shared_by_two_blocks_survives_rebuilding():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Steps(*steps()), Steps(*steps())
            self.two.b[3] = self.one.b[3]

        def forward(self, x):
            return self.two(self.one(x))

    x = torch.randn(2, 4, 6, 6)
    base = Shared().eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["one.b.3"])).eval()
    expected = halved(base, ["one.b.3"])(x).detach()
    assert_gated(model, x, expected)
    for block in (model.one, model.two):  # a tool that replaces each place by itself
        conv = nn.Conv2d(4, 4, 1)
        conv.load_state_dict(base.one.b[3].state_dict())
        block.b[3] = conv
    assert_gated(model, x, expected)


# parametrisations, pruning, copies


@pytest.mark.parametrize("first", ["parametrised", "boosted"])
@pytest.mark.parametrize("removed", [False, True])
def test_parametrised_convolutions_keep_their_gates(first, removed):
    x = torch.randn(2, 4, 6, 6)
    model = Steps(*steps()).eval()
    base = copy.deepcopy(model)
    if first == "parametrised":
        parametrizations.weight_norm(model.b[3])
    force(ab.boost(model, "ab", example=x[:1], where=["b.3"])).eval()
    if first == "boosted":
        parametrizations.weight_norm(model.b[3])
    expected = halved(copy.deepcopy(base), ["b.3"])(x).detach()
    assert_gated(model, x, expected)
    if removed:
        parametrize.remove_parametrizations(model.b[3], "weight")
        assert_gated(model, x, expected)
        assert type(model.b[3]).__name__ == "GatedConv2d"
    assert_gated(copy.deepcopy(model), x, expected)
    ab.unboost(model)
    assert_gated(model, x, base(x).detach())
    if removed:
        assert type(model.b[3]) is nn.Conv2d


def test_pruning_keeps_the_gates(resnet):
    from torch.nn.utils import prune

    model, x, expected = resnet
    prune.identity(model.layer1[0].conv2, "weight")
    prune.identity(model.layer1[0].bn2, "weight")
    assert_gated(model, x, expected)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "copy": copy.copy,
    "average": AveragedModel,
    "ema": timm.utils.ModelEmaV3,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_the_gates(resnet, how):
    model, x, expected = resnet
    assert_gated(COPIES[how](model).eval(), x, expected)


def test_a_pickled_network_loads_in_a_new_process(resnet, tmp_path):
    import subprocess
    import sys

    model, x, expected = resnet
    torch.save((model, x, expected), tmp_path / "network.pt")
    code = (
        "import sys, torch; m, x, y = torch.load(sys.argv[1], weights_only=False); "
        "assert (m(x) - y).abs().max() < 1e-4, 'gates are lost'"
    )
    path = str(tmp_path / "network.pt")
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=120)


def test_only_the_classes_of_gated_modules_change(resnet):
    model, _, _ = resnet
    changed = {n for n, m in model.named_modules() if type(m).__name__.startswith("Gated")}
    assert changed == set(attached(model))
    assert isinstance(model.layer1[0].bn2, nn.BatchNorm2d)
    ab.unboost(model)
    assert type(model.layer1[0].bn2) is nn.BatchNorm2d
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_boosting_changes_no_setting_of_the_compiler():
    import subprocess
    import sys

    code = (
        "import torch; from torch import _dynamo; before = _dynamo.config.get_config_copy(); "
        "import accuracy_booster as ab; from accuracy_booster import surgery; "
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)); "
        "ab.boost(net, 'ab', where='conv', example=torch.zeros(1, 3, 8, 8)); "
        "assert _dynamo.config.get_config_copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("boosted_first", [False, True])
def test_a_compiled_network_is_told_from_its_boosted_twin(boosted_first):
    x = torch.randn(2, 4, 6, 6)
    base = Steps(*steps()).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b.3"])).eval()
    expected = halved(copy.deepcopy(base), ["b.3"])(x).detach()
    pairs = [(base, base(x).detach()), (model, expected)]
    for network, y in pairs[::-1] if boosted_first else pairs:
        assert_gated(torch.compile(network, backend="eager", fullgraph=True), x, y)
    torch._dynamo.reset()


# containers: the gate acts exactly once


class Looped(nn.Module):
    """A branch that runs its children one after the other, in a way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.norm, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        modules = {
            "children": self.children,
            "named_children": lambda: [m for _, m in self.named_children()],
            "_modules": self._modules.values,
            "modules": lambda: [m for m in self.modules() if isinstance(m, nn.Conv2d)],
        }[self.way]()
        for module in modules:
            x = module(x)
        return 2 * x  # so the branch itself is the place


class Tail(nn.Sequential):
    def forward(self, x):
        return super().forward(x).tanh()


class Summing(nn.ModuleDict):
    """Parallel layers, summed."""

    def forward(self, x):
        return sum(module(x) for module in self.values())


BRANCHES = {
    "Sequential": lambda: nn.Sequential(*steps()),
    "nested": lambda: nn.Sequential(nn.Sequential(*steps()), nn.Sequential(nn.ReLU())),
    "tail": lambda: Tail(*steps()),
    "parallel": lambda: Summing({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}),
    **{w: lambda w=w: Looped(w) for w in ("children", "named_children", "_modules", "modules")},
}


class Branch(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.b = BRANCHES[kind]()

    def forward(self, x):
        x = self.stem(x).relu()
        return (x + self.b(x)).relu()


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("how", ["eager", "train", "compiled", "export", "fx", "copied", "saved"])
def test_the_gate_of_a_container_acts_once(kind, how, tmp_path):
    x = torch.randn(4, 3, 6, 6)
    base = randomise(Branch(kind)).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b"])).eval()
    assert list(attached(model)) == ["b"]
    assert len(model.b._modules) == len(base.b._modules)
    if how == "train":
        model.train(), base.train()
    expected = halved(copy.deepcopy(base), ["b"])(x).detach()
    network = model
    if how == "compiled":
        network = torch.compile(model, backend="eager", fullgraph=True)
    elif how == "export":
        network = torch.export.export(model, (x,)).module()
    elif how == "fx":
        network = torch.fx.symbolic_trace(model)
    elif how == "copied":
        network = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    elif how == "saved":
        ab.save(model, tmp_path)
        network = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert_gated(network, x, expected)
    torch._dynamo.reset()
    ab.unboost(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    if how != "train":  # training moved the running statistics
        assert_gated(model, x, base(x).detach())


def test_the_last_norm_shared_by_two_branches():
    """No module inside gives one branch alone, so the gates go on the containers."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm2d(4)
            self.b = nn.ModuleList(nn.Sequential(*steps(), norm) for _ in range(2))

        def forward(self, x):
            for b in self.b:
                x = (x + b(x)).relu()
            return x

    x = torch.randn(2, 4, 6, 6)
    base = randomise(Net()).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1])).eval()
    assert list(attached(model)) == ["b.0", "b.1"]
    assert_gated(model, x, halved(base, ["b.0", "b.1"])(x).detach())


def test_an_empty_container_is_refused():
    class Net(Steps):
        def __init__(self):
            super().__init__(*steps())
            self.p = nn.Sequential()

        def forward(self, x):
            return self.p(super().forward(x))

    with pytest.raises(ValueError, match=r"'p'"):
        ab.boost(Net(), "ab", example=torch.zeros(1, 4, 6, 6), where=["p"])


def test_a_gate_inside_a_container_that_loses_its_holder_goes_to_another():
    x = torch.randn(2, 3, 6, 6)
    model = force(ab.boost(Branch("Sequential"), "ab", example=x[:1], where=["b"])).eval()
    conv = nn.Conv2d(4, 4, 1)
    model.b[3] = conv
    base = ab.unboost(copy.deepcopy(model))
    assert_gated(model, x, halved(base, ["b"])(x).detach())


def test_an_older_state_dict_of_a_gated_container_loads():
    """Gates of containers were their own children before."""
    model = force(
        ab.boost(Branch("Sequential"), "ab", example=torch.zeros(1, 3, 6, 6), where=["b"])
    )
    old = {
        k.replace("b.3.recalibrate.", "b.recalibrate."): v for k, v in model.state_dict().items()
    }
    assert any(k.startswith("b.recalibrate.") for k in old)
    new = ab.boost(Branch("Sequential"), "ab", example=torch.zeros(1, 3, 6, 6), where=["b"])
    new.load_state_dict(old, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(new.state_dict()[key], value)


class Fusable(nn.Module):
    """As ultralytics' Conv: `fuse` gives the instance another forward, without the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))

    def fuse(self):
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


@pytest.mark.parametrize("fast", [False, True])
def test_a_forward_put_on_a_gated_module_keeps_the_gate(fast):
    x = torch.randn(2, 4, 6, 6)
    base = Steps(nn.Conv2d(4, 4, 1), nn.ReLU(), Fusable()).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b.2"])).eval()
    if fast:
        ab.fuse(model, example=x[:1])
    expected = halved(copy.deepcopy(base), ["b.2"])(x).detach()
    model.b[2].fuse(), base.b[2].fuse()
    assert_gated(model, x, expected)
    assert_gated(copy.deepcopy(model), x, expected)
    assert_gated(pickle.loads(pickle.dumps(model)), x, expected)
    ab.unboost(model)
    assert_gated(model, x, base(x).detach())


@pytest.mark.parametrize("first", ["hooked", "boosted"])
def test_accelerates_hooks_keep_the_gate(first):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    x = torch.randn(2, 4, 6, 6)
    base = Steps(*steps()).eval()
    expected = halved(copy.deepcopy(base), ["b.3"])(x).detach()
    model = copy.deepcopy(base)
    if first == "hooked":
        add_hook_to_module(model.b[3], ModelHook())
    force(ab.boost(model, "ab", example=x[:1], where=["b.3"])).eval()
    if first == "boosted":
        add_hook_to_module(model.b[3], ModelHook())
    assert_gated(model, x, expected)
    remove_hook_from_module(model.b[3])
    assert_gated(model, x, expected)
    ab.unboost(model)
    assert_gated(model, x, base(x).detach())


def test_a_module_that_is_wrapped_and_unwrapped_keeps_its_gate():
    """As peft's `modules_to_save`: a copy of the module beside it, which takes its place."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.original, self.copy = module, copy.deepcopy(module)

        def forward(self, x):
            return self.copy(x)

    x = torch.randn(2, 4, 6, 6)
    base = Steps(*steps()).eval()
    expected = halved(copy.deepcopy(base), ["b.3"])(x).detach()
    model = force(ab.boost(base, "ab", example=x[:1], where=["b.3"])).eval()
    model.b[3] = Wrapper(model.b[3])
    assert_gated(model, x, expected)
    model.b[3] = model.b[3].copy
    assert_gated(model, x, expected)
    assert list(attached(model)) == ["b.3"]


# freezing


def freeze_each_norm(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)


def test_the_loop_that_freezes_norms_warns_of_the_gates(resnet):
    model, _, _ = resnet
    model.train()
    with pytest.warns(UserWarning, match=r"gate.*frozen.*ab\.freeze_norms\(model\)"):
        freeze_each_norm(model)


def test_freezing_the_whole_network_is_no_surprise(resnet):
    model, _, _ = resnet
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()
        model.eval()
        model.requires_grad_(False)
        model.requires_grad_(True)


@pytest.mark.parametrize("gates", [False, True])
def test_freeze_norms_does_what_is_meant(resnet, gates):
    model, x, _ = resnet
    assert ab.freeze_norms(model.train(), gates=gates) is model
    inside = {id(m) for gate in attached(model).values() for m in gate.modules()}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            learns = id(module) in inside and not gates
            assert module.training is learns
            assert module.weight.requires_grad is learns
    assert all(g[0].dense.weight.requires_grad for g in attached(model).values())
    before = copy.deepcopy(model.state_dict())
    model(x).sum().backward()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == set() if gates else all(".recalibrate." in k for k in moved)
    assert bool(moved) is not gates


# saving through wrappers


class Inner(nn.Module):
    """A network of which a part is compiled."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)


def compiled_inside(model):
    model.layer1[0] = torch.compile(model.layer1[0], backend="eager")
    return model


WRAPPERS = {
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    "average": AveragedModel,
    "ema": timm.utils.ModelEmaV3,
    "a part": compiled_inside,
}


@pytest.mark.filterwarnings("error:.*parameters of the base network have changed")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("full", [False, True])
def test_saving_sees_through_wrappers(resnet, wrapper, full, tmp_path):
    model, x, expected = resnet
    base = ab.unboost(copy.deepcopy(model))
    plain = ab.save(model, tmp_path / "plain", full=full)
    wrapped = ab.save(WRAPPERS[wrapper](model), tmp_path / "wrapped", full=full)
    for name in ("booster.json", "booster.safetensors"):
        assert (wrapped / name).read_bytes() == (plain / name).read_bytes()
    assert_gated(ab.load(base, wrapped).eval(), x, expected)


def test_saving_sees_through_ddp(resnet, tmp_path):
    import torch.distributed as dist

    model, x, expected = resnet
    base = ab.unboost(copy.deepcopy(model))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        path = ab.save(nn.parallel.DistributedDataParallel(model), tmp_path)
    finally:
        dist.destroy_process_group()
    assert_gated(ab.load(base, path).eval(), x, expected)


def test_extra_state_that_is_no_tensor(tmp_path):
    class Extra(Steps):
        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            self.version = state["version"]

    x = torch.zeros(1, 4, 6, 6)
    model = force(ab.boost(Extra(*steps()), "ab", example=x)).eval()
    base = ab.unboost(copy.deepcopy(model))
    ab.save(model, tmp_path, full=True)
    x = torch.randn(2, 4, 6, 6)
    assert_gated(ab.load(base, tmp_path).eval(), x, model(x).detach())


# ordinary modules


def test_materialize_returns_the_same_network_and_its_names(resnet):
    model, x, expected = resnet
    before = copy.deepcopy(model.state_dict())
    ordinary, names = ab.materialize(model)
    assert_gated(ordinary, x, expected)
    assert set(names) == set(before)
    after = ordinary.state_dict()
    assert set(names.values()) == set(after)
    assert all(torch.equal(after[new], before[old]) for old, new in names.items())
    assert names["layer1.0.bn2.weight"] == "layer1.0.bn2.base.weight"
    assert type(ordinary.layer1[0].bn2) is nn.Sequential
    assert not any(m._forward_pre_hooks for m in ordinary.modules())
    assert model.state_dict().keys() == before.keys()


@pytest.mark.filterwarnings("ignore")
def test_tools_fuse_and_trace_a_materialized_network(resnet):
    from torch.fx.experimental.optimization import fuse

    model, x, expected = resnet
    ordinary, _ = ab.materialize(model)
    fused = fuse(ordinary)
    assert_gated(fused, x, expected)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


@pytest.mark.parametrize("kind", BRANCHES)
def test_materialize_a_gated_container(kind):
    x = torch.randn(4, 3, 6, 6)
    base = randomise(Branch(kind)).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b"])).eval()
    ordinary, names = ab.materialize(model)
    assert_gated(ordinary, x, halved(base, ["b"])(x).detach())
    assert set(names.values()) == set(ordinary.state_dict())


def test_materialize_refuses_what_has_no_ordinary_form(resnet):
    model, _, _ = resnet
    with pytest.raises(ValueError, match="no gates"):
        ab.materialize(torchvision.models.resnet18())
    ab.fuse(model, example=torch.zeros(SIZE)[:1])
    with pytest.raises(ValueError, match=r"fused.*ab\.unfuse"):
        ab.materialize(model)
