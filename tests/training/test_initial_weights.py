"""How a new run starts: from random or trained weights, a file or a run; and its gates."""

import pytest
import torch
from support.trainings import (
    SIZE_32,
    logits_of,
    randomise,
)

import accuracy_booster as ab
from accuracy_booster.training import resolve, run_to_end
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run


class Begun(Exception):
    """The training is about to take its first step."""


def begun(folder, tmp_path, monkeypatch, model="resnet8", **options):
    """The configuration of a run and its network as the first step sees it."""
    found = {}

    def fit(trainer, *_, **__):
        found["network"], found["config"] = trainer.network, trainer.config
        raise Begun

    given = {**SIZE_32, "data": str(folder), "output": str(tmp_path / "run"), "overwrite": True}
    with monkeypatch.context() as patch:
        patch.setattr(run_to_end, "fit", fit)
        with pytest.raises(Begun):
            ab.train(model, **{**given, **options})
    return found["config"], found["network"]


@pytest.mark.parametrize(
    ("init", "block", "becomes", "same"),
    [
        ("auto", "ab", "identity", True),
        ("auto", "se", "identity", True),
        ("identity", "ab", "identity", True),
        ("paper", "ab", "paper", False),
        ("auto", "gap | sigmoid", "paper", False),
        ("auto", "none", "paper", True),
    ],
)
def test_trained_weights_start_as_what_they_are(
    init, block, becomes, same, weights_file, folder, tmp_path, monkeypatch, capfd
):
    options = {"weights": str(weights_file[1]), "init": init, "block": block}
    config, network = begun(folder, tmp_path, monkeypatch, **options)
    assert config.init == becomes
    assert torch.equal(logits_of(network), logits_of(weights_file[0])) == same
    told = " ".join(capfd.readouterr().err.split())
    assert ("init=identity: the gates start by changing nothing" in told) == (
        init == "auto" and same and block != "none"
    )
    assert ("init=paper: 'gap | sigmoid' has no parameters" in told) == (block == "gap | sigmoid")


@pytest.mark.parametrize(("init", "becomes"), [("auto", "identity"), ("paper", "paper")])
def test_a_pretrained_network_starts_as_what_it_is(init, becomes, folder, tmp_path, monkeypatch):
    import timm

    base = randomise(timm.create_model("test_resnet", num_classes=3))
    torch.save(base.state_dict(), tmp_path / "timm.pth")
    real = timm.create_model

    def create(name, pretrained=False, **given):
        if pretrained:
            given["pretrained_cfg_overlay"] = {"file": str(tmp_path / "timm.pth"), "num_classes": 3}
        return real(name, pretrained=pretrained, **given)

    monkeypatch.setattr(timm, "create_model", create)
    options = {"pretrained": True, "init": init}
    config, network = begun(folder, tmp_path, monkeypatch, "timm/test_resnet", **options)
    assert config.init == becomes
    assert torch.equal(logits_of(network), logits_of(base)) == (becomes == "identity")


def test_random_weights_start_as_in_the_paper(folder, tmp_path, monkeypatch):
    config, network = begun(folder, tmp_path, monkeypatch)
    assert config.init == "paper"
    torch.manual_seed(0)
    expected = ab.create_model("resnet8", block="ab", init="paper", num_classes=3)
    assert torch.equal(logits_of(network), logits_of(expected))


def test_gates_in_the_weights_go_on_as_they_were(folder, tmp_path, monkeypatch):
    """An identity gate's p is 2 * sigmoid, a gate of the paper's 1 * sigmoid: a file must say."""
    first = str(tmp_path / "first")
    options = {**SIZE_32, "lr": 0.01, "data": str(folder)}
    for init in ("identity", "paper"):
        ab.train("resnet8", init=init, output=first, overwrite=True, **options)
        expected = logits_of(load_network(*Run.open(tmp_path / "first")))
        for weights in (first, f"{first}/model.safetensors"):
            config, network = begun(folder, tmp_path, monkeypatch, weights=weights)
            assert config.init == init
            assert torch.equal(logits_of(network), expected)
    with pytest.raises(ValueError, match=r"init='identity', but .* init='paper'.*leave init out"):
        ab.train("resnet8", weights=first, init="identity", output=str(tmp_path / "x"), **options)


def test_a_run_of_weights_keeps_their_mean_and_std(weights_file, folder, tmp_path, monkeypatch):
    first = str(tmp_path / "first")
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    ab.train("resnet8", output=first, data=str(folder), **SIZE_32, **given)
    config, _ = begun(folder, tmp_path, monkeypatch, weights=first)
    assert (config.mean, config.std) == (given["mean"], given["std"])
    config, _ = begun(folder, tmp_path, monkeypatch, weights=first, mean=(0.7,) * 3)
    assert (config.mean, config.std) == ((0.7,) * 3, given["std"])


