"""Training the networks, heads and weights that people have: other outputs, heads and files."""

import argparse
import collections
import dataclasses
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models import classifier
from accuracy_booster.models.heads import heads
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.models.weights import load_weights
from accuracy_booster.training import (
    engine,
    resolve,
)
from accuracy_booster.training import (
    initial_weights as start,
)
from accuracy_booster.training import (
    network_outputs as outputs,
)
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.run_directory import Run

SHORT = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


def randomise(model: nn.Module) -> nn.Module:
    """Trained, as it were: no two tensors of it are those that another start gives."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "var" in name else tensor + 0.1 * (noise - 0.5))
    return model


def logits_of(model: nn.Module, side: int = 32) -> torch.Tensor:
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    model = model.to(memory_format=torch.contiguous_format)  # another one rounds differently
    with torch.no_grad():
        return model.eval()(x)


# outputs

GoogLeNet = torchvision.models.GoogLeNetOutputs
Inception = torchvision.models.inception.InceptionOutputs
MAIN, ONE, TWO = (torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))


@dataclasses.dataclass
class Output:
    """As Hugging Face's: an object with `logits`."""

    logits: torch.Tensor
    hidden_states: tuple = ()


OUTPUTS = {
    "tensor": (MAIN, []),
    "googlenet": (GoogLeNet(MAIN, ONE, TWO), [(0.3, ONE), (0.3, TWO)]),
    "googlenet without aux": (GoogLeNet(MAIN, None, None), []),
    "inception": (Inception(MAIN, ONE), [(0.4, ONE)]),
    "segmentation's dict": (collections.OrderedDict(out=MAIN, aux=ONE), [(0.5, ONE)]),
    "out alone": ({"out": MAIN}, []),
    "dict of logits": ({"logits": MAIN, "features": ONE}, []),
    "object with logits": (Output(MAIN), []),
    "tuple with features": ((MAIN, torch.zeros(5, 64)), []),
    "list": ([MAIN, ONE], [(0.4, ONE)]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_and_auxiliary_logits_of_every_kind_of_output(kind):
    given, expected = OUTPUTS[kind]
    logits, others = outputs.split_outputs(given)
    assert logits is MAIN
    assert [weight for weight, _ in others] == [weight for weight, _ in expected]
    assert all(a is b for (_, a), (_, b) in zip(others, expected, strict=True))


def test_a_hugging_face_output():
    modeling = pytest.importorskip("transformers.modeling_outputs")
    output = modeling.ImageClassifierOutput(logits=MAIN, hidden_states=(ONE,))
    assert outputs.split_outputs(output)[0] is MAIN
    assert outputs.split_outputs(output)[1] == []


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(2, 3, 4, 4), r"a Tensor \[2, 3, 4, 4\]; .*need logits \[N, classes\]"),
        ({"features": MAIN}, "a dict; .*need logits"),
        ((), "a tuple; "),
        (None, "a NoneType; "),
    ],
)
def test_an_output_without_logits_is_told(output, told):
    with pytest.raises(ValueError, match=told):
        outputs.split_outputs(output)


class Small(nn.Module):
    """A stand-in of GoogLeNet or Inception v3: auxiliary heads that give logits in training."""

    def __init__(self, kind, classes=3):
        super().__init__()
        self.kind = kind
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.aux1, self.aux2, self.fc = (nn.Linear(8, classes) for _ in range(3))

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if not self.training:
            return self.fc(y)
        if self.kind is GoogLeNet:
            return GoogLeNet(self.fc(y), self.aux2(y), self.aux1(y))
        return self.kind(self.fc(y), self.aux1(y))


def make(monkeypatch, network):
    """Let runs train this network, whatever they name."""
    monkeypatch.setattr(engine, "create_model", lambda name, **given: network())


