"""Each module gets back the mode that it had."""

import pytest
from torch import nn

from accuracy_booster.surgery.modes import in_eval_mode


def test_each_module_has_its_mode_again_also_after_an_error():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.ReLU())).train()
    model[0].eval()
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    with in_eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError), in_eval_mode(model):
        raise KeyError
    assert [module.training for module in model.modules()] == before
