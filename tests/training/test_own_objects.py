"""Trainings with a network and data that are given as objects, and what is done with their runs."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support.boosting import EXAMPLE, SITES, ResidualNet, net
from support.commands import assert_refused
from support.commands import run as command
from support.trainings import SMALL, end_state, stored, weights
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

import accuracy_booster as ab
from accuracy_booster.training import network_files
from accuracy_booster.training.run_directory import Run

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {**SMALL, "epochs": 1, "compile": "off", "workers": 0, "preset": "cifar_resnet"}


class Colours(Dataset):
    """Images of 16x16 of three colours with noise."""

    classes = ("dark", "grey", "light")

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.targets = [i % 3 for i in range(count)]
        noise = torch.randint(0, 60, (count, 3, 16, 16), generator=generator)
        self.images = (noise + 80 * torch.tensor(self.targets)[:, None, None, None]).byte()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


TRAIN, TEST = Colours(24), Colours(12, seed=1)


def train(model, output, **more):
    return ab.train(model, **{"data": (TRAIN, TEST), **OPTIONS, "output": str(output), **more})


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return net(classes=4)


@pytest.fixture(scope="module")
def own_run(module, tmp_path_factory):
    """A finished run of a module on data sets; no test may change it."""
    return train(module, tmp_path_factory.mktemp("own") / "run").output


def test_a_module_is_trained_from_its_own_weights_and_stays_as_it_was(module, tmp_path, capsys):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = train(module, tmp_path / "run", lr=1e-12)
    after = weights(result.output)
    base = {n for n in before if not n.startswith("head") and "running" not in n}
    base = {n for n in base if not n.endswith("num_batches_tracked")}
    assert base
    for name in base:
        torch.testing.assert_close(after[name], before[name])
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert not [n for n in module.state_dict() if "recalibrate" in n]
    assert after["head.weight"].shape == (3, 32)
    told = capsys.readouterr().err
    assert "a new head for 3 classes (head): the network's own has 4" in told
    assert "init=identity" in told
    assert (stored(result.output)["model"], stored(result.output)["data"]) == (
        *("own/ResidualNet", "dataset/Colours"),
    )


def test_its_report_and_the_advice_take_its_weights_as_trained(module, tmp_path):
    tried = train(module, tmp_path / "run", lr=0.1, dry_run=True)
    assert any("lr=0.1 is large for trained weights" in line for line in tried.advice)
    page = (train(module, tmp_path / "run").output / "report.html").read_text()
    assert "the weights of the module given" in page
    assert "random weights" not in page


def test_a_factory_starts_fresh(tmp_path):
    result = train(lambda num_classes: ResidualNet(classes=num_classes), tmp_path / "run")
    assert result.config.init == "paper"
    assert ab.load_run(result.output, model=ResidualNet).classes == Colours.classes


def test_it_is_measured_and_loaded_with_the_network_alone(own_run, module):
    result = Run.open(own_run)[0].info["test"]
    assert ab.evaluate(own_run, TEST, model=module).to_dict() == result
    assert ab.evaluate(own_run, (TRAIN, TEST), model=net(classes=4)).to_dict() == result
    loaded = ab.load_run(own_run, model=module)
    assert ab.evaluate(loaded, TEST, eval_batch_size=5).top1 == result["top1"]
    assert ab.inspect(own_run, TEST, model=module, percents=()).top1 == result["top1"]
    assert loaded.classes == Colours.classes


def test_without_them_the_error_says_what_to_give(own_run, capsys):
    for use in (ab.evaluate, ab.load_run, ab.inspect):
        with pytest.raises(ValueError, match=r"of your own code \(own/ResidualNet\).*model=\.\.\."):
            use(own_run)
    with pytest.raises(ValueError, match=r"given as objects \(dataset/Colours\)"):
        ab.evaluate(own_run, model=ResidualNet)
    with pytest.raises(ValueError, match=r"of your own code"):
        ab.train(resume=own_run, epochs=2)
    assert_refused(capsys, ["eval", own_run], ["of your own code", "--model package.module"])


def plain():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, 3)),
    )


@pytest.mark.parametrize(
    "other",
    [lambda: ResidualNet(width=8), lambda: timm.create_model("test_resnet"), plain],
    ids=["other width", "other network", "without residual branches"],
)
def test_another_network_is_refused(own_run, other):
    with pytest.raises(ValueError, match=r"is not the one of the run in .*other names or shapes"):
        ab.load_run(own_run, model=other)


def test_a_resumed_run_is_the_uninterrupted_one(module, tmp_path):
    first = train(module, tmp_path / "first", epochs=2, lr=0.05)
    again = train(module, tmp_path / "again", epochs=1, lr=0.05)
    ab.train(module, resume=again.output, epochs=2, data=(TRAIN, TEST))
    one, other = end_state(first.output), end_state(again.output)
    assert all(torch.equal(one[0][name], other[0][name]) for name in weights(first.output))


def test_other_data_are_refused_when_a_run_is_resumed(own_run, module):
    for data, told in (
        ((Colours(27), TEST), "the train split has 27 images and had 24"),
        ((Subset(TRAIN, list(range(23, -1, -1))), TEST), "other labels in its 24 images"),
    ):
        with pytest.raises(ValueError, match=told):
            ab.train(module, resume=own_run, epochs=2, data=data)
    with pytest.raises(ValueError, match=r"given as objects.*give them again"):
        ab.train(module, resume=own_run, epochs=2)


def test_the_held_out_share_is_measured_and_not_the_training_images(tmp_path):
    data = Colours(40)
    result = train(ResidualNet, tmp_path / "run", data=data, validation=0.25)
    assert result.test.images == 10
    assert ab.evaluate(result.output, data, model=ResidualNet).images == 10
    assert ab.evaluate(result.output, Colours(15), model=ResidualNet).images == 15


def test_gates_that_a_module_has_stay(module, tmp_path, capsys):
    gated = ab.boost(net(classes=3), "se", example=EXAMPLE, init="identity")
    result = train(gated, tmp_path / "run", block="ab")
    assert (result.config.block, result.config.init) == ("se", "identity")
    assert "own 2 gates of se stay, and block=ab adds none" in capsys.readouterr().err
    x = torch.randn(2, 3, 16, 16)
    loaded = ab.load_run(result.output, model=gated)(x)
    base = net(classes=3)
    assert torch.equal(ab.load_run(result.output, model=base)(x), loaded)
    with pytest.raises(ValueError, match=r"has gates of .*, and the run has block='se'"):
        ab.load_run(result.output, model=ab.boost(net(classes=3), "se", example=EXAMPLE))
    with pytest.raises(ValueError, match="the network has gates already, and a comparison"):
        ab.compare(gated, data=(TRAIN, TEST), output=str(tmp_path / "c"), **OPTIONS)


def test_a_comparison_of_a_module(module, tmp_path):
    options = {**OPTIONS, "data": (TRAIN, TEST), "output": str(tmp_path / "c")}
    found = ab.compare(module, blocks=["ab"], seeds=1, **options)
    assert [row.block for row in found.rows] == ["ab"]
    again = ab.compare(module, resume=tmp_path / "c", data=(TRAIN, TEST))
    assert [run.id for run in again.runs] == [run.id for run in found.runs]
    with pytest.raises(ValueError, match="of your own code"):
        ab.compare(resume=tmp_path / "c", data=(TRAIN, TEST))
    with pytest.raises(ValueError, match="given as objects"):
        ab.compare(module, resume=tmp_path / "c")


def test_weights_of_a_file_go_into_a_factorys_network(module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "own.pth")
    result = train(ResidualNet, tmp_path / "run", weights=str(tmp_path / "own.pth"), lr=1e-12)
    torch.testing.assert_close(weights(result.output)["stem.weight"], module.stem.weight.detach())
    assert result.config.init == "identity"


@pytest.mark.filterwarnings("error:.*branches end in a norm whose weight is zero")
def test_norms_that_a_files_weights_replace_are_not_warned_of(tmp_path):
    network = net(classes=3)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    for site in SITES:
        nn.init.zeros_(network.get_submodule(site).weight)
    with pytest.warns(UserWarning, match="branches end in a norm whose weight is zero"):
        ab.boost(copy.deepcopy(network), "ab", example=EXAMPLE, init="identity")
    result = train(network, tmp_path / "run", weights=str(tmp_path / "own.pth"))
    images = [image for image, _ in (TEST[0], TEST[1])]
    loaded = ab.load_run(result, model=network)  # what a training returns stands for its run
    assert loaded.classes == Colours.classes
    found = [one.classes for one in ab.predict(result, images, model=network)]
    assert found == [one.classes for one in ab.predict(loaded, images)]
    assert ab.evaluate(result, model=network, data=(TRAIN, TEST)) == result.test


def test_import_paths_on_the_command_line(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "nets_of_a_user.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1),"
        " nn.Flatten(), nn.Linear(4, num_classes))\n"
        "        nn.init.constant_(self[-1].weight, 0)\n"
        "        self[-1].bias.data[0] = 9\n"
    )
    monkeypatch.chdir(tmp_path)
    place, model = tmp_path / "run", "nets_of_a_user.py:Net"
    words = [
        "--data",
        folder,
        "--epochs=1",
        "--batch_size=8",
        "--compile=off",
        "--workers=0",
        "--lr=1e-9",
    ]
    code, out, err = command(
        capsys, "train", "--model", model, "--block=none", *words, "--output", place
    )
    assert code == 0, err
    assert "every image was taken for " in err
    assert stored(place)["model"] == model
    assert_refused(capsys, ["eval", place], [f"--model {model}"])
    code, out, err = command(capsys, "eval", place, "--model", model)
    assert code == 0, err
    assert "every image was taken for " in out
    assert command(capsys, "train", "--resume", place, "--model", model, "--epochs=2")[0] == 0
    assert_refused(
        capsys,
        ["train", "--config", place / "config.yaml", "--output", tmp_path / "other"],
        ["code is never imported merely because a file names it", f"give --model {model} too"],
    )


class Two(nn.Linear):
    """A network that needs a second input."""

    def forward(self, x, y):
        return x + y


def test_settings_that_do_not_fit_an_own_network(tmp_path):
    for model, more, told in (
        (net(), {"pretrained": True}, "pretrained=True is for a network's name"),
        (Two(3, 3), {"block": "none"}, "cannot take images .*TypeError"),
        (
            net(),
            {"data": TensorDataset(TRAIN.images, torch.tensor(TRAIN.targets))},
            "no test split",
        ),
        (net(), {"data": (Subset(TRAIN, range(0, 24, 3)), TEST)}, "two: give images of a second"),
    ):
        with pytest.raises(ValueError, match=told):
            train(model, tmp_path / "run", **more)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_network_that_must_be_given_is_not_imported_for_loading(own_run):
    opened, config = Run.open(own_run)
    with pytest.raises(ValueError, match="code is never imported merely because"):
        network_files.load_network(opened, config.change({"model": "os:system"}))
