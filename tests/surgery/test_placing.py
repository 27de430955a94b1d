"""The module at the end of a branch that gets the gate, and what is said where there is none."""

import copy

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.
import pytest
import torch
import torch.nn.functional as F
from support.gates import force, shut
from support.networks import randomise
from support.residual_blocks import (
    PICTURE,
    WIDTH,
    Body,
    StemAndBody,
    conv,
)
from support.sites import (
    BlockOfRank,
    C,
    Placeholder,
    first,
    sites_of,
)
from torch import nn

import accuracy_booster as ab


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Ends(nn.Module):
    """x + end(b(x)), where the end is a module or a function."""

    def __init__(self, end, module):
        super().__init__()
        self.b, self.end = BlockOfRank(2).b, end if module else None
        self.function = (end,)

    def forward(self, x):
        return x + (self.end or self.function[0])(self.b(x))


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize(
    "end",
    [nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.PReLU(), nn.Tanh(), Swish(), nn.AvgPool2d(3, 1, 1)],
    ids=lambda end: type(end).__name__,
)
def test_a_gate_stands_before_steps_that_keep_zero(end, module):
    (site,) = sites_of(Ends(end, module), torch.randn(2, C, 6, 6))
    assert site.name == "b.4"


def test_a_gate_stands_after_an_activation_that_does_not_keep_zero():
    (site,) = sites_of(Ends(nn.Sigmoid(), True), torch.randn(2, C, 6, 6))
    assert site.name == "end"
    with pytest.raises(ValueError, match=r"it ends in torch\.sigmoid, and a gate before"):
        ab.plan(Ends(torch.sigmoid, False), example=torch.zeros(1, C, 6, 6))


def test_a_gate_stands_after_the_activation_where_the_map_before_is_read_elsewhere():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.act = BlockOfRank(2).b, nn.ReLU()

        def forward(self, x):
            y = self.b(x)
            return x + self.act(y), y

    (site,) = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert site.name == "act"


@pytest.mark.filterwarnings("ignore")
def test_a_detectors_gates_are_fused_and_folded(tmp_path, monkeypatch):
    """conv, norm, SiLU of ultralytics: the site is the norm."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    model = tasks.DetectionModel("yolov8n.yaml", verbose=False).eval()
    x = torch.rand(1, 3, 64, 64)
    sites = sites_of(model, x)
    assert [site.name.endswith("cv2.bn") for site in sites] == [True] * 6
    boosted = ab.boost(copy.deepcopy(model), example=x).eval()
    folded = ab.fold(boosted, example=x)
    assert ab.fast_path(folded).taken == 6
    torch.testing.assert_close(first(folded(x)), first(boosted(x)), rtol=1e-3, atol=1e-2)
    named = ab.boost(copy.deepcopy(model), example=x, where=["model.2.m.0.cv2"]).eval()
    folded = ab.fold(named, example=x)
    (place,) = ab.fast_path(folded).places
    assert (place.fast, place.extra_reduction) == (True, True)
    assert "a Conv is no batch norm, convolution or linear layer" in place.how
    assert type(folded.model[2].m[0].cv2) is type(named.model[2].m[0].cv2)
    torch.testing.assert_close(first(folded(x)), first(named(x)), rtol=1e-3, atol=1e-2)


class WithAttention(nn.Module):
    """A branch that gives (map, weights)."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.function = function

    def forward(self, x):
        y = self.norm(F.relu(self.conv(x)))
        y = self.function(y) if self.function else y
        return y, y.mean((2, 3))


class ReadsFirst(nn.Module):
    def __init__(self, function=None):
        super().__init__()
        self.f = WithAttention(function)

    def forward(self, x):
        return x + self.f(x)[0]


def test_a_branch_that_gives_several_values_has_its_gate_inside():
    (site,) = sites_of(ReadsFirst(), torch.randn(2, C, 6, 6))
    assert site.name == "f.norm"


