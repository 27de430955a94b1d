"""A boosted network says, once, which gates have gone with the modules around them."""

import copy
import pickle
import time
import warnings

import pytest
import torch
from support.boosting import hook_count
from support.folding_tools import Residual, Unit
from support.gated_branches import assert_gated
from support.gates import force
from support.networks import randomise
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import accuracy_booster as ab
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.network_gates import before_network

X = torch.randn(2, 4, 8, 8)


class Stages(nn.Module):
    """Blocks in a list, a stage, and a way to leave the stage out."""

    def __init__(self, blocks=2):
        super().__init__()
        self.blocks = nn.ModuleList([Residual() for _ in range(blocks)])
        self.stage = nn.Sequential(Residual(), Residual())

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        stage = getattr(self, "stage", None)
        return x if stage is None else stage(x)


@pytest.fixture
def stages():
    return force(ab.boost(randomise(Stages()).eval(), "ab", example=X[:1])).eval()


def del_stage(model):
    del model.stage


def del_from_a_list(model):
    del model.blocks[0]


def del_from_a_sequential(model):
    del model.stage[0]


def write_modules(model):
    model.stage._modules["1"] = nn.Identity()


def take_another_block(model):
    model.stage._modules["1"] = Residual().eval()


CUTS = {
    del_stage: (["blocks.0", "blocks.1"], r"'stage\.0\.two\.bn' and 1 more"),
    del_from_a_list: (["blocks.0", "stage.0", "stage.1"], r"'blocks\.0\.two\.bn':"),
    del_from_a_sequential: (["blocks.0", "blocks.1", "stage.0"], r"'stage\.0\.two\.bn':"),
    write_modules: (["blocks.0", "blocks.1", "stage.0"], r"'stage\.1\.two\.bn':"),
    take_another_block: (["blocks.0", "blocks.1", "stage.0"], r"'stage\.1\.two\.bn':"),
}
USES = {
    "pass": lambda model: model(X),
    "repair": ab.repair,
    "materialize": lambda model: ab.materialize(model),
    "compile": lambda model: torch.compile(model, backend="eager")(X),
    "export": lambda model: torch.export.export(model, (X,)),
    "copied": lambda model: copy.deepcopy(model)(X),
    "pickled": lambda model: pickle.loads(pickle.dumps(model))(X),
    "half": lambda model: model.double()(X.double()),
}


@pytest.mark.parametrize("cut", CUTS, ids=lambda f: f.__name__)
def test_what_no_hook_sees_is_told_once(stages, cut):
    left, words = CUTS[cut]
    cut(stages)
    with pytest.warns(UserWarning, match=rf"Stages has lost the gate at {words}.*ab\.unboost"):
        stages(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages(X)
        copy.deepcopy(stages)(X)
        ab.repair(stages)
    assert [name.removesuffix(".two.bn") for name in attached(stages)] == left
    assert not attached(ab.unboost(stages))
    assert hook_count(stages) == 0


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("use", USES)
def test_whatever_sees_the_cut_network_first_is_told(stages, use):
    del stages.stage
    with pytest.warns(UserWarning, match="has lost the gate"):
        USES[use](stages)
    torch._dynamo.reset()


def test_a_save_tells_too(stages, tmp_path):
    del stages.stage
    with pytest.warns(UserWarning, match="has lost the gate"):
        ab.save(stages, tmp_path, full=True)


def test_compiled_whole_after_repair(stages):
    del stages.stage
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(stages, backend="eager", fullgraph=True)(X)
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match="has lost the gate"):
        ab.repair(stages)
    expected = stages(X).detach()
    assert_gated(torch.compile(stages, backend="eager", fullgraph=True), X, expected)
    torch._dynamo.reset()


def test_gates_that_moved_get_new_owners(stages):
    expected = stages(X).detach()
    block = stages.stage[0]
    del stages.stage[0]
    stages.blocks.append(block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_gated(stages, X, expected)
        unit = Unit().eval()  # a tool builds the module around the norm anew
        unit.conv, unit.bn = block.two.conv, block.two.bn
        block.two = unit
        assert_gated(stages, X, expected)
    assert len(attached(stages)) == 4
    del unit.bn
    with pytest.raises(RuntimeError, match="has lost its module"):  # said by its new owner
        stages(X)


def test_a_folded_layer_written_past_the_hook_gets_the_gate():
    model = nn.Sequential(
        nn.ReLU(), nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    )
    model = ab.boost(randomise(model).eval(), "ab", example=X[:1], where=["1.0.1"])
    expected = randomise(model)(X).detach()
    plain = ab.unboost(copy.deepcopy(model))
    model[1]._modules["0"] = fuse_conv_bn_eval(plain[1][0][0], plain[1][0][1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_gated(model, X, expected)
    assert list(attached(model)) == ["1.0"]


def test_boosting_parts_and_the_whole(stages):
    ab.unboost(stages)
    assert hook_count(stages) == 0
    ab.boost(stages.stage, "ab", example=X[:1])
    ab.boost(stages, "se", example=X[:1], skip="stage")
    ab.unboost(stages.stage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages(X)
    assert len(attached(stages)) == 2
    ab.unboost(stages)
    assert hook_count(stages) == 0


def test_the_look_costs_little():
    model = ab.boost(Stages(14), "ab", example=X[:1]).eval()
    assert len(attached(model)) == 16
    least = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(100):
            before_network(model, ())
        least.append((time.perf_counter() - begin) / 100)
    assert min(least) < 20e-6