@pytest.mark.parametrize(("kind", "weights"), [(GoogLeNet, (0.3, 0.3)), (Inception, (0.4,))])
def test_the_loss_adds_auxiliary_heads(kind, weights, folder, tmp_path, monkeypatch):
    make(monkeypatch, lambda: Small(kind))
    options = {**SHORT, "batch_size": 24, "augment": "none", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    result = ab.train(
        "resnet8", block="none", data=str(folder), output=str(tmp_path / "run"), **options
    )
    torch.manual_seed(0)
    model = Small(kind)
    data = ab.data.load_data(str(folder), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = data.loaders["train"].dataset.images
    x, labels = (images.images.float() / 255 - 0.5) / 0.5, images.labels
    y = model.conv(x).mean((2, 3))
    own = [F.cross_entropy(head(y), labels) for head in (model.aux1, model.aux2)]
    expected = F.cross_entropy(model.fc(y), labels)
    expected = expected + sum(w * loss for w, loss in zip(weights, own, strict=False))
    # one step of all images: the loss that the run logs is that of the fresh network
    assert result.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-4)
    final = load_file(tmp_path / "run" / "model.safetensors")
    fresh = model.state_dict()
    moved = [n for n in ("aux1.weight", "aux2.weight") if not torch.equal(final[n], fresh[n])]
    assert moved == ["aux1.weight", "aux2.weight"][: len(weights)]


def test_googlenet_trains_and_is_measured(make_folder, tmp_path):
    data = make_folder({f"{s}/{c}": 4 for s in ("train", "test") for c in "ab"}, size=(32, 32))
    result = ab.train(
        *("torchvision/googlenet",),
        **{**SHORT, "block": "none", "data": str(data), "output": str(tmp_path / "run")},
    )
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert final["aux1.fc2.weight"].shape == final["aux2.fc2.weight"].shape == (2, 1024)
    # three heads of two classes: about (1 + 0.3 + 0.3) log 2 before the first step
    assert 0.8 * 1.6 * math.log(2) < result.history[0]["train_loss"] < 3 * 1.6 * math.log(2)
    assert ab.evaluate(tmp_path / "run").top1 == result.test.top1


# what a network cannot take is told before a run is there


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda: nn.Conv2d(3, 3, 64), "cannot take images of 3 x 32 x 32 .*another image_size"),
        (lambda: nn.Conv2d(3, 3, 3), r"a Tensor \[2, 3, 30, 30\]; training and measuring need"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), "2 logits, fewer than num_class"),
    ],
)
def test_a_network_that_does_not_fit_is_told_before_the_run(
    network, told, folder, tmp_path, monkeypatch
):
    make(monkeypatch, network)
    with pytest.raises(ValueError, match=told):
        ab.train("resnet8", block="none", data=str(folder), output=str(tmp_path / "run"), **SHORT)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_trying_a_network_leaves_it_as_it_was(folder, tmp_path):
    config = resolve("resnet8", data=str(folder), **SHORT)
    data = engine.open_data_anew(config)
    from accuracy_booster.training.trainer import Trainer

    trainer = Trainer(Classification(engine.fill_in(config, data), data))
    before = {name: tensor.clone() for name, tensor in trainer.plain.state_dict().items()}
    state = torch.get_rng_state()
    trainer.check_network()
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in trainer.plain.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_trying_a_network_leaves_the_warning_of_small_batches_for_training(
    folder, tmp_path, monkeypatch
):
    from accuracy_booster.blocks import gate_norm

    monkeypatch.setattr(gate_norm.small_batch_warning, "given", False)
    options = {**SHORT, "data": str(folder), "output": str(tmp_path / "run")}
    with pytest.warns(UserWarning, match="sees 8 values per channel, fewer than 16"):
        ab.train("resnet8", **options)


def test_inception_is_refused_for_small_images(folder, tmp_path):
    from accuracy_booster.cli import main

    words = ["train", "--model", "torchvision/inception_v3", "--block", "none", "--data", folder]
    words += ["--image_size", "32", "--batch_size", "8", "--output", tmp_path / "run"]
    assert main([str(word) for word in words]) == 2
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_network_of_one_size_is_refused_for_others(folder, tmp_path, monkeypatch):
    """As timm's ViTs, which assert their size."""
    options = {**SHORT, "block": "none", "data": str(folder), "output": str(tmp_path / "run")}
    with pytest.raises(ValueError, match=r"vit.* cannot take images of 3 x 32 x 32 \(.*224"):
        ab.train("timm/vit_tiny_patch16_224", **options)
    make(monkeypatch, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)))
    ab.train("resnet8", **options)
    with pytest.raises(ValueError, match=r"cannot take images of 3 x 16 x 16 .*image_size"):
        ab.evaluate(tmp_path / "run", image_size=16)


