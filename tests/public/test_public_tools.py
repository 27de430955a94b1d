"""A gate stays, and acts once, when other tools copy, rebuild, wrap or patch a network.

Each gate is forced to p = 0.5, so the right value is the base network with its branches halved.
"""

from __future__ import annotations

import copy
import types

import pytest
import torch
from support.halved_networks import (
    CHANNELS,
    HALF,
    Block,
    boosted,
    halve,
    halved,
    image,
    network,
    same,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, update_bn

import accuracy_booster as ab


def test_the_expected_value_differs_from_its_neighbours():
    """A lost gate (1) and one that acts twice (0.25) would be seen in each test below."""
    for factor in (1.0, 0.25):
        assert (halved() - halved(factor=factor)).abs().max() > 0.1
    same(boosted()(image()), halved())


@torch.no_grad()
def test_synchronised_norms():
    """pytorch/pytorch#187298: the conversion drops what a subclass of batch norm added."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(boosted())
    same(model(image()), halved())
    assert len(ab.unboost(model).state_dict()) == len(network().state_dict())
    same(model(image()), halved(()))


@torch.no_grad()
@pytest.mark.parametrize("tool", ["sync", "freeze"])
def test_timms_conversions_keep_the_activation_and_the_gate(tool):
    """timm#1254, timm#1911: norms with an activation are rebuilt as another class."""
    timm = pytest.importorskip("timm")
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d, unfreeze_batch_norm_2d

    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=4).eval()
    x = torch.randn(2, 3, 64, 64)
    ab.boost(model, HALF, example=x)
    gates = len(ab.added_parameters(model))
    expected = halve(model)(x)
    plain = ab.unboost(copy.deepcopy(model))(x)
    assert (expected - plain).abs().max() > 1e-3
    model = convert_sync_batchnorm(model) if tool == "sync" else freeze_batch_norm_2d(model)
    same(model(x), expected)
    assert len(ab.added_parameters(model)) == gates
    if tool == "freeze":
        same(unfreeze_batch_norm_2d(model).eval()(x), expected)  # timm's new norms train


@torch.no_grad()
@pytest.mark.parametrize("tool", ["AveragedModel", "ModelEmaV3"])
def test_moving_averages_have_gates_of_their_own(tool):
    """pytorch/pytorch#84053, timm#224: the average's gates follow slowly, statistics too."""
    model = boosted()
    if tool == "AveragedModel":
        average = AveragedModel(
            model, use_buffers=True, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
        )
        average.update_parameters(model)  # the first update copies
    else:
        average = pytest.importorskip("timm.utils").ModelEmaV3(model, decay=0.75)
    before = average.module(image())
    same(before, halved())
    gates = ab.surgery.attached(model)
    for gate in gates.values():
        gate[0].bn.bias.fill_(4.0)
        gate[0].bn.running_mean.fill_(8.0)
    same(average.module(image()), before)  # nothing is shared
    average.update_parameters(model) if tool == "AveragedModel" else average.update(model)
    for gate in ab.surgery.attached(average.module).values():
        same(gate[0].bn.bias, torch.ones(CHANNELS))  # 0.75 * 0 + 0.25 * 4
        same(gate[0].bn.running_mean, torch.full((CHANNELS,), 2.0))


@torch.no_grad()
def test_update_bn_averages_the_gates_statistics_over_all_batches():
    """pytorch/pytorch#30559: momentum None means a cumulative average, in the gate's norm too."""
    model = ab.boost(network(1), "gap | bn | sigmoid", example=image(1))
    batches = [torch.randn(4, 3, 8, 8) + i for i in range(3)]
    seen: list[torch.Tensor] = []
    site = model[1].bn2
    gate = ab.surgery.attached(model)["1.bn2"]
    momentum = gate[0].bn.momentum
    handle = gate.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    update_bn(batches, model)
    handle.remove()
    means = torch.stack([x.mean((2, 3)).mean(0) for x in seen])
    assert len(means) == 3
    same(gate[0].bn.running_mean, means.mean(0))
    same(gate[0].bn.running_var, torch.stack([x.mean((2, 3)).var(0) for x in seen]).mean(0))
    assert (gate[0].bn.momentum, site.momentum) == (momentum, 0.1)


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


