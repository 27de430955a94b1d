"""Where a gate stands, on maps of every rank, and what is said where it cannot."""

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.

import copy
import re
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models import create_model
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.examples import infer_examples

C = 8


def force(model, p=0.5):
    """Make every gate's weight p, whatever the images: its norm gives logit(p) alone."""
    for gate in attached(model).values():
        norm = gate[0].bn
        nn.init.zeros_(norm.weight)
        nn.init.constant_(
            norm.bias, float(torch.logit(torch.tensor(p / gate.recipe.gates[0].scale)))
        )
    return model


def randomise(model, seed=0):
    """Norms that are no identities."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def halved(model, names):
    """The network with the outputs of the named modules halved."""
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, args, y: y / 2)
    return model


def first(output):
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


@torch.no_grad()
def sites_of(model, *inputs, where="residual", **named):
    """The plan's sites, after a check that gates at 0.5 halve each of them once."""
    model = randomise(model).eval()
    example = named or inputs
    planned = ab.plan(model, "ab", example=example, where=where)
    boosted = force(ab.boost(copy.deepcopy(model), "ab", example=example, where=where)).eval()
    names = [gate.site.name for gate in planned.gates]
    assert list(attached(boosted)) == sorted(names, key=list(attached(boosted)).index)
    got = first(boosted(*inputs, **named))
    expected = first(halved(copy.deepcopy(model), names)(*inputs, **named))
    assert not torch.allclose(got, first(model(*inputs, **named)), rtol=1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return [gate.site for gate in planned.gates]


# maps of any rank


class Block(nn.Module):
    """relu(x + b(x)) on [N, C, ...] with `dims` dimensions of space."""

    def __init__(self, dims, channels=C):
        super().__init__()
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims]

        def layer():
            if dims == 0:
                return nn.Linear(channels, channels)
            return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](channels, channels, 3, padding=1)

        self.b = nn.Sequential(layer(), norm(channels), nn.ReLU(), layer(), norm(channels))

    def forward(self, x):
        return F.relu(x + self.b(x))


@pytest.mark.parametrize("size", [(), (9,), (6, 7), (4, 5, 6)], ids=str)
def test_a_residual_network_of_each_rank(size):
    dims = len(size)
    model = nn.Sequential(Block(dims), Block(dims))
    sites = sites_of(model, torch.randn(2, C, *size))
    assert [(s.name, s.channels, s.spatial_size, s.layout) for s in sites] == [
        (f"{i}.b.4", C, size, "NCHW") for i in (0, 1)
    ]


@pytest.mark.parametrize("size", [(), (1024,), (32, 64, 64)], ids=str)
def test_the_example_has_the_rank_of_the_first_layer(size):
    model = nn.Sequential(Block(len(size)), Block(len(size)))
    assert [g.site.spatial_size for g in ab.plan(model).gates] == [size, size]
    assert infer_examples(model)[0].shape == (1, C, *size)


def test_a_larger_example_is_tried_where_a_network_shrinks_its_maps():
    """The keyword spotter M5 takes 16,000 samples of audio."""
    model = nn.Sequential(nn.Conv1d(1, C, 80, 16), nn.MaxPool1d(4), nn.MaxPool1d(64), Block(1))
    assert [g.site.name for g in ab.plan(model).gates] == ["3.b.4"]


def test_a_residual_head_on_vectors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.Sequential(*(Block(2) for _ in range(3)))
            self.head = nn.Sequential(*(Block(0) for _ in range(3)))

        def forward(self, x):
            return self.head(self.maps(x).mean((2, 3)))

    sites = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert [(s.name, s.spatial_size) for s in sites] == [
        *((f"maps.{i}.b.4", (6, 6)) for i in range(3)),
        *((f"head.{i}.b.4", ()) for i in range(3)),
    ]
    assert ab.plan(Net()).skipped == []


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_video_networks(name):
    model = getattr(torchvision.models.video, name)(num_classes=3)
    sites = sites_of(model, torch.randn(1, 3, 4, 16, 16))
    assert len(sites) == 8
    assert all(len(site.spatial_size) == 3 for site in sites)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet18", {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}, 8),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8}, 12),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8, "upsample_mode": "deconv"}, 12),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8, "upsample_mode": "pixelshuffle"}, 12),
        *(("UNet", {"spatial_dims": dims, "num_res_units": 2}, 4) for dims in (1, 2, 3)),
    ],
    ids=lambda v: v.get("upsample_mode", v["spatial_dims"]) if isinstance(v, dict) else str(v),
)
def test_networks_for_medical_images(name, options, count):
    nets = pytest.importorskip("monai.networks.nets")
    if name == "UNet":
        options |= {"channels": (4, 8, 16), "strides": (2, 2), "in_channels": 1, "out_channels": 2}
    dims = options["spatial_dims"]
    sites = sites_of(getattr(nets, name)(**options), torch.randn(1, 1, *(32,) * dims))
    assert [len(site.spatial_size) for site in sites] == [dims] * count
    assert ab.plan(getattr(nets, name)(**options)).skipped == []


