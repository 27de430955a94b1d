"""A save through a wrapper around the network or a part of it is the save without it."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy

import pytest
import timm
import torch
from support.gated_branches import (
    Steps,
    assert_gated,
    steps,
)
from support.gates import force
from torch import nn
from torch.optim.swa_utils import AveragedModel

import accuracy_booster as ab


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