# heads

HEADS = [
    ("squeezenet1_1", ["classifier.1"], (10, 512, 1, 1)),
    ("vgg11", ["classifier.6"], (10, 4096)),
    ("densenet121", ["classifier"], (10, 1024)),
    ("mobilenet_v3_small", ["classifier.3"], (10, 1024)),
    ("inception_v3", ["AuxLogits.fc", "fc"], (10, 2048)),
    ("googlenet", ["aux1.fc2", "aux2.fc2", "fc"], (10, 1024)),
]


@pytest.mark.parametrize(("name", "expected", "shape"), HEADS)
def test_torchvisions_heads_get_other_classes(name, expected, shape):
    with torch.device("meta"):
        model = ab.create_model(f"torchvision/{name}", num_classes=10)
    assert list(heads(model)) == expected
    assert classifier(model)[0] == expected[-1]
    assert {layer.weight.shape[0] for layer in heads(model).values()} == {10}
    assert classifier(model)[1].weight.shape == shape


def test_a_head_that_is_a_convolution_gives_so_many_logits():
    model = ab.create_model("torchvision/squeezenet1_1", num_classes=10)
    assert logits_of(model, 64).shape == (4, 10)


def test_heads_are_those_that_timm_names_and_no_layer_of_as_many_outputs():
    with torch.device("meta"):
        two = ab.create_model("timm/deit_tiny_distilled_patch16_224", num_classes=5)
        other = ab.create_model("timm/resnetv2_50x1_bit", num_classes=5)
    assert list(heads(two)) == ["head", "head_dist"]
    assert list(heads(other)) == ["head.fc"]
    assert isinstance(classifier(other)[1], nn.Conv2d)
    # a hidden layer that happens to give as many values as there are classes is no head
    plain = nn.Sequential(nn.Sequential(nn.Linear(4, 6)), nn.Linear(6, 6))
    assert list(heads(plain)) == ["1"]
    boosted = ab.create_model("resnet8", block="se", num_classes=64)
    assert list(heads(boosted)) == ["fc"]


FROZEN = [
    ("timm/resnetv2_50x1_bit", ["head.fc.bias", "head.fc.weight"]),
    ("torchvision/resnet18", ["fc.bias", "fc.weight"]),
    ("resnet8", ["fc.bias", "fc.weight"]),
]


@pytest.mark.parametrize(("name", "expected"), FROZEN)
@pytest.mark.parametrize("keeps", [False, True])
def test_freeze_base_trains_the_gates_and_a_new_head(name, expected, keeps):
    with torch.device("meta"):
        network = ab.create_model(name, num_classes=3)
    ab.boost(network, "ab", example=torch.zeros(1, 3, 64, 64, device="meta"))
    config = resolve(name, data="cifar10", freeze="base")
    engine.freeze(network, config, keeps_head=keeps)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert sorted(n for n in trained if ".recalibrate." not in n) == ([] if keeps else expected)
    gates = {n for n, _ in network.named_parameters() if ".recalibrate." in n}
    assert gates
    assert gates <= trained


def test_a_frozen_network_with_a_convolution_for_a_head_trains(folder, tmp_path):
    options = {**SHORT, "data": str(folder), "freeze": "base", "output": str(tmp_path / "run")}
    result = ab.train("timm/resnetv2_18", **options)
    torch.manual_seed(0)
    fresh = engine.build_network(result.config).state_dict()
    final = load_file(tmp_path / "run" / "model.safetensors")
    changed = {n for n in final if not torch.equal(final[n], fresh[n])}
    assert {n for n in changed if ".recalibrate." not in n} == {"head.fc.weight", "head.fc.bias"}


# accumulate


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"batch_size": 4, "accumulate": 4}, False),
        ({"batch_size": 8, "accumulate": 3}, False),
        ({"batch_size": 8, "accumulate": 4}, True),
        ({"batch_size": 4, "accumulate": 1}, True),
    ],
)
def test_each_part_of_a_batch_has_two_images(given, fits):
    if fits:
        resolve("resnet8", **given)
        return
    size = given["batch_size"]
    with pytest.raises(ValueError, match=f"accumulate=.*divisor of batch_size={size}.*{size // 2}"):
        resolve("resnet8", **given)


