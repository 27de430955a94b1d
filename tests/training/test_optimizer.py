"""Learning rates and weight decays of gates, norms and the other parameters; other optimizers."""

from __future__ import annotations

import pytest
import timm
import torch
from support.trainings import DIGITS, equal_tensors
from timm.optim import get_optimizer_info, list_optimizers, param_groups_layer_decay
from torch import nn

import accuracy_booster as ab
from accuracy_booster.training import (
    checkpoint,
    resolve,
)
from accuracy_booster.training.layer_rates import layer_scales
from accuracy_booster.training.learning_rate import set_rates
from accuracy_booster.training.optimizer import check_optimizer, make_optimizer
from accuracy_booster.training.trainer_state import TrainerState
from accuracy_booster.training.unreadable_images import UnreadableImages


def rates_of(optimizer):
    """{id of a parameter: (full rate, weight decay)}."""
    groups = optimizer.param_groups
    return {id(p): (g["lr0"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_weight_decay_and_rates_of_gates_and_norms(name):
    config = resolve(
        *("resnet8",),
        **{"lr": 0.2, "gate_lr": 0.3, "weight_decay": 1e-4, "optimizer": name},
        **{"norm_weight_decay": 0.0, "gate_weight_decay": 5e-4},
    )
    network = ab.create_model("resnet8", block="ab", num_classes=10)
    optimizer = make_optimizer(network, config)
    found = rates_of(optimizer)
    kinds = set()
    for name, parameter in network.named_parameters():
        if ".recalibrate." in name:
            expected = (0.3, 5e-4)
        elif parameter.ndim < 2:
            expected = (0.2, 0.0)
        else:
            expected = (0.2, 1e-4)
        kinds.add(expected)
        assert found.pop(id(parameter)) == expected, name
    assert not found
    assert len(kinds) == 3
    set_rates(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.15}
    alike = make_optimizer(network, resolve("resnet8"))
    assert len(alike.param_groups) == 1


def test_the_optimizers_are_torchs_with_these_settings():
    network = nn.Linear(3, 2)
    sgd = make_optimizer(network, resolve("resnet8", nesterov=True), fused=True)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["nesterov"], sgd.defaults["momentum"], sgd.defaults["fused"]) == (
        *(True, 0.9),
        True,
    )
    adamw = make_optimizer(network, resolve("resnet8", optimizer="adamw", momentum=0.8), fused=True)
    assert type(adamw) is torch.optim.AdamW
    assert (adamw.defaults["betas"], adamw.defaults["fused"]) == ((0.8, 0.999), True)
    vit = timm.create_model("test_vit")
    (rate,) = {
        decay
        for p, (_, decay) in rates_of(
            make_optimizer(vit, resolve("resnet8", optimizer="adamw", norm_weight_decay=0.0))
        ).items()
        if p == id(vit.pos_embed)
    }
    assert rate == 0, "timm's networks name what is not to decay"


def test_layers_learn_at_timms_rates():
    """Of a network of timm, and of one of torchvision, for which timm needs to know the head."""
    theirs = timm.create_model("resnet18", num_classes=5)
    boosted = ab.boost(timm.create_model("resnet18", num_classes=5), "ab")
    expected = {
        name: group["lr_scale"]
        for group in param_groups_layer_decay(theirs, layer_decay=0.7)
        for parameter in group["params"]
        for name, own in theirs.named_parameters()
        if own is parameter
    }
    scales = layer_scales(boosted, 0.7)
    gates = {n: s for n, s in scales.items() if ".recalibrate." in n}
    assert {n: s for n, s in scales.items() if n not in gates} == expected
    assert gates
    for name, scale in gates.items():
        site = name.partition(".recalibrate.")[0]
        assert scale == expected[f"{site}.weight"], name
    config = resolve("resnet8", layer_decay=0.7, lr=0.1, gate_lr=0.5)
    found = rates_of(make_optimizer(boosted, config))
    for name, parameter in boosted.named_parameters():
        full = 0.5 if name in gates else 0.1
        assert found[id(parameter)][0] == full * scales[name], name

    other = ab.create_model("torchvision/resnet18", num_classes=5)
    found = layer_scales(other, 0.5)
    other.pretrained_cfg = {"classifier": "fc"}
    for group in param_groups_layer_decay(other, layer_decay=0.5):
        for parameter in group["params"]:
            (name,) = (n for n, p in other.named_parameters() if p is parameter)
            assert found[name] == group["lr_scale"], name
    assert found["fc.weight"] == 1 > found["conv1.weight"]


def test_wrong_optimizers_are_refused_before_data_are_read(tmp_path):
    for more, message in (
        ({"optimizer": "adamv"}, r"unknown optimizer 'adamv'; nearest: adam"),
        ({"optimizer": "adahessian"}, "second derivatives"),
        ({"optimizer": "lookahead_adamw"}, "unknown optimizer 'lookahead_adamw'"),
        ({"optimizer": "adan", "momentum": 0.5}, "takes no momentum; leave out momentum=0.5"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov=True must be used with sgd"),
        ({"optimizer": "a b"}, "optimizer='a b' must be sgd, adamw, or"),
        ({"layer_decay": 1.5}, r"layer_decay=1.5 must be in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            ab.train("resnet8", data=str(tmp_path / "nothing"), **more)


def test_a_state_that_no_checkpoint_can_hold_is_refused(monkeypatch):
    def step(self):
        self.state[self.param_groups[0]["params"][0]]["factors"] = [torch.ones(2)]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(ValueError, match=r"optimizer='adamw' keeps a state .*factors is a list"):
        check_optimizer(resolve("resnet8", optimizer="adamw"))


def state_of(network, optimizer):
    unreadable = UnreadableImages(0, print, processes=1)
    return TrainerState(network, optimizer, None, torch.zeros(1), unreadable)


# one for each class: the others are the same with other settings
NAMES = {
    get_optimizer_info(name).opt_class: name
    for name in list_optimizers()
    if not name.startswith(("apex", "bnb", "fused", "kron"))
}


def test_every_optimizer_goes_on_from_a_checkpoint_to_equal_weights(tmp_path):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def begun(name):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)
        )
        network.to(memory_format=torch.channels_last)
        config = resolve("resnet8", optimizer=name, lr=0.01)
        return state_of(network, make_optimizer(network, config, fused=True))

    def step(state, number):
        torch.manual_seed(number)
        set_rates(state.optimizer, 1 / number)
        state.optimizer.zero_grad()
        state.network(x).square().sum().backward()
        state.optimizer.step()

    tried = 0
    for name in NAMES.values():
        try:
            check_optimizer(resolve("resnet8", optimizer=name))
        except ValueError:
            continue
        tried += 1
        first = begun(name)
        for number in (1, 2, 3):
            step(first, number)
        tensors, values = first.tensors(first.sums), first.values(0.0)
        checkpoint.save(tmp_path, 0, tried, tensors, values)
        saved, _ = checkpoint.load(tmp_path)
        second = begun(name)
        second.restore(saved, takes_sums=True)
        for number in (4, 5, 6, 7):
            step(first, number)
            step(second, number)
        assert equal_tensors(first.network.state_dict(), second.network.state_dict()), name
    assert tried > 25


class Killed(BaseException):
    pass


@pytest.mark.filterwarnings("ignore")
def test_adamw_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    """With everything that acts on its steps; killed in its second epoch."""
    more = {
        **{"optimizer": "adamw", "lr": 2e-3, "gate_lr": 5e-3, "layer_decay": 0.8, "ema": 0.9},
        **{"clip_grad": 1.0, "schedule": "cosine", "warmup_steps": 2, "epochs": 3},
        **{"norm_weight_decay": 0.0, "gate_weight_decay": 0.01, "weight_decay": 0.05},
    }
    options = {**DIGITS, **more}
    whole = ab.train(**options, output=str(tmp_path / "whole"))
    assert whole.history[-1]["train_loss"] < whole.history[0]["train_loss"] - 0.1
    real, steps = torch.optim.AdamW.step, []

    def stop(self, *rest, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise Killed
        return real(self, *rest, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", stop)
        with pytest.raises(Killed):
            ab.train(**options, output=str(tmp_path / "run"), checkpoint_minutes=0)
    resumed = ab.train(resume=tmp_path / "run")
    assert resumed.weights_sha256 == whole.weights_sha256
    first, second = (checkpoint.load(tmp_path / p)[0] for p in ("whole", "run"))
    assert equal_tensors(first.tensors, second.tensors), "the optimizer's state too"
