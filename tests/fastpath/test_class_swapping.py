"""Becoming fused changes the class of a module and nothing else, and can be undone."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from support.fused_networks import (
    CLOSE,
    assert_same_pass,
    fused_copy,
    run,
)
from support.gated_networks import images, network
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath.fused_modules import Fused

pytestmark = WARNINGS_ARE_ERRORS


def test_a_compiled_network_follows_fuse_and_unfuse():
    model, x = network().eval(), images(n=4)
    expected = model(x)
    compiled = torch.compile(model, backend="eager")
    for step in (lambda: None, lambda: ab.fuse(model, example=x[:1]), lambda: ab.unfuse(model)):
        model.__dict__.pop("_compiled_call_impl", None)
        step()
        torch.testing.assert_close(compiled(x), expected, **CLOSE)


@pytest.mark.parametrize("recipe", ["ab", None])
@pytest.mark.parametrize("name", ["resnet8", "wrn10_1", "timm/resnet26"])
def test_unfuse_gives_back_every_class_and_attribute(name, recipe):
    model, x = network(name, recipe).eval(), images(name, 4)
    before = [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()]
    keys, values = list(model.state_dict()), copy.deepcopy(model.state_dict())
    y = model(x)
    assert ab.fuse(model, example=x[:1]) is model
    assert list(model.state_dict()) == keys
    assert [n for n, _ in model.named_modules()] == [n for n, _, _ in before]
    changed = [n for n, m in model.named_modules() if isinstance(m, Fused)]
    assert changed == [p.name for p in ab.fast_path(model).places if p.fast]
    assert ab.unfuse(model) is model
    assert [(n, type(m), sorted(m.__dict__)) for n, m in model.named_modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values.values()))  # noqa: B905
    assert torch.equal(model(x), y)
    with pytest.raises(ValueError, match="neither fused nor folded"):
        ab.fast_path(model)


def test_flags_and_gradients_stay_when_fusing():
    model, x = network().train(), images(n=4)
    run(model, x)
    model.layer1[0].bn1.eval()
    flags = {n: m.training for n, m in model.named_modules()}
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    buffers = copy.deepcopy(dict(model.named_buffers()))
    ab.fuse(model, example=x[:1])
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters())
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_checkpoints_load_across():
    unfused, x = network().eval(), images(n=4)
    other, fresh = fused_copy(network(), x).eval(), network().eval()
    other.load_state_dict(unfused.state_dict())
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(x), unfused(x), **CLOSE)
    assert torch.equal(fresh(x), unfused(x))


def test_copies_stay_fused():
    other, x = fused_copy(network(), images(n=4)).eval(), images(n=4)
    y = other(x)
    file = io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    copies = [
        copy.deepcopy(other),
        pickle.loads(pickle.dumps(other)),
        torch.load(file, weights_only=False),
    ]
    for again in copies:
        assert torch.equal(again(x), y)
        assert ab.fast_path(again) == ab.fast_path(other)
        with torch.no_grad():
            for value in again.parameters():
                value.zero_()
        assert not again(x).any()
        ab.unfuse(again)
        assert not any(isinstance(m, Fused) for m in again.modules())
    assert torch.equal(other(x), y)


def test_converted_to_synchronised_norms_it_still_gates():
    unfused, x = network().eval(), images(n=4)
    other = fused_copy(unfused, x)
    for _ in range(2):
        other = nn.SyncBatchNorm.convert_sync_batchnorm(other)
        torch.testing.assert_close(other(x), unfused(x), **CLOSE)
        assert_same_pass(unfused.train(), other.train(), x)
        unfused.eval()
        other.eval()
    ab.unfuse(other)
    torch.testing.assert_close(other(x), unfused(x), **CLOSE)
    ab.fuse(other, example=x[:1])
    assert ab.fast_path(other).taken == 3
    torch.testing.assert_close(other(x), unfused(x), **CLOSE)