@torch.no_grad()
def test_parametrized_after_boosting():
    """pytorch/pytorch#33344: a parametrization swaps the class of the module that has the gate."""
    model = boosted()
    norm = model[1].bn2
    parametrize.register_parametrization(norm, "weight", Double())
    same(model(image()), halved())
    same(copy.deepcopy(model)(image()), halved())  # pytorch/pytorch#80811
    parametrize.remove_parametrizations(norm, "weight")
    same(model(image()), halved())
    assert len(ab.surgery.attached(model)) == 2


@torch.no_grad()
def test_parametrized_before_boosting():
    """The other order, undone in the order of boosting and against it."""
    for gate_first in (True, False):
        model = network()
        parametrize.register_parametrization(model[1].bn2, "weight", Double())
        halve(ab.boost(model, HALF, example=image(1)))
        same(model(image()), halved())
        if gate_first:
            ab.unboost(model)
            same(model(image()), halved(()))
            parametrize.remove_parametrizations(model[1].bn2, "weight")
            same(model(image()), halved(()))
        else:
            parametrize.remove_parametrizations(model[1].bn2, "weight")
            same(model(image()), halved())
            ab.unboost(model)
            same(model(image()), halved(()))
        assert type(model[1].bn2) is nn.BatchNorm2d
        assert set(model.state_dict()) == set(network().state_dict())  # torch moves `weight` last


@torch.no_grad()
@pytest.mark.parametrize("legacy", [False, True])
def test_weight_norm_on_the_convolution_with_the_gate(legacy):
    """pytorch/pytorch#102981: weight norm as a hook or a parametrization, and copies."""
    model = boosted(where=["1.conv2"])
    if legacy:
        nn.utils.weight_norm(model[1].conv2)
    else:
        parametrizations.weight_norm(model[1].conv2)
    same(model(image()), halved(("1.conv2",)))
    same(copy.deepcopy(model)(image()), halved(("1.conv2",)))
    if legacy:
        nn.utils.remove_weight_norm(model[1].conv2)
    else:
        parametrize.remove_parametrizations(model[1].conv2, "weight")
    same(model(image()), halved(("1.conv2",)))


@torch.no_grad()
def test_pruned():
    """pytorch/pytorch#37322: pruning makes `weight` an attribute and adds a hook before forward."""
    model = boosted(where=["1.conv2", "2.conv2"])
    convolutions = [(block.conv2, "weight") for block in (model[1], model[2])]
    prune.global_unstructured(convolutions, pruning_method=prune.L1Unstructured, amount=0.5)
    plain = copy.deepcopy(model)
    ab.unboost(plain)
    for block in (plain[1], plain[2]):
        block.conv2.register_forward_hook(lambda m, a, y: y / 2)
    expected = plain(image())
    assert (expected - halved(("1.conv2", "2.conv2"))).abs().max() > 0.01  # pruning took effect
    same(model(image()), expected)
    for convolution, name in convolutions:
        prune.remove(convolution, name)
    same(model(image()), expected)


@torch.no_grad()
@pytest.mark.parametrize("patch_first", [False, True])
def test_forward_patched_on_the_instance(patch_first):
    """composer#1267, pytorch/pytorch#126203: surgery that sets `module.forward` on one instance."""

    def negated(self, x):
        return -nn.BatchNorm2d.forward(self, x)

    def patch(model):
        model[1].bn2.forward = types.MethodType(negated, model[1].bn2)

    model = network()
    if patch_first:
        patch(model)
    halve(ab.boost(model, HALF, example=image(1)))
    if not patch_first:
        patch(model)
    reference = network()
    reference[1].bn2.register_forward_hook(lambda m, a, y: -y / 2)
    reference[2].bn2.register_forward_hook(lambda m, a, y: y / 2)
    same(model(image()), reference(image()))
    ab.unboost(model)
    reference[1].bn2._forward_hooks.clear()
    reference[2].bn2._forward_hooks.clear()
    reference[1].bn2.register_forward_hook(lambda m, a, y: -y)
    same(model(image()), reference(image()))


