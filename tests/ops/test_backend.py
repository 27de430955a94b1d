"""What was chosen holds in its scope, for every thread, and compilers notice it."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from accuracy_booster.ops import affine_native, affine_reference, backend, native

needs_library = pytest.mark.skipif(
    native.library() is None, reason=native.why_no_library() or "there is one"
)


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


@pytest.mark.parametrize("choice", ["reference", "unfused"])
def test_the_reference_runs_where_it_is_asked_for(choice):
    with backend.using(choice):
        assert backend.implementation(torch.zeros(1)) is affine_reference


@needs_library
def test_on_the_cpu_the_cpp_runs_for_the_types_that_it_knows():
    z = torch.zeros(1)
    for choice in ("auto", "native"):
        with backend.using(choice):
            for plain in (z, z.double(), torch.nn.Parameter(z)):
                assert backend.implementation(plain) is affine_native
                assert backend.fuses(plain)
            for other in (z.half(), z.bfloat16(), z.to_sparse(), FakeTensorMode().from_tensor(z)):
                assert backend.implementation(other) is affine_reference
                assert backend.fuses(other) is (choice == "native")


def test_without_the_cpp_the_layers_run_one_by_one(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "why_no_library", lambda: "there is no g++")
    z = torch.zeros(1)
    assert backend.implementation(z) is affine_reference
    assert not backend.fuses(z)
    with backend.using("reference"):
        assert backend.fuses(z)
    with backend.using("native"), pytest.raises(ValueError, match=r"no g\+\+; use using\("):
        backend.implementation(z)


def test_compiled_code_is_fused_and_transforms_are_not():
    seen = []

    def record(x):
        seen.append(backend.fuses(x))
        return x.sum()

    torch.func.grad(record)(torch.ones(2))
    assert seen == [False]

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x):
        return x + 1 if backend.fuses(x) else x - 1

    assert compiled(torch.zeros(())) == 1
    with backend.using("unfused"):
        assert compiled(torch.zeros(())) == -1


def test_a_trace_of_operators_sees_torchs_own():
    seen = []

    def record(x):
        seen.append(backend.fuses(x))
        return x + 1

    for mode in ("real", "fake"):
        make_fx(record, tracing_mode=mode)(torch.zeros(1))
    assert seen == [False, False]


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
