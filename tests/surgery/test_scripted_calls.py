"""Calls of scripted functions are heard by who listens, in the same thread, and only then."""

from __future__ import annotations

import threading

import pytest
import torch

from accuracy_booster.surgery.scripted_calls import heard_by

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")


@pytest.fixture(scope="module")
def double():
    @torch.jit.script
    def twice(x):
        return 2 * x

    return twice


def test_a_call_is_heard_with_its_arguments_and_its_result(double):
    heard = []
    x = torch.ones(2)
    with heard_by(lambda args, kwargs, result: heard.append((args, kwargs, result))):
        y = double(x)
        double(x=x)
    double(x)
    assert len(heard) == 2
    assert heard[0][0] == (x,)
    assert heard[0][2] is y
    assert heard[1][1] == {"x": x}


def test_torch_is_as_it_was_afterwards_and_after_an_error(double):
    before = torch.jit.ScriptFunction.__call__
    with heard_by(lambda *_: None), heard_by(lambda *_: None):
        assert torch.jit.ScriptFunction.__call__ is not before
    assert torch.jit.ScriptFunction.__call__ is before
    with pytest.raises(KeyError), heard_by(lambda *_: None):
        raise KeyError
    assert torch.jit.ScriptFunction.__call__ is before


def test_threads_hear_their_own_calls_and_the_last_puts_torch_back(double):
    """The thread that began first ends first, while the other still listens."""
    before = torch.jit.ScriptFunction.__call__
    heard = {"first": [], "second": []}
    begun, ended = threading.Event(), threading.Event()

    def second():
        with heard_by(lambda args, kwargs, result: heard["second"].append(args)):
            begun.set()
            assert ended.wait(60)
            double(torch.ones(1))

    thread = threading.Thread(target=second)
    with heard_by(lambda args, kwargs, result: heard["first"].append(args)):
        thread.start()
        assert begun.wait(60)
        double(torch.zeros(1))
    ended.set()
    thread.join(60)
    assert heard == {"first": [(torch.zeros(1),)], "second": [(torch.ones(1),)]}
    assert torch.jit.ScriptFunction.__call__ is before
