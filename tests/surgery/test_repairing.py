"""Gates go onto modules that other tools rebuild; a gate that cannot is never lost silently."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import timm
import torch
from support.boosting import (
    hook_count,
    images,
    net,
)
from support.folding_tools import Residual, fold_units
from support.gated_branches import (
    Steps,
    assert_gated,
    steps,
)
from support.gates import force, halved, stir
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def test_timms_freeze_keeps_the_gates():
    model = stir(ab.boost(timm.create_model("test_resnet"), "ab", example=images(1, 32))).eval()
    x = images(2, 32)
    expected, names = model(x), list(attached(model))
    timm.utils.freeze(model, ["layer1", "layer2"])
    torch.testing.assert_close(model(x), expected)
    assert list(attached(model)) == names


class Listed(nn.Module):
    """Its norms are in a list, which is never called."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(2)])
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return x + self.norms[1](self.convs[1](torch.relu(self.norms[0](self.convs[0](x)))))


CONVERTERS = {
    "torch": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm": timm.layers.convert_sync_batchnorm,
}


@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("name", ["ours", "listed", "test_resnet", "mobilenetv2", "darknet"])
def test_synchronised_norms_keep_the_gates(name, converter):
    if converter == "torch" and name in ("mobilenetv2", "darknet"):
        pytest.skip("timm's norms with activations need timm's converter")
    builds = {
        "ours": net,
        "listed": lambda: randomise(Listed()),
        "test_resnet": lambda: randomise(timm.create_model("test_resnet")),
        "mobilenetv2": lambda: randomise(timm.create_model("mobilenetv2_035")),
        "darknet": lambda: randomise(timm.create_model("darknet17")),
    }
    model, x = builds[name](), images(2, 64)
    plain = CONVERTERS[converter](copy.deepcopy(model)).eval()(x)
    stir(ab.boost(model, "ab", example=x[:1])).eval()
    expected = model(x)
    converted = CONVERTERS[converter](copy.deepcopy(model)).eval()
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain, rtol=1e-3)
    torch.testing.assert_close(copy.deepcopy(converted)(x), expected, rtol=1e-4, atol=1e-4)
    with ab.disabled(converted):
        torch.testing.assert_close(converted(x), plain, rtol=1e-4, atol=1e-4)
    assert list(converted.state_dict()) == list(model.state_dict())
    ab.unboost(converted)
    torch.testing.assert_close(converted(x), plain, rtol=1e-4, atol=1e-4)
    assert hook_count(converted) == 0


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


@pytest.fixture
def units():
    """A boosted network of units, images, and what it gives."""
    base = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), Residual(), Residual())).eval()
    x = images(2, 8)
    model = stir(ab.boost(base, "ab", example=x[:1])).eval()
    assert list(attached(model)) == ["1.two.bn", "2.two.bn"]
    return model, x, model(x).detach()


def fold_a_copy(model):
    return fold_units(copy.deepcopy(model))


def fold_after_pickling(model):
    return fold_units(pickle.loads(pickle.dumps(model)))


def pickle_after_folding(model):
    return pickle.loads(pickle.dumps(fold_units(model)))


def fold_and_repair(model):
    return ab.repair(fold_units(model))


def fold_what_is_fused(model):
    return fold_units(ab.fuse(model, example=images(1, 8)))


def fold_and_leave_the_norms(model):
    """The norms stay registered, and no longer run."""
    norms = {name: m for name, m in model.named_modules() if name.endswith("bn")}
    fold_units(model)
    for name, norm in norms.items():
        if name.count(".") == 2:
            model.get_submodule(name.removesuffix(".bn")).bn = norm
    return model


FOLDS = [
    fold_and_leave_the_norms,
    fold_units,
    fold_a_copy,
    fold_after_pickling,
    pickle_after_folding,
    fold_and_repair,
]


@pytest.mark.parametrize("fold", FOLDS, ids=lambda f: f.__name__)
@torch.no_grad()
def test_the_gate_of_a_folded_norm_goes_to_the_layer(units, fold):
    model, x, expected = units
    with ab.disabled(model):
        plain = model(x)
    folded = fold(model)
    names = ["1.two.conv", "2.two.conv"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(attached(folded)) == names
        assert [site["name"] for site in ab.gate_record(folded)["sites"]] == names
        with ab.disabled(folded):
            assert_gated(folded, x, plain)
        assert_gated(folded, x, expected)
        assert list(attached(folded)) == names
        assert_gated(pickle.loads(pickle.dumps(folded)), x, expected)
        assert_gated(ab.materialize(folded)[0], x, expected) if "fused" not in fold.__name__ else 0
    assert_gated(ab.unboost(folded), x, plain)


@torch.no_grad()
def test_unboost_and_materialize_right_after_the_fold(units):
    model, x, expected = units
    with ab.disabled(model):
        plain = model(x)
    assert_gated(ab.unboost(fold_a_copy(model)), x, plain)
    assert_gated(ab.materialize(fold_a_copy(model))[0], x, expected)
    assert_gated(ab.fold(fold_a_copy(model), example=x[:1]), x, expected)


@torch.no_grad()
def test_a_folded_network_in_other_types_and_under_inference_mode(units):
    model, x, expected = units
    half = fold_a_copy(model).bfloat16()(x.bfloat16()).float()
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)
    assert_gated(fold_a_copy(model.double()), x.double(), expected.double())
    folded = fold_a_copy(model.float()).double()
    with torch.inference_mode():
        folded(x.double())
    assert not any(p.is_inference() for p in ab.added_parameters(folded))


TRACERS = {
    "jit.trace": torch.jit.trace,
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "compile": lambda model, x: torch.compile(model, backend="eager", fullgraph=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracer", TRACERS)
@torch.no_grad()
def test_a_folded_network_is_traced_with_its_gates_or_not_at_all(units, tracer):
    model, x, expected = units
    trace = TRACERS[tracer]
    refused = r"ab\.repair\(model\)" if tracer != "compile" else None
    kind = RuntimeError if tracer != "compile" else torch._dynamo.exc.Unsupported
    with pytest.raises(kind, match=refused):
        trace(fold_a_copy(model), x)(x)
    torch._dynamo.reset()
    assert_gated(trace(ab.repair(fold_a_copy(model)), x), x, expected)
    torch._dynamo.reset()


def test_a_gate_that_was_lost_is_not_saved_as_if_it_were_not_there(units, tmp_path):
    model, _, _ = units
    del model[1].two.bn
    for use in (ab.repair, ab.gate_record, ab.materialize, lambda m: ab.save(m, tmp_path)):
        with pytest.raises(RuntimeError, match=r"'bn'.*removed.*ab\.unboost.*ab\.fold"):
            use(model)


def test_replicas_leave_what_the_network_remembers_alone():
    """`nn.DataParallel` copies the `__dict__` of each module."""
    model = ab.boost(timm.create_model("test_resnet").eval(), "ab", example=images(1, 32))
    x = images(2, 32)
    before = model(x)
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = child and replicas[child]
        for name, tensor in module._parameters.items():
            replica._parameters[name] = None if tensor is None else tensor.detach().clone()
    assert torch.equal(replicas[model](x), before)
    for module in list(model.modules()):  # a tool that hooks do not see
        for name, child in module._modules.items():
            if isinstance(child, nn.BatchNorm2d):
                module._modules[name] = new = nn.BatchNorm2d(child.num_features).eval()
                new.load_state_dict(child.state_dict(), strict=False)
    ab.repair(model)
    gates = {id(m) for m in replicas.values()}
    assert not gates & {id(gate) for gate in attached(model).values()}
    assert torch.equal(model(x), before)