@torch.no_grad()
def test_offloaded_by_accelerate():
    """accelerate#1835, peft#602: hooks that replace `forward`, and copies that call the old one."""
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.dispatch_model(
        boosted(), device_map={"": "cpu"}, main_device="cpu", force_hooks=True
    )
    assert hasattr(model, "_hf_hook")
    same(model(image()), halved())
    other = copy.deepcopy(model)
    for gate in ab.surgery.attached(model).values():
        gate[0].bn.bias.fill_(-100.0)
    same(other(image()), halved())
    same(model(image()), halved(factor=0.0))
    accelerate.hooks.remove_hook_from_submodules(other)
    same(other(image()), halved())
    same(ab.unboost(other)(image()), halved(()))


@torch.no_grad()
def test_hooks_of_accelerate_on_every_module():
    """The same with a hook on each module, put on before boosting and taken off after it."""
    accelerate = pytest.importorskip("accelerate")
    model = network()
    for module in list(model.modules()):
        accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook())
    halve(ab.boost(model, HALF, example=image(1)))
    same(model(image()), halved())
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    same(model(image()), halved())
    same(ab.unboost(model)(image()), halved(()))


@torch.no_grad()
def test_a_backbone_made_of_the_networks_children():
    """vision#1895, EfficientNet-PyTorch#51: children in a new container; then norms are rebuilt."""

    def branch(block: Block) -> nn.Sequential:
        return nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2)

    x = torch.randn(2, CHANNELS, 8, 8)
    expected = branch(network()[1])(x) / 2
    root = halve(ab.boost(network()[1], HALF, example=x[:1]))  # the norm is the root's own child
    backbone = branch(root)
    same(backbone(x), expected)
    same(nn.SyncBatchNorm.convert_sync_batchnorm(backbone)(x), expected)


@torch.no_grad()
def test_intermediate_layers():
    """vision#1895: the getter runs the children without the root's forward."""
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    model = halve(ab.boost(resnet18(num_classes=4).eval(), HALF, example=x))
    seen: list[torch.Tensor] = []
    model.layer2.register_forward_hook(lambda m, a, y: seen.append(y))
    model(x)
    same(IntermediateLayerGetter(model, {"layer2": "out"})(x)["out"], seen[0])
    for block in (*model.layer1, *model.layer2):
        assert hasattr(block.bn2, ab.surgery.ATTRIBUTE)


@torch.no_grad()
def test_norms_replaced_by_surgery():
    """composer#853: every norm is replaced by another kind, and nothing is copied over."""
    model = boosted()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("BatchNorm2d"):
                setattr(module, name, nn.GroupNorm(2, CHANNELS))
    reference = network()
    for block in (reference[1], reference[2]):
        block.bn1, block.bn2 = nn.GroupNorm(2, CHANNELS), nn.GroupNorm(2, CHANNELS)
        block.bn2.register_forward_hook(lambda m, a, y: y / 2)
    same(model(image()), reference(image()))


def test_batch_size_is_not_exported():
    """ultralytics#20370, weaver-core#29: an exported network takes every number of images."""
    model = boosted().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (image(),), dynamic_shapes=({0: batch},))
    traced = torch.jit.trace(model, image(2), check_trace=False)
    with torch.no_grad():
        for n in (1, 3, 5):
            x = torch.randn(n, 3, 8, 8)
            same(program.module()(x), model(x))
            same(traced(x), model(x))
        same(traced(image()), halved())