class ConvNeXt1d(nn.Module):
    """A block whose linear layers read [N, L, C] and whose sum is of [N, C, L] (audio)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(C, C, 7, padding=3, groups=C)
        self.norm = nn.LayerNorm(C)
        self.one, self.two = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x):
        y = self.norm(self.conv(x).transpose(1, 2))
        return x + self.two(F.gelu(self.one(y))).transpose(1, 2)


def test_a_map_of_one_dimension_whose_last_layer_has_channels_last():
    (site,) = sites_of(ConvNeXt1d(), torch.randn(2, C, 9))
    assert (site.name, site.channels, site.spatial_size, site.layout) == ("two", C, (9,), "NHWC")


def test_a_norm_over_channels_and_space_does_not_say_where_the_channels_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Sequential(
                nn.Conv2d(C, C, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(C, C, 1),
                nn.LayerNorm((C, 6, 6)),
            )

        def forward(self, x):
            return x + self.b(x)

    (site,) = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert (site.name, site.channels, site.layout) == ("b.3", C, "NCHW")


class SqueezeExcite1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv1d(C, C, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean(-1, keepdim=True)))


def test_other_kinds_of_sites_on_maps_of_one_dimension():
    model = nn.Sequential(nn.Conv1d(3, C, 3), nn.BatchNorm1d(C), nn.ReLU(), SqueezeExcite1d())
    with pytest.warns(UserWarning, match="1 attention module"):
        (site,) = sites_of(model, torch.randn(2, 3, 9), where="conv")
    assert (site.name, site.spatial_size) == ("1", (7,))
    planned = ab.plan(model, "se", example=torch.zeros(1, 3, 9), where="attention")
    assert [(g.site.name, g.site.spatial_size) for g in planned.gates] == [("3", (7,))]
    x = torch.randn(2, 3, 9)
    before = model(x)
    boosted = ab.boost(model, "se", example=x, where="attention")
    assert boosted(x).shape == before.shape
    torch.testing.assert_close(ab.unboost(boosted)(x), before)


def test_a_recipe_that_does_not_fit_a_rank_names_the_site():
    with pytest.raises(ValueError, match=r"at '0\.b\.4': .*"):
        ab.plan(nn.Sequential(Block(0)), "cbam")


def test_a_plan_prints_maps_of_every_rank():
    for size, text in (((), "-"), ((9,), "9"), ((4, 5, 6), "4x5x6")):
        planned = ab.plan(nn.Sequential(Block(len(size))), example=torch.zeros(1, C, *size))
        assert planned.table()[1][0][:3] == ["0.b.4", str(C), text]
        assert planned.to_dict()["gates"][0]["spatial_size"] == size


@pytest.mark.parametrize("size", [(), (9,), (4, 5, 6)], ids=str)
def test_gates_of_every_rank_are_saved_and_loaded(size, tmp_path):
    x = torch.randn(2, C, *size)
    base = nn.Sequential(Block(len(size)))
    boosted = force(ab.boost(copy.deepcopy(base), example=x), 0.3).eval()
    ab.save(boosted, tmp_path)
    torch.testing.assert_close(ab.load(base, tmp_path).eval()(x), boosted(x))


class Flattened(nn.Module):
    """A branch whose map is flattened to [N, C, H W] before the sum."""

    def __init__(self):
        super().__init__()
        self.b = Block(2).b

    def forward(self, x):
        return x.flatten(2) + self.b(x).flatten(2)


def test_a_sum_of_flattened_maps():
    (site,) = sites_of(Flattened(), torch.randn(2, C, 4, 5))
    assert (site.name, site.spatial_size) == ("b.4", (4, 5))


@pytest.mark.parametrize("where", ["residual", "conv"])
def test_a_map_without_a_batch_has_no_site(where):
    """[C, H, W] must not be taken for [N, C, L]."""
    model = ConvOnly()
    with pytest.raises(ValueError, match=r"unclear which dimension|no convolution"):
        ab.plan(model, example=torch.zeros(C, 6, 7), where=where)
    assert len(ab.plan(model, example=torch.zeros(1, C, 6, 7), where=where).gates) >= 1


class ConvOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(nn.Conv2d(C, C, 3, 1, 1), nn.ReLU(), nn.Conv2d(C, C, 3, 1, 1))

    def forward(self, x):
        return x + self.b(x)


# token maps


class Tokens(nn.Module):
    """x + mlp(norm(x)) on [N, L, C]."""

    def __init__(self):
        super().__init__()
        mlp = nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)
        self.f = nn.Sequential(nn.LayerNorm(C), *mlp)

    def forward(self, x):
        return x + self.f(x)


def test_token_maps_are_no_feature_maps():
    model = nn.Sequential(nn.Conv2d(3, C, 4, 4), nn.Flatten(2))
    model = nn.Sequential(model, Transposed(), Tokens(), Tokens())
    words = r"no residual branch of feature maps.*2 branches.*token maps \[N, L, C\].*where="
    with pytest.raises(ValueError, match=words):
        ab.plan(model, example=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"token maps.*encoder_layer_0"):
        ab.plan(torchvision.models.vit_b_16(image_size=32, num_classes=2), example=zeros(32))
    with pytest.raises(ValueError, match="token maps"):
        ab.plan(torchvision.models.swin_t(num_classes=2), example=zeros(64))


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def zeros(size):
    return torch.zeros(1, 3, size, size)


def test_token_maps_beside_feature_maps_are_said_to_be_skipped():
    maps = nn.Sequential(Block(2), Block(2), nn.Flatten(2), Transposed())
    planned = ab.plan(nn.Sequential(maps, Tokens(), Tokens()), example=torch.zeros(1, C, 4, 4))
    assert [g.site.name for g in planned.gates] == ["0.0.b.4", "0.1.b.4"]
    (line,) = planned.skipped
    assert re.search(r"2 branches .* token maps \[N, L, C\]", line)


def test_tokens_in_the_batch_are_no_vectors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.f = Block(2), Block(0)

        def forward(self, x):
            y = self.maps(x).flatten(2).transpose(1, 2).reshape(-1, C)
            return self.f(y)

    planned = ab.plan(Net(), example=torch.zeros(1, C, 4, 4))
    assert [g.site.name for g in planned.gates] == ["maps.b.4"]
    assert len(planned.skipped) == 1


# before the last activation


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Ends(nn.Module):
    """x + end(b(x)), where the end is a module or a function."""

    def __init__(self, end, module):
        super().__init__()
        self.b, self.end = Block(2).b, end if module else None
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
            self.b, self.act = Block(2).b, nn.ReLU()

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
    (place,) = ab.fast_path(ab.fold(named, example=x)).places
    assert place.how == "a Conv is no batch norm, convolution or linear layer"


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet20", 9, "bn2"),
        ("wrn16_4", 6, "conv2"),
        ("resnet50", 16, "bn3"),
        ("shufflenet_g3", 16, "bn3"),
    ],
)
def test_the_librarys_own_networks_keep_their_sites(name, count, last):
    model = create_model(name)
    size = 64 if name in ("resnet50", "shufflenet_g3") else 32
    sites = sites_of(model, torch.randn(1, 3, size, size))
    assert [site.name.rpartition(".")[2] for site in sites] == [last] * count


# sums of resolutions


class Up(nn.Module):
    """A long sum: x + up(down(x)), the map brought back to x's size in one of several ways."""

    def __init__(self, way, after=()):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(C, C, 3, 2, 1), nn.ReLU())
        ways = {
            "interpolate": [nn.Conv2d(C, C, 3, padding=1), nn.Upsample(scale_factor=2)],
            "pixel_shuffle": [nn.Conv2d(C, 4 * C, 1), nn.PixelShuffle(2)],
            "by hand": [nn.Conv2d(C, 4 * C, 1), Shuffle()],
            "repeat": [nn.Conv2d(C, C, 1), Repeat()],
            "transposed": [nn.ConvTranspose2d(C, C, 2, 2)],
            "transposed 4": [nn.ConvTranspose2d(C, C, 4, 2, 1)],
        }
        self.up = nn.Sequential(*ways[way], *after)

    def forward(self, x):
        return x + self.up(self.down(x))


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, c // 4, 2 * h, 2 * w)


