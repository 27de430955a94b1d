"""What was chosen holds in its scope, for every thread, and compilers notice it."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import torch

from accuracy_booster.ops import affine_reference, backend


def test_scopes_are_nested_and_left_as_they_were():
    assert not backend.is_unfused()
    with backend.using("unfused"):
        assert backend.is_unfused()
        with suppress(KeyError), backend.using("reference"):
            assert not backend.is_unfused()
            raise KeyError
        assert backend.is_unfused()
    assert not backend.is_unfused()


def test_an_unknown_backend_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match=r"refrence.*reference"), backend.using("refrence"):
        pass


def test_other_threads_see_the_choice():
    """Autograd computes gradients on a GPU in threads of its own."""
    seen = []
    with backend.using("unfused"):
        thread = threading.Thread(target=lambda: seen.append(backend.is_unfused()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_compiled_function_follows_the_choice():
    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x):
        return x + 1 if backend.is_unfused() else x - 1

    x = torch.zeros(())
    assert compiled(x) == -1
    with backend.using("unfused"):
        assert compiled(x) == 1
    assert compiled(x) == -1


@pytest.mark.parametrize("choice", ["auto", "reference", "unfused"])
def test_on_the_cpu_the_reference_runs(choice):
    with backend.using(choice):
        assert backend.implementation(torch.zeros(1)) is affine_reference


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with backend.using("triton"):
        with pytest.raises(ValueError, match=r"on cpu; start Python with TRITON_INTERPRET=1"):
            backend.implementation(torch.zeros(1))
        # float64 is not for the kernels
        assert backend.implementation(torch.zeros(1).double()) is affine_reference


def test_exporters_see_the_layers_one_by_one():
    seen = []

    def record(x):
        seen.append(backend.is_unfused())
        return x + 1

    torch.jit.trace(record, torch.zeros(1), check_trace=False)
    assert seen == [True]
    assert not backend.is_unfused()


def test_transforms_and_compilers_get_torchs_own_operations():
    seen = []

    def record(x):
        seen.append(backend.needs_torch_operations())
        return x.sum()

    record(torch.ones(2))
    torch.func.grad(record)(torch.ones(2))
    torch.vmap(record)(torch.ones(2, 2))
    assert seen == [False, True, True]

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x):
        return x + 1 if backend.needs_torch_operations() else x - 1

    assert compiled(torch.zeros(())) == 1