def test_checkpointed_activations_give_the_same_gradients():
    """peft#2826: a block runs again in the backward pass, with its gate."""
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for recompute in (False, True):
        torch.manual_seed(2)
        model = ab.boost(network(), HALF, example=image(1)).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in ab.added_parameters(model):
                parameter.normal_()
        x = model[0](image())
        for block in (model[1], model[2]):
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        x.square().sum().backward()
        gradients.append([p.grad for p in ab.added_parameters(model)])
    assert all(g.abs().sum() > 0 for g in gradients[0])
    for got, expected in zip(*gradients, strict=True):
        same(got, expected)


@torch.no_grad()
def test_functional_call_uses_the_gates_it_is_given():
    """learn2learn#178, higher#41: a module's weights given from outside reach every submodule."""
    model = boosted()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name in state:
        if name.endswith("recalibrate.0.bn.bias"):
            state[name].fill_(-100.0)
    same(torch.func.functional_call(model, state, (image(),)), halved(factor=0.0))
    same(model(image()), halved())


@torch.no_grad()
def test_lora_on_the_convolution_with_the_gate():
    """peft#755, peft#3578: an adapter wraps the module; merging it must not change the output."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["1.conv2"], init_lora_weights=False)
    wrapped = peft.get_peft_model(network(), config).eval()
    ab.boost(wrapped.base_model.model, "gap | bn | sigmoid", example=image(1), where=["1.conv2"])
    for gate in ab.surgery.attached(wrapped).values():
        torch.nn.init.zeros_(gate[0].bn.weight)
    apart = wrapped.eval()(image())
    with ab.disabled(wrapped):
        assert (apart - wrapped(image())).abs().max() > 1e-3  # the gate does something
    merged = wrapped.merge_and_unload()
    assert list(ab.surgery.attached(merged)) == ["1.conv2"]
    same(merged(image()), apart)


def test_lora_after_boosting_is_told_about():
    """The other order: the gate would act on the base's output alone until it is merged."""
    peft = pytest.importorskip("peft")
    model = boosted(where=["1.conv2"])
    with pytest.warns(UserWarning, match=r"wraps 'conv2'.*Wrap first and boost afterwards"):
        peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["1.conv2"]))


@torch.no_grad()
def test_lora_beside_the_gates():
    """peft#411: the gates are kept whole (`modules_to_save`) and the convolutions adapted."""
    peft = pytest.importorskip("peft")
    model = boosted()
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["conv1"], modules_to_save=["recalibrate"])
    ).eval()
    same(wrapped(image()), halved())
    trainable = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert sum("recalibrate" in n for n in trainable) == 2 * 3  # dense weight, norm weight and bias
    same(wrapped.merge_and_unload()(image()), halved())


@torch.no_grad()
@pytest.mark.parametrize("then", ["eval", "double", "state_dict", "requires_grad_"])
def test_between_a_conversion_and_the_next_forward(then):
    """timm#1911, timm#1254: what is asked at once reaches the gates of rebuilt norms."""
    timm_layers = pytest.importorskip("timm.layers")
    model = ab.boost(network().train(), "gap | bn | sigmoid", example=image(1))
    keys = [key for key in model.state_dict() if ab.surgery.ATTRIBUTE in key]
    model = timm_layers.freeze_batch_norm_2d(model)
    if then == "state_dict":
        assert [k for k in model.state_dict() if ab.surgery.ATTRIBUTE in k] == keys
        return
    if then == "eval":
        model.eval()
    elif then == "double":
        model.double()
    else:
        model.requires_grad_(False)
    gates = ab.surgery.attached(model)
    assert len(gates) == 2
    for gate in gates.values():
        assert gate.training == (then != "eval")
        assert gate[0].bn.weight.dtype == (torch.float64 if then == "double" else torch.float32)
        assert gate[0].bn.weight.requires_grad == (then != "requires_grad_")
