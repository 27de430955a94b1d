"""`where=` takes names, patterns and predicates, and says why a named module is no site."""

# N batch, C channels, H W space

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from support.attaching import (
    Tiny,
    assert_captured,
    captured,
    measure,
    without_warnings,
)
from support.boosting import (
    EXAMPLE,
    assert_same_state,
    net,
    snapshot,
)
from support.drawn_branches import (
    CHANNELS,
    DrawnNet,
    names,
)
from support.sites import (
    C,
    Placeholder,
    sites_of,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import Site, attached
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import TrainConfig


def test_where_takes_names_a_pattern_or_a_predicate():
    for where in (
        ["norm", "layers.1.bn1"],
        ("norm", "layers.1.bn1"),
        re.compile(r"^norm$|layers\.1\.bn1"),
        "norm,layers.1.bn1",
        r"norm, /layers\.1\.bn1/",
        ["norm", re.compile(r"layers\.1\.bn1")],
        lambda name, module: (
            isinstance(module, nn.BatchNorm2d) and name in ("norm", "layers.1.bn1")
        ),
    ):
        model = ab.boost(net(), "ab", example=EXAMPLE, where=where)
        assert list(attached(model)) == ["norm", "layers.1.bn1"]
    assert list(attached(ab.boost(net(), "ab", example=EXAMPLE, where="norm"))) == ["norm"]
    assert list(attached(ab.boost(net(), "ab", example=EXAMPLE, where=iter(["norm"])))) == ["norm"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (["layers.0.bn22"], r"'layers\.0\.bn22'.*nearest.*layers\.0\.bn2"),
        ("layers.0.bn22", r"'layers\.0\.bn22'.*nearest.*layers\.0\.bn2"),
        ("residuals", r"'residuals'.*nearest.*residual"),
        (["norm", "layer.0.bn2"], r"'layer\.0\.bn2'.*layers\.0\.bn2"),
        (re.compile("nothing"), "nothing"),
        ("/nothing/", "nothing"),
        (["norm", re.compile("nothing")], "where='nothing' matches no module"),
        (lambda name, module: False, "predicate"),
        ([], "names"),
        ("attention", "no attention"),
    ],
)
def test_what_matches_nothing_is_an_error(where, words):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        ab.boost(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(snapshot(model), before)


def test_a_placeholder_that_runs_is_a_site():
    (site,) = sites_of(Placeholder(), torch.randn(2, C, 6, 6), where=["p1"])
    assert (site.name, site.channels) == ("p1", C)
    with pytest.raises(ValueError, match="'unused' is not run in a pass"):
        ab.plan(Placeholder(), example=torch.zeros(1, C, 6, 6), where=["unused"])


def test_a_linear_head_is_a_place_by_name():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    (site,) = sites_of(model, torch.randn(2, 3, 2, 2), where=["1"])
    assert (site.channels, site.spatial_size) == (5, ())


def test_a_module_that_runs_on_maps_of_several_widths_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.a, self.b = nn.ReLU(), nn.Conv2d(C, C, 1), nn.Conv2d(C, 4, 1)

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    with pytest.raises(ValueError, match=r"'act' runs several times.*\[1, 8, 6, 6\] and \[1, 4, 6"):
        ab.plan(Net(), example=torch.zeros(1, C, 6, 6), where=["act"])


def test_maps_of_tokens_and_linear_maps_may_be_named():

    class Tokens(DrawnNet):
        def __init__(self):
            super().__init__(None)
            self.mlp, self.head = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, 5)

        def forward(self, x):
            return self.head(self.mlp(self.stem(x).flatten(2).transpose(1, 2)).mean(1))

    assert names(Tokens(), where=["mlp"]) == ["mlp"]  # by name it is a map with channels last
    assert names(Tokens(), where=["head"]) == ["head"]


@without_warnings
def test_measure_gives_the_shapes_of_the_outputs(network):
    model, names, size = network
    shapes = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda m, args, y, name=name: shapes.__setitem__(name, y.shape)
        )
    model(torch.randn(2, *size))
    sites = measure(model, names, size)
    assert [s.name for s in sites] == names
    for site in sites:
        assert (site.channels, *site.spatial_size) == tuple(shapes[site.name][1:])


@without_warnings
def test_measure_of_a_map_that_is_not_square():
    model = Tiny()
    assert measure(model, ["bn", "conv"], (3, 5, 7)) == [
        Site("bn", 8, (5, 7)),
        Site("conv", 8, (5, 7)),
    ]


@without_warnings
@pytest.mark.parametrize(
    ("names", "size", "words"),
    [
        (["bn", "bnn"], (3, 6, 6), "unknown module 'bnn'.*bn"),
        (["bn", "unused"], (3, 6, 6), "'unused'.*not run"),
        (["bn"], (4, 6, 6), r"image \[1, 4, 6, 6\]"),
        (["bn"], (3, 6), r"example \[1, 3, 6\]"),
    ],
)
def test_measure_refuses_and_changes_nothing(names, size, words):
    model = Tiny().train()
    model.drop.eval()
    before = captured(model)
    with pytest.raises(ValueError, match=words):
        measure(model, names, size)
    assert_captured(captured(model), before)


def test_a_run_with_gates_after_the_activation_is_measured_as_it_was(tmp_path):
    config = TrainConfig("torchvision/shufflenet_v2_x0_5", block="ab", init="paper").change(
        {"num_classes": 3, "in_chans": 3, "image_size": (32, 32), "channels_last": False}
    )
    today = list(attached(build_network(config)))
    # the last ReLU of a branch, which follows its norm: where 0.1 put the gate
    former = [f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}" for name in today]
    network = build_network(config, where=former).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_network(Run(tmp_path), config).eval()
    assert list(attached(loaded)) == former
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), network(x))