def test_each_part_of_each_process_has_two_images(folder, monkeypatch):
    config = resolve("resnet8", data=str(folder), **SHORT).change({"accumulate": 4})
    data = engine.open_data_anew(config)
    config = engine.fill_in(config, data)
    from accuracy_booster.training.trainer import Trainer

    real = engine.make_accelerator

    class Two:
        """The accelerator of the first of two processes."""

        def __init__(self, own):
            self.own = own

        process_index, num_processes = 0, 2

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(engine, "make_accelerator", lambda config: Two(real(config)))
    with pytest.raises(ValueError, match=r"batch_size=8 must be .* 2 processes .*at least 16"):
        Trainer(Classification(config, data))


def test_a_batch_larger_than_the_data_is_the_data_in_one_part(folder, tmp_path):
    options = {**SHORT, "batch_size": 64, "accumulate": 4, "output": str(tmp_path / "run")}
    result = ab.train("resnet8", data=str(folder), **options)
    assert (result.config.batch_size, result.config.accumulate) == (24, 1)


def test_an_image_left_over_is_no_batch_of_one(folder, tmp_path):
    """24 images in batches of 23: batch norms would refuse, or learn from, a batch of one."""
    options = {**SHORT, "batch_size": 23, "output": str(tmp_path / "run")}
    assert math.isfinite(ab.train("resnet8", data=str(folder), **options).history[0]["train_loss"])


# start: trained weights stay what they are


@pytest.fixture
def trained(tmp_path):
    """A ResNet-8 of 3 classes with weights of its own, and a file of them."""
    model = randomise(ab.create_model("resnet8", num_classes=3))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model, tmp_path / "own.pth"


class Begun(Exception):
    """The training is about to take its first step."""


def begun(folder, tmp_path, monkeypatch, model="resnet8", **options):
    """The configuration of a run and its network as the first step sees it."""
    from accuracy_booster.training import train_and_resume

    found = {}

    def fit(trainer, run, *args, **kwargs):
        found["network"], found["config"] = trainer.plain, trainer.config
        raise Begun

    given = {**SHORT, "data": str(folder), "output": str(tmp_path / "run"), "overwrite": True}
    with monkeypatch.context() as patch:
        patch.setattr(train_and_resume.Trainer, "fit", fit)
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
    init, block, becomes, same, trained, folder, tmp_path, monkeypatch, capfd
):
    options = {"weights": str(trained[1]), "init": init, "block": block}
    config, network = begun(folder, tmp_path, monkeypatch, **options)
    assert config.init == becomes
    assert torch.equal(logits_of(network), logits_of(trained[0])) == same
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
    options = {**SHORT, "lr": 0.01, "data": str(folder)}
    for init in ("identity", "paper"):
        ab.train("resnet8", init=init, output=first, overwrite=True, **options)
        expected = logits_of(engine.load_network(*Run.open(tmp_path / "first")))
        for weights in (first, f"{first}/model.safetensors"):
            config, network = begun(folder, tmp_path, monkeypatch, weights=weights)
            assert config.init == init
            assert torch.equal(logits_of(network), expected)
    with pytest.raises(ValueError, match=r"init='identity', but .* init='paper'.*leave init out"):
        ab.train("resnet8", weights=first, init="identity", output=str(tmp_path / "x"), **options)


def test_a_run_of_weights_keeps_their_mean_and_std(trained, folder, tmp_path, monkeypatch):
    first = str(tmp_path / "first")
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    ab.train("resnet8", output=first, data=str(folder), **SHORT, **given)
    config, _ = begun(folder, tmp_path, monkeypatch, weights=first)
    assert (config.mean, config.std) == (given["mean"], given["std"])
    config, _ = begun(folder, tmp_path, monkeypatch, weights=first, mean=(0.7,) * 3)
    assert (config.mean, config.std) == ((0.7,) * 3, given["std"])


