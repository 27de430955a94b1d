"""The configuration of a network says which gates it has, and the original one stays plain."""

from __future__ import annotations

import copy
import json
import sys
import threading
import types

import pytest
import torch
import yaml
from support.configured import Config, FromDict, Head
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import Site, attach, attached, configurations, detach
from accuracy_booster.surgery.configurations import KEY, configuration_of, record_in

X = torch.zeros(1, 3, 32, 32)


def test_the_record_is_in_a_copy_that_the_parts_share():
    config = Config()
    model = ab.boost(Head(config), "ab", example=X)
    assert config == Config()
    assert model.config is model.base.config is not config
    assert record_in(model.config) == ab.gate_record(model)
    plain = Head(config)
    assert not attached(plain)
    json.dumps(model.config.to_dict())


def test_a_dict_carries_it_too():
    cfg = {"width": 8, "depth": 2}
    model = ab.boost(FromDict(cfg), "ab", example=X)
    assert KEY not in cfg
    assert yaml.safe_load(yaml.dump(model.yaml)) == {**cfg, KEY: ab.gate_record(model)}


@pytest.mark.parametrize(
    "make", [lambda: Head(Config()), lambda: FromDict({"width": 8, "depth": 2})]
)
def test_each_change_of_the_gates_is_noted(make, tmp_path):
    model = make()
    before = copy.deepcopy(configuration_of(model))
    ab.boost(model, "ab", example=X)
    names = list(attached(model))
    ab.save(model, tmp_path)
    record = ab.gate_record(model)
    detach(model, names[:1])
    assert [site["name"] for site in record_in(configuration_of(model))["sites"]] == names[1:]
    ab.boost(model, "se", where=names[:1], example=X)
    assert record_in(configuration_of(model)) == ab.gate_record(model)
    assert len(record_in(configuration_of(model))["recipes"]) == 2
    ab.unboost(model)
    assert configuration_of(model) == before
    with pytest.raises(ValueError, match="groups=3"):
        attach(model, "gap | dense(groups=3) | sigmoid", [Site(names[0], 8, (32, 32))])
    assert configuration_of(model) == before
    ab.rebuild_gates(model, record)
    assert record_in(configuration_of(model)) == record
    with pytest.warns(UserWarning, match="other weights"):
        ab.load(make(), tmp_path)
    fresh = copy.deepcopy(ab.unboost(model))
    assert record_in(configuration_of(ab.load(fresh, tmp_path))) == record


def test_two_boosted_networks_of_one_configuration():
    config = Config()
    first, second = Head(config), Head(config)
    ab.boost(first, "ab", example=X)
    ab.boost(second, "se", example=X)
    ab.unboost(second)
    assert record_in(first.config) == ab.gate_record(first)
    assert second.config == config == Config()


def test_a_copy_of_a_network_has_a_configuration_of_its_own():
    model = ab.boost(Head(Config()), "ab", example=X)
    other = copy.deepcopy(model)
    ab.unboost(other)
    assert record_in(model.config) == ab.gate_record(model)
    assert other.config == other.base.config == Config()


class Frozen(Config):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


class Single(Config):
    def __copy__(self):
        return self


@pytest.mark.parametrize("kind", [Frozen, Single])
def test_a_configuration_that_cannot_be_copied_stays_with_a_warning(kind):
    model = Head(kind())
    with pytest.warns(UserWarning, match=rf"{kind.__name__} of this Head cannot.*rebuild_gates"):
        ab.boost(model, "ab", example=X)
    assert len(attached(model)) == 2
    assert model.config.__dict__ == kind().__dict__
    ab.unboost(model)


def test_what_is_no_configuration_is_left_alone():
    for value in ({"model_type": "a"}, types.SimpleNamespace(model_type="a", to_dict=dict), "yaml"):
        model = FromDict({"width": 8, "depth": 1})
        model.yaml, model.config = str(value), value
        ab.boost(model, "ab", example=X)
        assert model.config is value


def test_parts_with_a_configuration_in_a_network_without_one():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = None
            config = Config()
            self.first, self.second = Head(config), Head(config)

        def forward(self, x):
            return self.first(x) + self.second(x)

    model = Two()
    ab.boost(model, "ab", where=["first.base.encoder.0.bn2"], example=X)
    assert [s["name"] for s in record_in(model.first.config)["sites"]] == ["base.encoder.0.bn2"]
    assert record_in(model.second.config) is None


def test_folding_keeps_the_record_and_merging_takes_it_off():
    model = ab.boost(FromDict({"width": 8, "depth": 2}), "ab", example=X).eval()
    record = ab.gate_record(model)
    assert record_in(ab.fold(model, example=X).yaml) == record
    ordinary, _ = ab.materialize(model)
    assert record_in(ordinary.yaml) == record


def test_a_part_of_a_network_is_boosted(monkeypatch):
    """What holds the part is found, if a package is there that builds so."""
    x = torch.zeros(1, 8, 16, 16)
    monkeypatch.setattr(configurations, "BUILDERS", ())
    head = Head(Config())
    ab.boost(head.base.encoder, "ab", example=x)
    assert record_in(head.config) is None
    ab.unboost(head.base.encoder)
    monkeypatch.setattr(configurations, "BUILDERS", ("torch",))
    other = Head(head.config)
    outer = nn.ModuleDict({"network": head})
    ab.boost(head.base.encoder, "ab", example=x)
    assert record_in(head.config) == ab.gate_record(head)
    assert head.config is head.base.config
    assert record_in(other.config) is None
    assert len(attached(Head(outer["network"].config))) == 2
    ab.unboost(head.base)
    assert head.config == Config()
    ab.rebuild_gates(head.base, ab.gate_record(ab.boost(Head(Config()).base, "ab", example=X)))
    assert record_in(head.config) == ab.gate_record(head)


def test_boosting_disturbs_no_other_thread_and_none_disturbs_it(monkeypatch):
    """Other threads build tuples and modules while it looks for what holds a part."""
    monkeypatch.setattr(configurations, "BUILDERS", ("torch",))
    stop = threading.Event()
    errors = []

    def repeat(build):
        try:
            while not stop.is_set():
                build()
        except Exception as e:
            errors.append(e)

    def module():
        parent = nn.Module()
        for i in range(1000):
            parent.add_module(str(i), nn.Identity())

    def numbers():
        assert len(tuple(i for i in range(20_000))) == 20_000

    threads = [threading.Thread(target=repeat, args=(build,)) for build in (module, numbers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(4):
            head = Head(Config())
            attach(head.base.encoder, "se", [Site("0", 8, (16, 16))])
            configurations.note_gates_everywhere(head.base.encoder)
            assert record_in(head.config) == ab.gate_record(head)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not errors


@pytest.mark.parametrize("whole", [True, False])
def test_a_constructor_that_puts_gates_on_needs_no_record(monkeypatch, whole):
    monkeypatch.setattr(configurations, "BUILDERS", ("torch",))

    class Boosted(Head):
        def __init__(self, config):
            super().__init__(config)
            if whole:
                ab.boost(self, "ab", example=X)
            else:
                ab.boost(self.base.encoder, "ab", example=torch.zeros(1, 8, 16, 16))

    model = Boosted(Config())
    assert model.config == Config()
    again = Boosted(Config(**{KEY: ab.gate_record(model)}))
    assert ab.gate_record(again) == ab.gate_record(model)
    ab.unboost(model)
    assert model.config == Config()
