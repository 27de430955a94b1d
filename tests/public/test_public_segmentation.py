"""Encoders of segmentation networks with gates: segmentation_models_pytorch and monai."""

from __future__ import annotations

import copy

import pytest
import torch
from support.halved_networks import HALF, all_learned, gate_vectors, halve
from torch import nn

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGE = (3, 64, 64)
SMALL = "tu-test_resnet"


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip("segmentation_models_pytorch", exc_type=ImportError)


@pytest.fixture(scope="module")
def nets():
    return pytest.importorskip("monai.networks.nets", exc_type=ImportError)


def images(n: int = 2, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, *IMAGE[1:], generator=generator)


def randomised(model: nn.Module) -> nn.Module:
    """Norms that are far from the identity, in eval mode."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval()


def unet(smp, encoder: str = SMALL, kind: str = "Unet", **options) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **options)
    return randomised(model)


ENCODERS = [
    ("Unet", "resnet18", 8),
    ("FPN", "mobilenet_v2", 10),
    ("DeepLabV3Plus", "tu-mobilenetv3_small_050", 7),
    ("UPerNet", "tu-convnext_atto", 12),
]


@pytest.mark.parametrize(("kind", "encoder", "gates"), ENCODERS)
@torch.no_grad()
def test_the_encoder_alone_or_the_network_around_it(smp, kind, encoder, gates):
    """The same gates, all in the encoder, and with the identity start the same masks."""
    whole = unet(smp, encoder, kind)
    y = whole(images())
    alone = copy.deepcopy(whole)
    ab.boost(whole, "ab", init="identity", example=images(1))
    ab.boost(alone.encoder, "ab", init="identity", example=images(1))
    assert torch.equal(whole(images()), y)
    assert torch.equal(alone(images()), y)
    names = {name.removeprefix("encoder.") for name in ab.surgery.attached(whole)}
    assert names == set(ab.surgery.attached(alone.encoder))
    assert len(names) == gates


@torch.no_grad()
def test_an_encoder_that_is_boosted_before_it_is_put_into_the_network(smp):
    model = unet(smp)
    encoder = smp.encoders.get_encoder(SMALL, weights=None)
    encoder.load_state_dict(model.encoder.state_dict())
    halve(ab.boost(encoder.eval(), HALF, example=images(1)))
    expected = copy.deepcopy(model)
    halve(ab.boost(expected, HALF, example=images(1)))
    base = model(images())
    model.encoder = encoder
    assert torch.equal(model(images()), expected(images()))
    assert (model(images()) - base).abs().max() > 1e-3


@pytest.mark.parametrize("where", ["residual", "conv"])
@torch.no_grad()
def test_dilated_and_given_other_input_channels_after_boosting(smp, where):
    """`make_dilated` and `set_in_channels` change convolutions in place."""
    outputs = []
    for boosted_first in (True, False):
        encoder = unet(smp, "resnet18").encoder
        if boosted_first:
            halve(ab.boost(encoder, HALF, example=images(1), where=where))
        encoder.make_dilated(16)
        encoder.set_in_channels(4)
        if not boosted_first:
            base = encoder(images(channels=4))[-1]
            halve(ab.boost(encoder, HALF, example=images(1, 4), where=where))
        outputs.append(encoder(images(channels=4))[-1])
    assert torch.equal(*outputs)
    assert (outputs[0] - base).abs().max() > 0.1


def test_a_frozen_encoder_freezes_its_gates(smp):
    model = ab.boost(unet(smp), "ab", init="identity", example=images(1))
    model.freeze_encoder()
    model.train()
    gates = ab.surgery.attached(model).values()
    assert not any(gate.training for gate in gates)
    assert not any(p.requires_grad for p in ab.added_parameters(model))
    for gate in gates:  # as docs/trainers/loops.md shows
        gate.train().requires_grad_()
    model.train()
    assert all(gate.training for gate in gates)
    assert not model.encoder.model.layer1[0].bn2.training


@torch.no_grad()
def test_saved_by_ours(smp, tmp_path):
    model = ab.boost(unet(smp), "ab", example=images(1))
    ab.save(model, tmp_path, full=True)
    loaded = ab.load(smp.Unet(SMALL, encoder_weights=None, classes=2), tmp_path).eval()
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.filterwarnings("always")
@torch.no_grad()
def test_reparameterised_mobileone(smp):
    """Branches with gates cannot be summed to one convolution: the next pass warns of the gates."""
    from segmentation_models_pytorch.encoders.mobileone import reparameterize_model

    encoder = randomised(smp.encoders.get_encoder("mobileone_s0", weights=None))
    x = images()[..., :32, :32]
    branches = [name for name, _ in encoder.named_modules() if name.endswith("rbr_conv.0.conv")]
    halve(ab.boost(encoder, HALF, example=x[:1], where=branches[:2]))
    encoder = reparameterize_model(encoder)
    with pytest.warns(UserWarning, match=rf"lost the gate at '{branches[0]}' and 1 more"):
        encoder(x)


MONAI = {
    "resnet10 in 3D": ("resnet10", {"spatial_dims": 3, "n_input_channels": 1}, (16, 16, 16), 4),
    "UNet": (
        "UNet",
        {**dict(spatial_dims=2, in_channels=1, out_channels=2, num_res_units=2)}  # noqa: C408
        | {"channels": (8, 16, 32), "strides": (2, 2)},
        (32, 32),
        4,
    ),
    "SegResNet": ("SegResNet", {"spatial_dims": 3, "init_filters": 8}, (16, 16, 16), 12),
    "DynUNet": (
        "DynUNet",
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3]}
        | {"strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "res_block": True},
        (32, 32),
        3,
    ),
}


@pytest.mark.parametrize("name", MONAI)
@torch.no_grad()
def test_networks_of_monai(nets, name):
    kind, options, size, gates = MONAI[name]
    torch.manual_seed(0)
    model = getattr(nets, kind)(**options).eval()
    x = torch.randn(2, 1, *size)
    y = model(x)
    ab.boost(model, "ab", init="identity", example=x[:1])
    assert torch.equal(model(x), y)
    assert len(ab.surgery.attached(model)) == gates


def test_a_loop_of_monai(nets, tmp_path):
    """Its inferer, loss and transforms of outputs; a checkpoint, and a new network from it."""
    from monai.inferers import SlidingWindowInferer
    from monai.losses import DiceLoss

    kind, options, _, gates = MONAI["UNet"]
    x, target = torch.randn(8, 1, 32, 32), torch.randint(0, 2, (8, 1, 32, 32))
    torch.manual_seed(0)
    model = ab.boost(getattr(nets, kind)(**options), "ab", init="identity", example=x[:1])
    before = gate_vectors(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        DiceLoss(to_onehot_y=True, softmax=True)(model(x), target).backward()
        optimizer.step()
    assert all_learned(model, before)
    torch.save({"net": model.state_dict(), "gates": ab.gate_record(model)}, tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt")
    new = ab.rebuild_gates(getattr(nets, kind)(**options), saved["gates"])
    new.load_state_dict(saved["net"])
    infer = SlidingWindowInferer((16, 16), overlap=0.25)
    with torch.no_grad():
        assert torch.equal(infer(x, new.eval()), infer(x, model.eval()))
    assert len(ab.surgery.attached(new)) == gates