def test_what_ab_save_wrote_is_a_start(trained, folder, tmp_path, monkeypatch):
    boosted = ab.boost(trained[0], "ab", init="identity", example=torch.zeros(1, 3, 32, 32))
    for name, parameter in boosted.named_parameters():
        if ".recalibrate." in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    ab.save(boosted, tmp_path / "full", full=True)
    config, network = begun(folder, tmp_path, monkeypatch, weights=str(tmp_path / "full"))
    assert config.init == "identity"
    assert torch.equal(logits_of(network), logits_of(boosted))


# files of weights


def other_prefixes(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


FILES = {
    "plain": dict,
    "nested": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 1}},
    "nested twice": lambda state: {"model": {"state_dict": state}},
    "options of argparse": lambda s: {"args": argparse.Namespace(lr=1), "state_dict": s},
    "a number of NumPy": lambda s: {"best": np.float64(91.7), "acc": np.float32(1), "model": s},
    "ddp": other_prefixes("module."),
    "compiled ddp": other_prefixes("module._orig_mod."),
    "compiled parts": lambda s: {n.replace("layer1.0.", "layer1.0._orig_mod."): s[n] for n in s},
    "lightning": lambda s: {"state_dict": other_prefixes("model.")(s) | {"loss.w": torch.ones(2)}},
    "backbone": lambda s: other_prefixes("backbone.")(s) | {"neck.weight": torch.ones(2)},
    "head's other name": lambda s: {n.replace("fc.", "linear."): t for n, t in s.items()},
    "no counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
    "half": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_weights_gives_its_network(kind, trained, tmp_path):
    state = FILES[kind](trained[0].state_dict())
    torch.save(state, tmp_path / "file.pth")
    model = ab.create_model("resnet8", num_classes=3)
    loaded = load_weights(model, read_weights(tmp_path / "file.pth"), "file.pth")
    expected = logits_of(trained[0])
    if kind == "half":
        torch.testing.assert_close(logits_of(model), expected, rtol=0.02, atol=0.02)
    else:
        assert torch.equal(logits_of(model), expected)
    assert loaded.new == []
    assert loaded.unused == (kind in ("lightning", "backbone"))


def test_a_safetensors_file_and_the_old_format(trained, tmp_path):
    state = trained[0].state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth"):
        model = ab.create_model("resnet8", num_classes=3)
        load_weights(model, read_weights(tmp_path / name), name)
        assert torch.equal(logits_of(model), logits_of(trained[0]))


def test_a_head_for_other_classes_starts_anew(trained, folder, tmp_path, monkeypatch, capfd):
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
        folder, tmp_path, monkeypatch, weights=str(trained[1]), freeze="base"
    )  # its head fits as it is
    assert not network.fc.weight.requires_grad


@pytest.mark.parametrize(("names", "trains"), [("abc", False), ("xyz", True)])
def test_a_head_for_classes_of_other_names_is_trained(
    names, trains, folder, make_folder, tmp_path, monkeypatch
):
    first = str(tmp_path / "first")
    ab.train("resnet8", output=first, data=str(folder), **SHORT)
    splits = {f"{split}/{name}": 8 for split in ("train", "test") for name in names}
    data = make_folder(splits, size=(32, 32), name="others")
    _, network = begun(data, tmp_path, monkeypatch, weights=first, freeze="base")
    assert network.fc.weight.requires_grad == trains


class Code:
    def __reduce__(self):
        return os.mkdir, ("the code has run",)


def broken(tmp_path, trained):
    """Files that give no weights, and what is told."""
    state = trained[0].state_dict()
    whole = tmp_path / "whole.pth"
    torch.save(trained[0], whole)
    torch.save({"state_dict": state, "x": Code()}, tmp_path / "code.pth")
    torch.save(state, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights here")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" * 40)
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    return {
        "none.pth": "there is no such file",
        "whole.pth": r"holds more than tensors \(.*ResNetCifar\).*save model.state_dict",
        "code.pth": r"holds more than tensors \(.*mkdir",
        "cut.pth": "cannot be read: ",
        "empty.pth": "cannot be read: it is empty or cut off",
        "text.pth": "cannot be read: it is no file of torch.save",
        "bad.safetensors": "cannot be read: ",
        "list.pth": "holds no tensors by name, but list",
        "folder": "the directory holds no model.safetensors",
    }


