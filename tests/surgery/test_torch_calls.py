"""What a call of torch does to its arguments, by its name and arguments."""

import pytest
import torch

from accuracy_booster.surgery.torch_calls import (
    is_in_place,
    is_independent,
    puts_constants,
    sources,
)

X, Y = torch.ones(2, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("zeros_like", (X,), True),
        ("new_full", (X, (2,), 1.0), True),
        ("mul", (X, 0), True),
        ("mul", (X, 2), False),
        ("mul", (X, False), False),
        ("add", (X, 0), False),
    ],
)
def test_calls_that_do_not_depend_on_values(name, args, expected):
    assert is_independent(name, args) is expected


@pytest.mark.parametrize("name", ["add_", "__iadd__", "__setitem__", "copy_"])
def test_calls_in_place(name):
    assert is_in_place(name, {})


@pytest.mark.parametrize("name", ["add", "__add__", "__index__", "__getitem__"])
def test_calls_that_leave_their_arguments_alone(name):
    assert not is_in_place(name, {})
    assert is_in_place(name, {"out": X})
    assert is_in_place(name, {"inplace": True})


def test_values_come_from_what_is_read_and_not_from_what_is_overwritten():
    def given(name, *args):
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        return [id(t) for t in sources(name, args, tensors, {id(X): 0})]

    assert given("add", X, Y) == [id(X), id(Y)]
    assert given("copy_", X, Y) == [id(Y)]
    assert given("__setitem__", X, slice(None), Y) == [id(Y)]
    part = Y[0]
    assert given("__setitem__", X, 0, part) == [id(X), id(part)]  # the rest of X stays
    mask = X > 0
    assert given("where", X, mask, Y) == [id(X), id(Y)]


def test_constants_put_into_a_map():
    assert puts_constants("masked_fill", (X, X > 0, 1.0), {}, (True, True, False))
    assert not puts_constants("masked_fill", (X, X > 0, 0), {}, (True, True, False))
    assert puts_constants("where", (X > 0, X, Y + 1), {}, (True, True, False))
    assert not puts_constants("where", (X > 0, X, Y), {}, (True, True, False))
    assert puts_constants("masked_fill_", (X, X > 0), {"value": 2.0}, (True, True))
    assert not puts_constants("add", (X, 1.0), {}, (True, False))