class Repeat(nn.Module):
    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


WAYS = ["interpolate", "pixel_shuffle", "by hand", "repeat", "transposed", "transposed 4"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", ["nothing", "norm and ReLU", "1x1"])
def test_a_sum_of_two_resolutions_is_no_residual_branch(way, after):
    steps = {
        "nothing": [],
        "norm and ReLU": [nn.BatchNorm2d(C), nn.ReLU()],
        "1x1": [nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU()],
    }
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(Up(way, steps[after]), example=torch.zeros(1, C, 8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_a_branch_that_goes_on_at_its_forks_resolution_is_one(way):
    (site,) = sites_of(Up(way, [nn.Conv2d(C, C, 3, padding=1)]), torch.randn(2, C, 8, 8))
    assert site.name == ("up.1" if way.startswith("transposed") else "up.2")


@pytest.mark.parametrize("way", WAYS)
def test_a_residual_block_that_upsamples_has_a_site(way):
    """The shortcut is upsampled too."""

    class Net(Up):
        def forward(self, x):
            return F.interpolate(x, scale_factor=2) + self.up(self.same(x))

    model = Net(way)
    model.same = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU())
    try:
        (site,) = sites_of(model, torch.randn(2, C, 6, 6))
    except ValueError as e:
        assert way in ("by hand", "repeat")
        assert "no place for a gate" in str(e)  # noqa: PT017
    else:
        assert site.name in ("up.0", "up.1")


def test_a_transposed_convolution_that_keeps_the_size_is_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Sequential(*Block(2).b[:3], nn.ConvTranspose2d(C, C, 3, 1, 1))

        def forward(self, x):
            return x + self.b(x)

    (site,) = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert site.name == "b.3"


def test_linknet_has_the_sites_of_its_encoder():
    smp = pytest.importorskip("segmentation_models_pytorch")
    sites = sites_of(smp.Linknet("resnet18", encoder_weights=None), torch.randn(1, 3, 64, 64))
    assert [site.name for site in sites] == [
        f"encoder.layer{i}.{j}.bn2" for i in (1, 2, 3, 4) for j in (0, 1)
    ]


def test_an_additive_attention_gate_has_no_residual_branch():
    nets = pytest.importorskip("monai.networks.nets")
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(
            nets.AttentionUnet(3, 1, 2, (4, 8, 16), (2, 2)), example=torch.zeros(1, 1, 16, 16, 16)
        )


# modules that cannot have a gate


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


class Placeholder(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.p1, self.unused = Block(2).b, nn.Identity(), nn.Identity()

    def forward(self, x):
        return x + self.p1(self.b(x))


def test_a_placeholder_that_runs_is_a_site():
    (site,) = sites_of(Placeholder(), torch.randn(2, C, 6, 6), where=["p1"])
    assert (site.name, site.channels) == ("p1", C)
    with pytest.raises(ValueError, match="'unused' is not run in a pass"):
        ab.plan(Placeholder(), example=torch.zeros(1, C, 6, 6), where=["unused"])


def test_a_placeholder_is_left_as_it_is_by_fusing_and_folding():
    model, x = randomise(Placeholder()).eval(), torch.randn(2, C, 6, 6)
    boosted = force(ab.boost(model, example=x, where=["p1"])).eval()
    for change in (ab.fuse, ab.fold):
        changed = change(copy.deepcopy(boosted), example=x)
        place = ab.fast_path(changed).places[0]
        assert (place.name, place.fast) == ("p1", False)
        assert "Identity is no batch norm" in place.how
        torch.testing.assert_close(changed(x), boosted(x))


def test_a_linear_head_is_a_place_by_name():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    (site,) = sites_of(model, torch.randn(2, 3, 2, 2), where=["1"])
    assert (site.channels, site.spatial_size) == (5, ())


class Loop(nn.Module):
    """One branch in three sums."""

    def __init__(self):
        super().__init__()
        self.f = Block(2).b

    def forward(self, x):
        for _ in range(3):
            x = x + self.f(x)
        return x


def test_a_branch_that_runs_three_times_is_told_so():
    with pytest.raises(ValueError, match=r"'f\.4' gives it and runs 3 times in a pass"):
        ab.plan(Loop(), example=torch.zeros(1, C, 6, 6))
    (site,) = sites_of(Loop(), torch.randn(2, C, 6, 6), where=["f.4"])
    assert site.name == "f.4"


def test_a_module_that_runs_on_maps_of_several_widths_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.a, self.b = nn.ReLU(), nn.Conv2d(C, C, 1), nn.Conv2d(C, 4, 1)

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    with pytest.raises(ValueError, match=r"'act' runs several times.*\[1, 8, 6, 6\] and \[1, 4, 6"):
        ab.plan(Net(), example=torch.zeros(1, C, 6, 6), where=["act"])


# what the forward takes


class Takes(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(2)


class ByName(Takes):
    def forward(self, *, image, scale=1.0):
        return self.block(image) * scale


class Two(Takes):
    def forward(self, x, y):
        return self.block(x + y)


class OneDict(Takes):
    def forward(self, batch):
        return self.block(batch["image"])


class OneTuple(Takes):
    def forward(self, pair):
        x, y = pair
        return self.block(x + y)


class Items(Takes):
    def forward(self, batch):
        return self.block(sum(value for _, value in batch.items()))


X = torch.zeros(1, C, 6, 6)


@pytest.mark.filterwarnings("ignore:Using a non-tuple")
@pytest.mark.parametrize(
    ("model", "words", "example"),
    [
        (ByName, r"takes image by name only: give example=\{'image': \.\.\.\}", {"image": X}),
        (Two, r"takes 2 inputs, x, y: give example=\(x, y\) by position", (X, X)),
        (OneDict, r"example=\(that,\) for one dict", ({"image": X},)),
        (OneTuple, r"example=\(that,\) for one dict or one tuple", ((X, X),)),
        (Items, r"example=\(that,\) for one dict", ({"a": X},)),
    ],
)
def test_the_remedy_is_what_the_forward_takes(model, words, example):
    with pytest.raises(ValueError, match=words):
        ab.plan(model())
    assert [g.site.name for g in ab.plan(model(), example=example).gates] == ["block.b.4"]
    with pytest.raises(ValueError, match=words):
        ab.complexity(model())


def test_two_inputs_are_gated_once():
    (site,) = sites_of(Two(), torch.randn(2, C, 6, 6), torch.randn(2, C, 6, 6))
    assert site.name == "block.b.4"
    (site,) = sites_of(ByName(), image=torch.randn(2, C, 6, 6))
    assert site.name == "block.b.4"


def test_an_image_of_the_wrong_size_is_told_about_sizes():
    with pytest.raises(ValueError, match="give an image, or an image size, that it can take"):
        ab.plan(nn.Sequential(Block(2), nn.Flatten(), nn.Linear(5, 2)))


# quantised and lazy networks


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_waits_to_be_quantised_is_taken():
    model = torchvision.models.quantization.resnet18(weights=None, quantize=False, num_classes=3)
    assert len(sites_of(model, torch.randn(1, 3, 32, 32))) == 8


@pytest.mark.filterwarnings("ignore")
def test_what_holds_quantised_weights_is_refused():
    model = nn.Sequential(Block(2), nn.Flatten(), nn.Linear(C * 16, 2))
    if not [e for e in torch.backends.quantized.supported_engines if e != "none"]:
        pytest.skip("no engine for quantised networks")
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(ValueError, match=r"quantised.*'2"):
        ab.plan(quantised, example=torch.zeros(1, C, 4, 4))


class LazyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.LazyConv2d(C, 3, padding=1)
        layers = nn.LazyConv2d(C, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU()
        self.b = nn.Sequential(*layers, nn.LazyConv2d(C, 3, padding=1), nn.LazyBatchNorm2d())

    def forward(self, x):
        x = self.stem(x)
        return x + self.b(x)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_query_leaves_lazy_modules_as_they_are():
    model = LazyBlock()
    for query in (ab.plan, ab.complexity):
        query(model)
        assert isinstance(model.stem, nn.LazyConv2d)
        assert isinstance(model.b[4].weight, nn.UninitializedParameter)
        assert all(m.training for m in model.modules())
    x = torch.randn(2, 3, 6, 6)
    boosted = force(ab.boost(model, example=x[:1])).eval()
    assert type(model.stem) is nn.Conv2d
    with torch.no_grad():
        got = boosted(x)
        with ab.disabled(boosted):
            expected = halved(boosted, ["b.4"])(x)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_network_that_is_refused_stays_lazy():
    model = nn.Sequential(nn.LazyConv2d(C, 3), nn.ReLU())
    with pytest.raises(ValueError, match="no residual branch"):
        ab.boost(model)
    assert isinstance(model[0], nn.LazyConv2d)


def test_networks_of_libraries_keep_the_number_of_their_sites():
    for model, count in (
        (timm.create_model("test_resnet", num_classes=2), 4),
        (torchvision.models.shufflenet_v2_x0_5(num_classes=2), 13),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = sites_of(model, torch.randn(1, 3, 64, 64))
        assert len(sites) == count
        assert not any(isinstance(model.get_submodule(s.name), nn.ReLU) for s in sites)