def test_files_that_are_no_weights_are_told_and_run_no_code(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, told in broken(tmp_path, trained).items():
        with pytest.raises(ValueError, match=told) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "the code has run").exists()


def test_weights_of_another_network_are_told(trained, tmp_path, folder):
    state = trained[0].state_dict()
    boosted = ab.create_model("resnet8", block="ab", num_classes=3)
    cases = [
        ("resnet8", {n: t for n, t in state.items() if n != "conv1.weight"}, "1 are missing"),
        ("resnet8", state | {"more.weight": torch.ones(1)}, "1 fit nothing .*'more.weight'"),
        ("resnet8", state | {"conv1.weight": torch.ones(4, 3, 3, 3)}, r"other shapes.*\[4, 3, 3"),
        ("resnet8", boosted.state_dict(), "holds gates, .*give the block"),
        ("resnet14", state, "are missing"),
    ]
    for name, given, told in cases:
        model = ab.create_model(name, num_classes=3)
        with pytest.raises(ValueError, match=told):
            load_weights(model, given, "file.pth")
    part = {n: t for n, t in boosted.state_dict().items() if "layer2.0.bn2.rec" not in n}
    with pytest.raises(ValueError, match=r"are missing .*layer2.0.bn2.recalibrate"):
        load_weights(boosted, part, "file.pth")
    with pytest.raises(ValueError, match=r"do not fit|other shapes|holds gates"):  # no run is left
        ab.train("resnet14", data=str(folder), weights=str(trained[1]), output=str(tmp_path / "r"))
    assert not (tmp_path / "r" / "config.yaml").exists()


def test_one_start_or_the_other(trained, tmp_path, folder):
    with pytest.raises(ValueError, match=r"weights=.*without pretrained"):
        ab.train("resnet18", pretrained=True, weights=str(trained[1]))
    with pytest.raises(ValueError, match="leave out weights"):
        ab.train(resume=tmp_path / "run", weights=str(trained[1]))


def test_a_run_does_not_need_its_file_of_weights_once_it_has_begun(trained, folder, tmp_path):
    options = {**SHORT, "data": str(folder), "weights": str(trained[1]), "freeze": "base"}
    ab.train("resnet8", output=str(tmp_path / "run"), **options)
    trained[1].unlink()
    result = ab.train(resume=tmp_path / "run", epochs=2)
    assert [row["epoch"] for row in result.history] == [1, 2]


def test_compare_starts_all_blocks_from_the_weights(trained, folder, tmp_path):
    options = {**SHORT, "data": str(folder), "weights": str(trained[1]), "lr": 1e-9}
    result = ab.compare(
        "resnet8", blocks=["none", "ab"], seeds=1, output=str(tmp_path / "out"), **options
    )
    assert [run.config.init for run in result.runs] == ["paper", "identity"]
    final = load_file(tmp_path / "out" / "ab-s0" / "model.safetensors")
    for name, parameter in trained[0].named_parameters():
        torch.testing.assert_close(final[name], parameter, rtol=1e-4, atol=1e-6)
    wrong = {**options, "weights": str(tmp_path / "w.pth")}
    torch.save(ab.create_model("resnet14").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="do not fit"):
        ab.compare("resnet8", blocks=["none", "ab"], seeds=1, output=str(tmp_path / "no"), **wrong)
    assert not (tmp_path / "no").exists()


def test_a_public_checkpoint_of_cifar10(shared):
    from accuracy_booster.models import from_akamaster

    file = shared / "weights" / "resnet20_cifar10.th"
    if not file.is_file():
        pytest.skip(f"needs {file.name} of akamaster/pytorch_resnet_cifar10")
    config = resolve("resnet20", data="cifar10", weights=str(file))
    model, expected = ab.create_model("resnet20"), ab.create_model("resnet20")
    line = start.start_from_weights(model, config)
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    expected.load_state_dict(from_akamaster(checkpoint["state_dict"]))
    assert torch.equal(logits_of(model), logits_of(expected))
    assert "new head" not in line
    assert "not of this network" not in line
