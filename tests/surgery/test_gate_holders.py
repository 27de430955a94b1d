"""The gate of a container is held by a layer inside it and acts exactly once."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy
import pickle

import pytest
import torch
from support.gated_branches import (
    BRANCHES,
    Branch,
    Steps,
    assert_gated,
    steps,
)
from support.gates import force, halved
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


class AllKinds(nn.Sequential):
    """A branch of each kind, one after the other; the branches are `0.b`, `1.b` and on."""

    def __init__(self):
        super().__init__(*(Steps(*steps()) for _ in BRANCHES))
        for block, build in zip(self, BRANCHES.values(), strict=True):
            block.b = build()


def gated_and_expected(base, places, x):
    """The network with gates of p = 0.5 on those containers, and what it must give."""
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=places)).eval()
    assert list(attached(model)) == places
    return model, halved(copy.deepcopy(base), places)(x).detach()


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("how", ["eager", "train", "fx", "copied"])
def test_the_gate_of_a_container_acts_once(kind, how):
    x = torch.randn(4, 3, 6, 6)
    base = randomise(Branch(kind)).eval()
    model, expected = gated_and_expected(base, ["b"], x)
    assert len(model.b._modules) == len(base.b._modules)
    if how == "train":
        model.train(), base.train()
        expected = halved(copy.deepcopy(base), ["b"])(x).detach()
    network = model
    if how == "fx":
        network = torch.fx.symbolic_trace(model)
    elif how == "copied":
        network = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert_gated(network, x, expected)
    ab.unboost(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    if how != "train":  # training moved the running statistics
        assert_gated(model, x, base(x).detach())


@pytest.mark.parametrize("how", ["compiled", "export", "saved"])
def test_gates_of_all_kinds_of_containers_act_once(how, tmp_path):
    x = torch.randn(4, 4, 6, 6)
    base = randomise(AllKinds()).eval()
    model, expected = gated_and_expected(base, [f"{i}.b" for i in range(len(BRANCHES))], x)
    if how == "compiled":
        network = torch.compile(model, backend="eager", fullgraph=True)
    elif how == "export":
        network = torch.export.export(model, (x,)).module()
    elif how == "saved":
        ab.save(model, tmp_path)
        network = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert_gated(network, x, expected)
    torch._dynamo.reset()
    # no gate is too weak to be seen: without any one of them the output is another
    for place in attached(model):
        others = [name for name in attached(model) if name != place]
        other = halved(copy.deepcopy(base), others)(x).detach()
        assert not torch.allclose(other, expected, rtol=1e-2, atol=1e-3), place


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