def test_a_branch_that_gives_several_values_and_ends_in_a_function_is_refused():
    with pytest.raises(ValueError, match=r"no place for a gate: 'f' gives it together with other"):
        ab.plan(ReadsFirst(torch.sigmoid), example=torch.zeros(1, C, 6, 6))
    with pytest.raises(ValueError, match=r"'f' gives several values.*name a module inside"):
        ab.plan(ReadsFirst(), example=torch.zeros(1, C, 6, 6), where=["f"])


def test_a_placeholder_is_left_as_it_is_by_fusing_and_keeps_its_gate_in_folding():
    model, x = randomise(Placeholder()).eval(), torch.randn(2, C, 6, 6)
    boosted = force(ab.boost(model, example=x, where=["p1"])).eval()
    for change in (ab.fuse, ab.fold):
        changed = change(copy.deepcopy(boosted), example=x)
        place = ab.fast_path(changed).places[0]
        assert (place.name, place.fast) == ("p1", change is ab.fold)
        assert place.extra_reduction == place.fast
        assert "Identity is no batch norm" in place.how
        torch.testing.assert_close(changed(x), boosted(x))


class Loop(nn.Module):
    """One branch in three sums."""

    def __init__(self):
        super().__init__()
        self.f = BlockOfRank(2).b

    def forward(self, x):
        for _ in range(3):
            x = x + self.f(x)
        return x


def test_a_branch_that_runs_three_times_is_told_so():
    with pytest.raises(ValueError, match=r"'f\.4' gives it and runs 3 times in a pass"):
        ab.plan(Loop(), example=torch.zeros(1, C, 6, 6))
    (site,) = sites_of(Loop(), torch.randn(2, C, 6, 6), where=["f.4"])
    assert site.name == "f.4"


class FunctionsOnly(Body):
    """The branch has no module at all."""

    def __init__(self):
        nn.Module.__init__(self)
        self.w1 = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, 3))
        self.w2 = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, 3))

    def forward(self, x):
        return x + F.conv2d(F.relu(F.conv2d(x, self.w1, padding=1)), self.w2, padding=1)


def test_a_branch_without_modules_is_told_apart_from_no_branch():
    with pytest.raises(ValueError, match=r"residual branches, but .*no module.*name modules"):
        ab.plan(StemAndBody(FunctionsOnly()), "ab", example=PICTURE)
    model = StemAndBody(nn.Sequential(FunctionsOnly(), Body()))
    planned = ab.plan(model, "ab", example=PICTURE)
    assert [gate.site.name for gate in planned.gates] == ["body.1.f.4"]
    assert len(planned.skipped) == 1
    assert "skipped" in str(planned)


class EndsInFunctionalNorm(Body):
    """The branch's last layer is a function; a gate before it would be normalised away."""

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.ReLU(), conv())
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return x + F.group_norm(self.f(x), 1, self.weight, self.bias)


class EndsInFunctionalConv(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.ReLU())
        self.weight, self.bias = (
            nn.Parameter(torch.randn(WIDTH, WIDTH, 1, 1)),
            nn.Parameter(torch.ones(WIDTH)),
        )

    def forward(self, x):
        return x + F.conv2d(self.f(x), self.weight, self.bias)


class EndsInSigmoid(Body):
    """A gate before it could not shut the branch."""

    def forward(self, x):
        return x + torch.sigmoid(self.f(x))


@pytest.mark.parametrize("kind", [EndsInFunctionalNorm, EndsInFunctionalConv, EndsInSigmoid])
def test_a_gate_that_could_not_shut_its_branch_is_not_placed(kind):
    model, x = randomise(StemAndBody(kind())), torch.randn(2, 3, 12, 12)
    try:
        ab.boost(model, "ab", example=PICTURE)
    except ValueError:
        return
    with torch.no_grad():
        torch.testing.assert_close(shut(model)(x), model.stem(x))


def test_a_branch_that_something_else_reads_is_not_gated_silently():
    """A gate there would change a second output; name the module to gate it all the same."""

    class TwoReaders(Body):
        def forward(self, x):
            y = self.f(x)
            return x + y, y.mean((2, 3))

    model = StemAndBody(TwoReaders())
    try:
        planned = ab.plan(model, "ab", example=PICTURE)
    except ValueError:
        return
    assert planned.skipped or [g.site.name for g in planned.gates] == ["body.f.4"]