def test_a_run_of_grey_images_starts_from_one_of_colour_and_back(folder, tmp_path, monkeypatch):
    first, grey = str(tmp_path / "first"), str(tmp_path / "grey")
    colours = {"mean": (0.1, 0.2, 0.6), "std": (0.4, 0.5, 0.6)}
    ab.train("resnet8", output=first, data=str(folder), **SIZE_32, **colours)
    config, _ = begun(folder, tmp_path, monkeypatch, weights=first, in_chans=1)
    assert (config.mean, config.std) == (pytest.approx((0.3,)), pytest.approx((0.5,)))
    one = {"in_chans": 1, "mean": (0.25,), "std": (0.5,)}
    ab.train("resnet8", output=grey, data=str(folder), **SIZE_32, **one)
    config, _ = begun(folder, tmp_path, monkeypatch, weights=grey)
    assert (config.mean, config.std) == ((0.25,) * 3, (0.5,) * 3)


def test_gates_at_other_sites_than_the_runs_are_told(folder, tmp_path):
    first = str(tmp_path / "first")
    options = {**SIZE_32, "data": str(folder)}
    ab.train("resnet8", output=first, where="conv", skip="layer1", **options)
    with pytest.raises(ValueError, match=r"that run has where='conv', skip='layer1'$"):
        ab.train("resnet8", weights=first, output=str(tmp_path / "x"), **options)


def test_what_ab_save_wrote_is_a_start(weights_file, folder, tmp_path, monkeypatch):
    boosted = ab.boost(weights_file[0], "ab", init="identity", example=torch.zeros(1, 3, 32, 32))
    for name, parameter in boosted.named_parameters():
        if ".recalibrate." in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    ab.save(boosted, tmp_path / "full", full=True)
    config, network = begun(folder, tmp_path, monkeypatch, weights=str(tmp_path / "full"))
    assert config.init == "identity"
    assert torch.equal(logits_of(network), logits_of(boosted))


def test_a_head_for_other_classes_starts_anew(weights_file, folder, tmp_path, monkeypatch, capfd):
    other = randomise(ab.create_model("resnet8", num_classes=7))
    torch.save(other.state_dict(), tmp_path / "seven.pth")
    options = {"weights": str(tmp_path / "seven.pth"), "freeze": "base"}
    _, network = begun(folder, tmp_path, monkeypatch, **options)
    assert network.fc.weight.shape == (3, 64)
    assert torch.equal(network.conv1.weight, other.conv1.weight)
    assert network.fc.weight.requires_grad
    assert not network.conv1.weight.requires_grad
    assert "a new head (fc.weight, fc.bias)" in " ".join(capfd.readouterr().err.split())
    _, network = begun(
        folder, tmp_path, monkeypatch, weights=str(weights_file[1]), freeze="base"
    )  # its head fits as it is
    assert not network.fc.weight.requires_grad


@pytest.mark.parametrize(("names", "trains"), [("abc", False), ("xyz", True)])
def test_a_head_for_classes_of_other_names_is_trained(
    names, trains, folder, make_folder, tmp_path, monkeypatch
):
    first = str(tmp_path / "first")
    ab.train("resnet8", output=first, data=str(folder), **SIZE_32)
    splits = {f"{split}/{name}": 8 for split in ("train", "test") for name in names}
    data = make_folder(splits, size=(32, 32), name="others")
    _, network = begun(data, tmp_path, monkeypatch, weights=first, freeze="base")
    assert network.fc.weight.requires_grad == trains


def test_a_run_does_not_need_its_file_of_weights_once_it_has_begun(weights_file, folder, tmp_path):
    options = {**SIZE_32, "data": str(folder), "weights": str(weights_file[1]), "freeze": "base"}
    ab.train("resnet8", output=str(tmp_path / "run"), **options)
    weights_file[1].unlink()
    result = ab.train(resume=tmp_path / "run", epochs=2)
    assert [row["epoch"] for row in result.history] == [1, 2]


def test_a_public_checkpoint_of_cifar10(shared):
    from accuracy_booster.models import from_akamaster

    file = shared / "weights" / "resnet20_cifar10.th"
    if not file.is_file():
        pytest.skip(f"needs {file.name} of akamaster/pytorch_resnet_cifar10")
    config = resolve("resnet20", data="cifar10", weights=str(file))
    model, expected = ab.create_model("resnet20"), ab.create_model("resnet20")
    line = start_from_weights(model, config)
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    expected.load_state_dict(from_akamaster(checkpoint["state_dict"]))
    assert torch.equal(logits_of(model), logits_of(expected))
    assert "new head" not in line
    assert "not of this network" not in line
