"""A function is called on a module when its constructor has ended, and not before."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from accuracy_booster.surgery.constructors import after_construction, under_construction

CALLED: list[nn.Module] = []
FAIL: list[Exception] = []


def is_over(module: nn.Module) -> bool:
    return all(other is not module for other in under_construction())


def finish(module: nn.Module) -> None:
    if FAIL:
        raise FAIL[0]
    CALLED.append(module)
    module.register_buffer("finished", torch.zeros(1))


class Net(nn.Module):
    def __init__(self, *, fail: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        after_construction(self, is_over, finish)
        self.norm = nn.BatchNorm2d(4)
        self(torch.zeros(2, 3, 4, 4))
        assert not CALLED
        if fail:
            raise RuntimeError("not built")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Sub(Net):
    def __init__(self) -> None:
        super().__init__()
        assert len(list(self.modules())) == 3
        assert not CALLED
        self.own = list(under_construction())


@pytest.fixture(autouse=True)
def _nothing_called():
    CALLED.clear()
    FAIL.clear()


@pytest.mark.parametrize(
    "read",
    [
        lambda m: m.conv,
        lambda m: m(torch.zeros(1, 3, 4, 4)),
        lambda m: m.state_dict(),
        lambda m: list(nn.Sequential(m).named_parameters()),
        lambda m: nn.Sequential(m)(torch.zeros(1, 3, 4, 4)),
        lambda m: copy.deepcopy(m),
        lambda m: pickle.dumps(m),
        lambda m: hasattr(m, "no_such_name"),
        lambda m: m.__dict__,
    ],
)
@pytest.mark.parametrize("cls", [Net, Sub])
def test_the_first_reading_of_an_attribute_calls_it_once(cls, read):
    model = cls()
    assert not CALLED
    read(model)
    assert [model] == CALLED
    assert type(model) is cls
    assert "finished" in copy.deepcopy(model).state_dict()
    assert len(CALLED) == 1


def test_modules_under_construction_are_the_innermost_first():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = Sub()
            assert not CALLED
            self.inner = inner  # torch asks for the class of what it registers
            assert len(CALLED) == 1

    outer = Outer()
    assert outer.inner.own[0] is outer.inner
    assert outer.inner.own[-1] is outer
    assert list(under_construction()) == []


def test_a_failure_comes_again_at_each_reading():
    model = Net()
    FAIL.append(ValueError("does not fit"))
    for _ in range(2):
        with pytest.raises(ValueError, match="does not fit"):
            model.eval()
    FAIL.clear()
    model.eval()
    assert [model] == CALLED


def test_a_constructor_that_fails_leaves_nothing():
    with pytest.raises(RuntimeError, match="not built"):
        Net(fail=True)
    assert not CALLED
