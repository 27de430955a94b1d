"""The block as a module: shapes, dtypes, layouts, copies, compilers, bad input."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from support.blocks import (
    EVERY,
    NAMES,
    block,
    randomise,
)
from support.ranks import (
    CLOSE,
    SPACES,
)

import accuracy_booster as ab
from accuracy_booster.blocks import recipe

pytestmark = pytest.mark.filterwarnings("error")
# a weight for each position
SIZED = ["ge_theta", "ge_theta_plus", "ge_theta_plus_ab", "ge_theta_bn", "ge_theta_plus_bn"]
SIZED += [f"design_{x}" for x in ("g", "g_bn", "h", "h_bn")]


@pytest.mark.parametrize("shape", [(2, 32, 5, 7), (2, 32, 7, 5), (3, 16, 1, 1), (2, 64, 1, 9)])
@pytest.mark.parametrize("text", EVERY)
def test_odd_shapes_give_weights_between_0_and_1(text, shape):
    x = torch.rand(shape) + 0.5
    y = randomise(block(text, shape[1], shape[2:], torch.float32))(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert ((y >= 0) & (y <= x)).all()
    assert (y / x).std() > 0.001  # and not all the same


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("text", EVERY)
def test_channels_last_stays_and_changes_no_value(text, training):
    m = randomise(block(text, dtype=torch.float32)).train(training)
    x = torch.randn(3, 32, 5, 7)
    expected = copy.deepcopy(m)(x)
    assert expected.is_contiguous()
    y = m(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)  # rounding differs by CPU
    y = m.to(memory_format=torch.channels_last).eval()(x)
    torch.testing.assert_close(
        y, copy.deepcopy(m)(x.to(memory_format=torch.channels_last)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("text", EVERY)
def test_samples_do_not_meet_in_eval(text, batch):
    m = randomise(block(text)).eval()
    x = torch.randn(3, 32, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(m(x[:batch]), m(x)[:batch], rtol=1e-10, atol=1e-12)


# a batch norm that follows removes the bias of the gather; Gather-Excite has one all the same
DEAD = {"ge_theta_plus_ab": {"0.gather.bias"}}


@pytest.mark.parametrize("text", EVERY)
def test_every_parameter_gets_a_gradient(text):
    m = block(text).train()
    with torch.no_grad():
        for name, value in m.named_parameters():
            if name.endswith("reduce.bias"):
                value.fill_(1)  # a hidden layer of two units: keep its ReLU open
    x = torch.randn(4, 32, 5, 7, dtype=torch.float64, requires_grad=True)
    (m(x) * torch.randn_like(x)).sum().backward()
    dead = {n for n, p in m.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-10}
    assert dead == DEAD.get(text, set())
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("given", ["full", "half"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("text", EVERY)
def test_autocast_keeps_the_dtype_and_the_gate(text, dtype, training, given):
    m = block(text, dtype=torch.float32).train(training)
    x = torch.randn(4, 32, 5, 7)
    x = x.to(dtype) if given == "half" else x
    full = x.float().requires_grad_()
    expected = copy.deepcopy(m)(full)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = m(x)
    assert y.dtype == x.dtype
    eps = torch.finfo(dtype).eps
    distance = ((y.float() - expected).abs() / x.detach().float().abs().clamp(min=1e-3)).max()
    assert distance < 16 * eps
    y.float().square().sum().backward()
    expected.square().sum().backward()
    # as a whole: one value may take the other side of a ReLU or a maximum
    assert F.cosine_similarity(x.grad.float().flatten(), full.grad.flatten(), dim=0) > 0.99
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("text", EVERY)
def test_half_precision_modules(text, dtype):
    m = block(text, dtype=torch.float32)
    x = torch.randn(4, 32, 5, 7).to(dtype)
    expected = copy.deepcopy(m).eval()(x.float())
    m = m.to(dtype)
    y = m.eval()(x)
    assert y.dtype == dtype
    assert ((y.float() - expected).abs() / x.float().abs().clamp(min=1e-3)).max() < 0.05
    y = m.train()(x.requires_grad_())
    assert y.dtype == dtype
    y.float().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("text", EVERY)
def test_copies_and_state_dict(text):
    m = randomise(block(text, dtype=torch.float32)).eval()
    x = torch.randn(2, 32, 5, 7)
    expected = m(x)
    fresh = ab.Recalibrate(32, str(m.recipe), spatial_size=m.spatial_size).eval()
    fresh.load_state_dict(m.state_dict())
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), fresh):
        assert other.recipe == m.recipe
        assert torch.equal(other(x), expected)
        assert list(other.state_dict()) == list(m.state_dict())
        with torch.no_grad():
            for value in other.parameters():
                value.add_(1)
    assert torch.equal(m(x), expected)  # they share nothing


@pytest.mark.parametrize("text", EVERY)
def test_compiles_as_one_graph(text):
    torch._dynamo.reset()
    m = randomise(block(text, dtype=torch.float32)).train()
    plain = copy.deepcopy(m)
    x = torch.randn(3, 32, 5, 7, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    y, expected = compiled(x), plain(x_plain)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=1e-4, atol=1e-5)
    for mine, other in zip(m.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(m.state_dict(), plain.state_dict())


@pytest.mark.parametrize("text", ["ab", "ab_plus", "cbam", "design_n"])
def test_compiles_as_one_graph_under_autocast(text):
    torch._dynamo.reset()
    m = block(text, dtype=torch.float32).eval()
    x = torch.randn(3, 32, 5, 7)
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(compiled(x), m(x))


@pytest.mark.parametrize("text", EVERY)
def test_exports_in_eval_with_any_batch(text):
    m = randomise(block(text, dtype=torch.float32)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        m, (torch.randn(3, 32, 5, 7),), dynamic_shapes=({0: batch},)
    ).module()
    for n in (1, 3, 4):
        x = torch.randn(n, 32, 5, 7)
        torch.testing.assert_close(program(x), m(x))


@pytest.mark.parametrize("name", NAMES)
def test_spatial_size_is_asked_for_where_it_is_needed(name):
    assert recipe(name).needs_spatial_size == (name in SIZED)
    if name not in SIZED:
        ab.Recalibrate(32, name)
        return
    with pytest.raises(ValueError, match="spatial_size"):
        ab.Recalibrate(32, name)


@pytest.mark.parametrize("size", [(7, 5), (5, 8), (1, 1), (10, 14)])
@pytest.mark.parametrize("name", SIZED)
def test_a_map_of_another_size(name, size):
    m = block(name, size=(5, 7)).eval()
    with pytest.raises(ValueError) as caught:
        m(torch.randn(2, 32, *size, dtype=torch.float64))
    assert "5x7" in str(caught.value)
    assert f"{size[0]}x{size[1]}" in str(caught.value)


def test_spatial_size_may_be_one_number():
    assert [p.shape for p in block("design_g", size=6).parameters()] == [
        p.shape for p in block("design_g", size=(6, 6)).parameters()
    ]


@pytest.mark.parametrize("size", [0, (0, 5), (5, -1)])
def test_bad_spatial_size(size):
    with pytest.raises(ValueError, match="spatial_size"):
        ab.Recalibrate(32, "design_g", spatial_size=size)


@pytest.mark.parametrize(("channels", "groups"), [(64, 48), (64, 3), (30, 4), (7, 2), (64, 100)])
@pytest.mark.parametrize("text", ["ab_g{}", "gap | dense(groups={}) | sigmoid"])
def test_groups_that_do_not_divide(text, channels, groups):
    with pytest.raises(ValueError) as caught:
        ab.Recalibrate(channels, text.format(groups))
    message = str(caught.value)
    assert f"groups={groups}" in message
    assert f"channels={channels}" in message
    tried = {int(number) for number in re.findall(r"\d+", message.split("try", 1)[1])}
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    nearest = {max(d for d in divisors if d < groups)}
    nearest |= {min(d for d in divisors if d > groups)} if groups < channels else set()
    assert tried == nearest


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input(name):
    m = block(name).eval()
    for shape in [
        (2, 31, 5, 7),
        (2, 64, 5, 7),
        (2, 1, 5, 7),
        (2, 32),
        (32, 5, 7),
        (2, 32, 5, 7, 1),
    ]:
        with pytest.raises(ValueError, match="32 channels"):
            m(torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("channels", [0, -1, 1.5, "32", None])
def test_bad_channels(channels):
    with pytest.raises(ValueError, match="channels"):
        ab.Recalibrate(channels, "ab")


OF_MEAN = ["ab", "ab_plus", "ab_g2", "ab_g4", "ab_nobn", "se", "eca", "design_e", "design_f"]
OF_MEAN += [
    "ge_theta_minus",
    "gmp | dense(groups=C) | bn | sigmoid",
    "gap + gmp | bottleneck(4) | sigmoid",
]
OF_POSITIONS = [
    "cbam",
    "ge_theta",
    "ge_theta_plus",
    "design_g_bn",
    "design_h",
    "design_i",
    "design_l",
]
OF_POSITIONS += ["design_n", "dw3_bn", "gather(2) | sigmoid", "gather(4, learned=true) | sigmoid"]


def by_hand(block: ab.Recalibrate, x: torch.Tensor, training: bool) -> torch.Tensor:
    """AB on x[N, C, ...], from the paper's formulas."""
    gate = block[0]
    z = x.flatten(2).mean(2) if x.ndim > 2 else x
    z = z * gate.dense.weight[:, 0]
    bn = gate.bn
    mean, var = (
        (z.mean(0), z.var(0, correction=0)) if training else (bn.running_mean, bn.running_var)
    )
    z = (z - mean) / torch.sqrt(var + bn.eps) * bn.weight + bn.bias
    return x * torch.sigmoid(z).reshape(*z.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", SPACES)
def test_ab_is_the_papers_formula_on_every_rank(dims, training):
    block = randomise(ab.Recalibrate(8, "ab", spatial_dims=dims).double()).train(training)
    x = torch.randn(5, 8, *SPACES[dims], dtype=torch.float64)
    expected = by_hand(block, x, training)  # before running statistics move
    torch.testing.assert_close(block(x), expected, **CLOSE)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dims", [0, 1, 3])
@pytest.mark.parametrize("text", OF_MEAN)
def test_a_gate_of_the_mean_sees_no_rank(text, dims, layout):
    """The same map in another arrangement of its positions: as [N, C, positions, 1]."""
    flat = randomise(ab.Recalibrate(16, text).double()).eval()
    block = ab.Recalibrate(16, text, spatial_size=SPACES[dims], layout=layout).double().eval()
    block.load_state_dict(flat.state_dict())  # the same names and shapes
    x = torch.randn(3, 16, *SPACES[dims], dtype=torch.float64)
    expected = flat(x.reshape(3, 16, -1, 1)).reshape(x.shape)
    given = x.movedim(1, -1) if layout == "NHWC" else x
    found = block(given)
    torch.testing.assert_close(
        found.movedim(-1, 1) if layout == "NHWC" else found, expected, **CLOSE
    )


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("text", OF_POSITIONS)
def test_a_gate_of_positions_on_one_and_three_dimensions(text, dims):
    """They keep shapes and give gradients; in 1-D they are the 2-D ones on a map of one row."""
    size = SPACES[dims]
    block = randomise(ab.Recalibrate(16, text, spatial_size=size).double()).eval()
    x = torch.randn(3, 16, *size, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    if dims == 1:  # the same weights on [N, C, 1, L]: a kernel's middle row
        flat = ab.Recalibrate(16, text, spatial_size=(1, *size)).double().eval()
        state = flat.state_dict()
        for name, value in block.state_dict().items():
            if value.ndim == 3 and state[name].ndim == 4:
                middle = torch.zeros_like(state[name])
                middle[:, :, middle.shape[2] // 2] = value
                value = middle
            state[name] = value
        flat.load_state_dict(state)
        torch.testing.assert_close(flat(x[:, :, None])[:, :, 0], y, **CLOSE)


@pytest.mark.parametrize("text", OF_POSITIONS)
def test_what_needs_positions_is_refused_on_vectors(text):
    with pytest.raises(ValueError, match=r"needs positions, and \[N, 16\] has none; use a block"):
        ab.Recalibrate(16, text, spatial_size=())


def test_cbam_in_three_dimensions_is_a_3d_convolution():
    block = randomise(
        ab.Recalibrate(16, "channel_pool | conv2d(3) | sigmoid", spatial_dims=3)
    ).eval()
    x = torch.randn(2, 16, 3, 4, 5)
    layer = block[0].conv2d
    assert layer.weight.shape == (1, 2, 3, 3, 3)
    planes = block[0].channel_pool(x)
    expected = x * torch.sigmoid(F.conv3d(planes, layer.weight, layer.bias, padding=1))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 must be 0, 1, 2 or 3"),
        ({"spatial_size": (1, 2, 3, 4)}, "must have 0 to 3 sides"),
        ({"spatial_size": (4, 4), "spatial_dims": 3}, "has 2 sides, and spatial_dims=3"),
        ({"spatial_size": (0,)}, "must be >= 1"),
        ({"recipe": "design_g", "spatial_dims": 3}, r"pass spatial_size=\(D, H, W\)"),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ab.Recalibrate(16, **options)


def test_a_map_of_another_rank_is_named_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"takes \[N, 8, H, W\], got \[2, 8, 5\]; .*spatial_dims=1"
    ):
        ab.Recalibrate(8)(torch.zeros(2, 8, 5))
    with pytest.raises(
        ValueError, match=r"channels last got \[2, 5, 8\]; build it with spatial_dims=1"
    ):
        ab.Recalibrate(8, layout="NHWC")(torch.zeros(2, 5, 8))
    assert ab.Recalibrate(8, spatial_size=7).spatial_size == (7, 7)


def test_weights_of_another_start_are_refused(tmp_path):
    """Gates of init="paper" and init="identity" have the same names and shapes of weights."""
    one, other = ab.Recalibrate(8, "ab"), ab.Recalibrate(8, ab.recipe("ab").as_identity())
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    with pytest.raises(RuntimeError, match=r"ends in 2 . sigmoid.*boost with init='identity'"):
        one.load_state_dict(state)
    with pytest.raises(RuntimeError, match="boost with init='paper'"):
        other.load_state_dict(one.state_dict())
    other.load_state_dict(state)
    one.load_state_dict({**state})  # plain tensors, which tell no start
