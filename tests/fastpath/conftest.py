"""What the tests of the fast path share: a fixed start, the backend, and a folded gate's form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from accuracy_booster.fastpath import folding
from accuracy_booster.ops import backend, native
from accuracy_booster.ops.pooled_conv import has_pooled_form


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers for each test, and nothing compiled."""
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(autouse=True, params=["reference"])
def fused_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """How fused modules run. By default not as it is chosen on this machine, which may be unfused.

    A test file of fused modules runs in other ways too: it has
    `@pytest.mark.parametrize("fused_by", ["reference", "native"], indirect=True)`.
    """
    if request.param == "native" and native.library() is None:
        pytest.skip(native.why_no_library())
    with backend.using(request.param):
        yield request.param


@pytest.fixture(params=["input", "output"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The form of every folded gate that has a choice, whatever would be faster."""
    choose = folding.choose_form

    def chosen(layer: nn.Module, *given: Any, **options: Any) -> str:
        return request.param if has_pooled_form(layer) else choose(layer, *given, **options)

    monkeypatch.setattr(folding, "choose_form", chosen)
    monkeypatch.setattr(folding, "takes_gate", lambda *_: False)
    return request.param
